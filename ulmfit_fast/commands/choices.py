"""What a run does where the user left it open, with the reason for each choice."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ulmfit_fast import pretrained
from ulmfit_fast.commands.terminal import count
from ulmfit_fast.training.config import StageConfig, StageName, TrainConfig
from ulmfit_fast.training.defaults import (
    FEW_WORDS,
    count_words,
    default_recipe,
    default_size,
    n_steps_with,
    with_stage_length,
)
from ulmfit_fast.training.device import check_cuda_graphs, choose_device
from ulmfit_fast.training.precision import Precision, PrecisionName, choose_precision

__all__ = [
    "Base",
    "Choices",
    "Settings",
    "check_settings",
    "choose",
    "count_words",
    "describe_stage",
]


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
        batch_size: rows of a batch in every stage, in each process.
        lm_lr: largest learning rate of the language model on the target texts.
        lr: largest learning rate of the classifier.
        precision: "auto", "bf16" or "fp32".
        cuda_graphs: whether language models train by replaying CUDA graphs.
        processes: that train together, when the run begins.
    """

    preset: str | None = None
    size: str | None = None
    tokenizer: str | None = None
    device: str | None = None
    seed: int = 0
    general_epochs: int | None = None
    lm_epochs: int | None = None
    epochs: int | None = None
    batch_size: int | None = None
    lm_lr: float | None = None
    lr: float | None = None
    precision: PrecisionName | None = None
    cuda_graphs: bool = False
    processes: int = 1


@dataclass(frozen=True)
class Base:
    """A language model to start from.

    Attributes:
        folder: where it is.
        size: its size.
        tokenizer: its kind of tokenizer.
    """

    folder: Path
    size: str
    tokenizer: str

    @property
    def name(self) -> str:
        """What to call it."""
        return pretrained.name_of(self.folder)


@dataclass(frozen=True)
class Choices:
    """What a run does.

    Attributes:
        config: settings of all stages.
        size: of the model.
        tokenizer: its kind.
        device: "cpu" or "cuda", with an index perhaps.
        precision: what the models compute in, with the reason.
        cuda_graphs: as in Settings.
        why_recipe: reason, for the user.
        why_size: reason, for the user.
        why_device: reason, for the user.
        processes: as in Settings.
    """

    config: TrainConfig
    size: str
    tokenizer: str
    device: str
    precision: Precision
    cuda_graphs: bool
    why_recipe: str
    why_size: str
    why_device: str
    processes: int = 1


def check_settings(settings: Settings) -> None:
    """Refuse, before anything is read, what no classifier can be trained with.

    Raises:
        InputError: the batch size is too small, or there is no such device, or one without the
            precision or the graphs asked for.
    """
    if settings.batch_size is not None:
        TrainConfig.preset().with_stage("classifier", batch_size=settings.batch_size)
    _device(settings)


def _device(settings: Settings) -> tuple[str, Precision]:
    """Return the device and what to compute in there, checked."""
    device = torch.device(choose_device(settings.device))
    if settings.cuda_graphs:
        check_cuda_graphs(device)
    return str(device), choose_precision(settings.precision or "auto", device)


def choose(
    settings: Settings,
    n_words: dict[StageName, int],
    n_rows: int,
    lm: StageName,
    base: Base | None = None,
) -> Choices:
    """Fill in what the user left open.

    Args:
        settings: what the user decided.
        n_words: words of the texts of each language-model stage.
        n_rows: labelled training rows; 0 if no classifier is trained.
        lm: the stage that trains the language model on the target texts.
        base: language model to start from; None starts from scratch.

    Raises:
        InputError: a number of epochs or rows that is too small, or a device as for check_settings.
    """
    config, why_recipe = _recipe(settings, base, has_classifier=n_rows > 0)
    for stage, words in n_words.items():
        epochs = settings.lm_epochs if stage == lm else settings.general_epochs
        n_units = n_steps_with(config, words) // settings.processes
        config = with_stage_length(config, stage, epochs, settings.batch_size, n_units)
    if n_rows:
        config = with_stage_length(
            config, "classifier", settings.epochs, settings.batch_size,
            n_rows // settings.processes,
        )  # fmt: skip
    for trained, lr in ((lm, settings.lm_lr), ("classifier" if n_rows else lm, settings.lr)):
        if lr is not None:
            config = config.with_stage(trained, lr=lr)
    device, precision = _device(settings)
    config = replace(config, precision=settings.precision or "auto")
    why_device = "--device" if settings.device else ("found" if device != "cpu" else _why_cpu())
    if base is not None:
        size, why_size, tokenizer = base.size, f"as in {base.name}", base.tokenizer
    else:
        size, why_size = _size(settings.size, device, sum(n_words.values()))
        tokenizer = settings.tokenizer or "word"
    return Choices(
        config, size, tokenizer, device, precision, settings.cuda_graphs, why_recipe, why_size,
        why_device, settings.processes,
    )  # fmt: skip


def _recipe(
    settings: Settings, base: Base | None, *, has_classifier: bool
) -> tuple[TrainConfig, str]:
    """Return the recipe's settings and why it was taken."""
    if settings.preset is not None:
        return TrainConfig.preset(settings.preset, seed=settings.seed), "--preset"
    if base is None and not has_classifier:
        return default_recipe(settings.seed, keeps_knowledge=True), "for pretraining"
    if base is not None:
        size = base.size if has_classifier else None
        config = default_recipe(settings.seed, keeps_knowledge=True, base_size=size)
        why = "keeps what a pretrained model knows"
        if config.recipe == "paper":
            why += "; for a small one fastai's last rates are too small"
        return config, why
    return default_recipe(settings.seed, keeps_knowledge=False), (
        "without a pretrained model the classifier has much to learn, and fastai's last rates are "
        "too small for that; fewer epochs than published"
    )


def _size(given: str | None, device: str, n_words: int) -> tuple[str, str]:
    """Return the size of a new model and why it was taken."""
    if given is not None:
        return given, "--size"
    size = default_size(device, n_words)
    if device != "cpu":
        return size, f"for training on {device}"
    if n_words < FEW_WORDS:
        return size, f"for the {n_words:,} words there are: fewer than {FEW_WORDS:,}"
    return size, f"for {n_words:,} words on {device}"


def _why_cpu() -> str:
    if torch.version.cuda is None:
        return "this torch has no CUDA"
    return "torch sees no GPU"


def describe_stage(config: TrainConfig, stage: StageName, n: int, processes: int = 1) -> str:
    """Say how long a stage trains: epochs, about how many steps, and their size.

    Args:
        config: chosen settings.
        stage: the stage.
        n: words of its texts; for the classifier, texts.
        processes: that share out each batch.
    """
    settings: StageConfig = getattr(config, stage)
    n_rows = settings.batch_size * processes
    if stage == "classifier":
        n_steps, unit, size = n // n_rows, "texts", f"{n_rows} texts"
    else:
        size = f"{n_rows} x {config.bptt} tokens"
        n_steps, unit = n_steps_with(config, n) // n_rows, "words"
    n_steps = max(1, n_steps) * settings.epochs
    epochs, steps = count(settings.epochs, "epoch"), count(n_steps, "step")
    return f"{epochs} over {n:,} {unit}, about {steps} of {size}"
