"""What a run does where the user left it open, with the reason for each choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ulmfit_fast.training.config import StageConfig, StageName, TrainConfig
from ulmfit_fast.training.device import choose_device

# A stage learns by steps: the batch is the largest of these that leaves so many steps an epoch.
BATCH_SIZES = (64, 32, 16, 8)
MIN_STEPS_AN_EPOCH = 100
# A word makes about so many tokens: punctuation and marks for capitals are tokens of their own.
TOKENS_A_WORD = 1.3


@dataclass(frozen=True)
class Settings:
    """What the user may decide; None leaves it open.

    Attributes:
        preset: recipe, "paper" or "fastai".
        size: of a new model, "tiny", "small" or "base".
        tokenizer: of a new model, "word" or "subword".
        device: "cpu" or "cuda".
        seed: of everything random.
        general_epochs: epochs on the general text.
        lm_epochs: epochs of the language model on the target texts.
        epochs: epochs of the classifier.
        batch_size: rows of a batch in every stage.
    """

    preset: str = "fastai"
    size: str | None = None
    tokenizer: str = "word"
    device: str | None = None
    seed: int = 0
    general_epochs: int | None = None
    lm_epochs: int | None = None
    epochs: int | None = None
    batch_size: int | None = None


@dataclass(frozen=True)
class Choices:
    """What a run does.

    Attributes:
        config: settings of all stages.
        size: of a new model.
        tokenizer: of a new model.
        device: "cpu" or "cuda", with an index perhaps.
        why_size: reason, for the user.
        why_device: reason, for the user.
    """

    config: TrainConfig
    size: str
    tokenizer: str
    device: str
    why_size: str
    why_device: str


def choose(
    settings: Settings, n_words: dict[StageName, int], n_rows: int, lm: StageName
) -> Choices:
    """Fill in what the user left open.

    Args:
        settings: what the user decided.
        n_words: words of the texts of each language-model stage.
        n_rows: labelled training rows; 0 if no classifier is trained.
        lm: the stage that trains the language model on the target texts.

    Raises:
        InputError: a number of epochs or rows below 1, or no such device.
    """
    config = TrainConfig.preset(settings.preset, seed=settings.seed)
    for stage, words in n_words.items():
        epochs = settings.lm_epochs if stage == lm else settings.general_epochs
        n_units = n_steps_with(config, words)
        config = _with_stage(config, stage, epochs, settings.batch_size, n_units)
    if n_rows:
        config = _with_stage(config, "classifier", settings.epochs, settings.batch_size, n_rows)
    device = str(choose_device(settings.device))
    why_device = "--device" if settings.device else ("found" if device != "cpu" else _why_cpu())
    size = settings.size or ("base" if device != "cpu" else "small")
    why_size = "--size" if settings.size else f"for training on {device}"
    return Choices(config, size, settings.tokenizer, device, why_size, why_device)


def _with_stage(
    config: TrainConfig, stage: StageName, epochs: int | None, batch_size: int | None, n_units: int
) -> TrainConfig:
    """Return config with a stage's epochs and batch size.

    Args:
        config: the preset.
        stage: stage to set.
        epochs: None leaves the preset's.
        batch_size: None chooses.
        n_units: steps an epoch would have with one row a batch.
    """
    if epochs is not None:
        config = config.with_stage(stage, epochs=epochs)
    if batch_size is None:
        enough = (size for size in BATCH_SIZES if n_units // size >= MIN_STEPS_AN_EPOCH)
        batch_size = next(enough, BATCH_SIZES[-1])
    return config.with_stage(stage, batch_size=batch_size)


def _why_cpu() -> str:
    if torch.version.cuda is None:
        return "this torch has no CUDA"
    return "torch sees no GPU"


def describe_stage(config: TrainConfig, stage: StageName, n: int) -> str:
    """Say how long a stage trains: epochs, about how many steps, and their size.

    Args:
        config: chosen settings.
        stage: the stage.
        n: words of its texts; for the classifier, texts.
    """
    settings: StageConfig = getattr(config, stage)
    if stage == "classifier":
        n_steps, unit, size = n // settings.batch_size, "texts", f"{settings.batch_size} texts"
    else:
        size = f"{settings.batch_size} x {config.bptt} tokens"
        n_steps, unit = n_steps_with(config, n) // settings.batch_size, "words"
    n_steps = max(1, n_steps) * settings.epochs
    return f"{settings.epochs} epochs over {n:,} {unit}, about {n_steps:,} steps of {size}"


def n_steps_with(config: TrainConfig, n_words: int) -> int:
    """Estimate the steps of a language-model epoch with one row a batch."""
    return int(n_words * TOKENS_A_WORD) // config.bptt


def count_words(texts: Sequence[str]) -> int:
    """Count words between spaces."""
    return sum(len(text.split()) for text in texts)
