"""What a training does where nobody decided: recipe, size, epochs and batches for so much text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ulmfit_fast.text import Texts, TextStream
from ulmfit_fast.text.rules import SPECIALS
from ulmfit_fast.text.tokenizer import Tokenizer
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
# A small pretrained model needs fewer steps for the texts, and full rates for the classifier too.
# TREC-6, 10 % held out, seed 0, english (2026-11-25): 8.1 % error with "paper", 2 epochs of the
# language model and 12 of the classifier; 15.9 % with "fastai", 2 and 5; from scratch 11.9 %.
SMALL_BASE_EPOCHS: dict[StageName, int] = {"language_model": 2, "classifier": 12}
# On less text than this the smallest model is the best: TREC-6 7.6 % with "tiny", 10.6 % "small".
FEW_WORDS = 200_000

# Tokens that the package's English tokenizer makes of a word between spaces, marks of the rules
# aside (2026-11-25): TREC questions 1.30, AG News 1.45, IMDb 1.33, docstrings 1.62, messages of
# programs 1.79 to 2.03. Sentences in other languages: Italian 2.16, French 2.33, Spanish 2.36,
# German 2.97, Czech 3.19; messages in Russian 6.9; logs 3.5, hexadecimal numbers 3.6, Python 2.9.
MOST_TOKENS_A_WORD = 2.0
# Share of unknown characters: English 0.0003 at most, 0.046 in WikiText-2, which spells <unk>. In
# scripts that are unknown altogether a word is few tokens, and 0.3 of them and more are unknown.
MOST_UNKNOWN = 0.1
SAMPLED_TEXTS, SAMPLED_CHARACTERS = 1_000, 1_000  # of all texts, and of each of them


@dataclass(frozen=True)
class TokenFigures:
    """How a tokenizer cuts texts.

    Attributes:
        a_word: tokens for each word between spaces; infinite without a word.
        unknown: share of tokens that are unknown.
    """

    a_word: float
    unknown: float


def measure_tokens(tokenizer: Tokenizer, texts: Sequence[str]) -> TokenFigures:
    """Return how a tokenizer cuts a sample of texts; the marks of its rules do not count."""
    step = max(1, len(texts) // SAMPLED_TEXTS)
    sample = [text[:SAMPLED_CHARACTERS] for text in texts[::step]]
    n_words = count_words(sample)
    if not n_words:
        return TokenFigures(math.inf, 0.0)
    ids = np.concatenate(tokenizer.encode(sample))
    n_unknown = int((ids == tokenizer.unk_id).sum())
    n_tokens = int((ids >= len(SPECIALS)).sum()) + n_unknown
    return TokenFigures(n_tokens / n_words, n_unknown / max(n_tokens, 1))


def default_recipe(
    seed: int, *, keeps_knowledge: bool, base_size: str | None = None
) -> TrainConfig:
    """Return the settings of all stages.

    Args:
        seed: of everything random.
        keeps_knowledge: whether a pretrained model is what the texts are learnt from or for; else
            the classifier has to learn from its own texts.
        base_size: of the pretrained model where there is one.
    """
    if keeps_knowledge and base_size in (None, "base"):
        return TrainConfig.preset("fastai", seed=seed)
    config = TrainConfig.preset("paper", seed=seed)
    for stage, epochs in (SMALL_BASE_EPOCHS if keeps_knowledge else DEFAULT_EPOCHS).items():
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
