"""The sizes in which a new language model is made."""

from __future__ import annotations

from dataclasses import dataclass

from ulmfit_fast.errors import InputError
from ulmfit_fast.model import AWDLSTMConfig, Dropouts, LanguageModel
from ulmfit_fast.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class ModelSize:
    """Sizes of a new model.

    Attributes:
        embed_size: width of the embedding and of the last layer.
        hidden_size: units of the other layers.
        n_layers: LSTM layers.
        drop_mult: factor of every dropout; a smaller model has less to forget.
    """

    embed_size: int
    hidden_size: int
    n_layers: int
    drop_mult: float


# base is fastai's AWD_LSTM.
SIZES = {
    "tiny": ModelSize(100, 256, 2, 0.5),
    "small": ModelSize(200, 512, 3, 0.7),
    "base": ModelSize(400, 1152, 3, 1.0),
}


def model_size(name: str) -> ModelSize:
    """Look a size up.

    Raises:
        InputError: no such size.
    """
    if name not in SIZES:
        raise InputError(f"no size {name!r}: choose one of {', '.join(SIZES)}")
    return SIZES[name]


def new_language_model(size: ModelSize, tokenizer: Tokenizer, dropouts: Dropouts) -> LanguageModel:
    """Make a language model with random weights for a tokenizer's vocabulary, on the CPU."""
    config = AWDLSTMConfig(
        len(tokenizer.vocab),
        size.embed_size,
        size.hidden_size,
        size.n_layers,
        tokenizer.pad_id,
        dropouts,
    )
    return LanguageModel(config)
