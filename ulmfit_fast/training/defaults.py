"""What a training does where nobody decided: recipe, size, epochs and batches for so much text."""

from __future__ import annotations

from ulmfit_fast.text import Texts, TextStream
from ulmfit_fast.training.config import StageName, TrainConfig

# A stage learns by steps: the batch is the largest of these that leaves so many steps an epoch.
BATCH_SIZES = (64, 32, 16, 8)
MIN_STEPS_AN_EPOCH = 100
# A word makes about so many tokens: punctuation and marks for capitals are tokens of their own.
TOKENS_A_WORD = 1.3
# A language model trained on these texts alone is weak: the classifier has to learn much, at full
# rates. TREC-6 (5,452 questions, size tiny): 7.6 % test error with "paper", 14.4 % with "fastai",
# whose last phase trains everything at a twentieth of the rate. These take minutes on two cores.
DEFAULT_EPOCHS: dict[StageName, int] = {"pretrain": 10, "language_model": 10, "classifier": 15}
# On less text than this the smallest model is the best: TREC-6 7.6 % with "tiny", 10.6 % "small".
FEW_WORDS = 200_000


def default_recipe(seed: int, *, keeps_knowledge: bool) -> TrainConfig:
    """Return the settings of all stages.

    Args:
        seed: of everything random.
        keeps_knowledge: whether a pretrained model is what the texts are learnt from or for; else
            the classifier has to learn from its own texts.
    """
    if keeps_knowledge:
        return TrainConfig.preset("fastai", seed=seed)
    config = TrainConfig.preset("paper", seed=seed)
    for stage, epochs in DEFAULT_EPOCHS.items():
        config = config.with_stage(stage, epochs=epochs)
    return config


def default_size(device: str, n_words: int) -> str:
    """Return the size of a new model for n_words words on a device, "cpu" or another."""
    if device != "cpu":
        return "base"
    return "tiny" if n_words < FEW_WORDS else "small"


def with_stage_length(
    config: TrainConfig, stage: StageName, epochs: int | None, batch_size: int | None, n_units: int
) -> TrainConfig:
    """Return config with a stage's epochs and batch size.

    Args:
        config: the recipe.
        stage: stage to set.
        epochs: None leaves the recipe's.
        batch_size: None chooses.
        n_units: steps an epoch would have with one row a batch.
    """
    if epochs is not None:
        config = config.with_stage(stage, epochs=epochs)
    if batch_size is None:
        enough = (size for size in BATCH_SIZES if n_units // size >= MIN_STEPS_AN_EPOCH)
        batch_size = next(enough, BATCH_SIZES[-1])
    return config.with_stage(stage, batch_size=batch_size)


def n_steps_with(config: TrainConfig, n_words: int) -> int:
    """Estimate the steps of a config's language-model epoch on n_words, with one row a batch."""
    return int(n_words * TOKENS_A_WORD) // config.bptt


def count_words(texts: Texts) -> int:
    """Count words between spaces."""
    if isinstance(texts, TextStream):
        return texts.n_words
    return sum(len(text.split()) for text in texts)
