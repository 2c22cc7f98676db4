"""The language model that a run starts from."""

from __future__ import annotations

from pathlib import Path

from ulmfit_fast.commands.choices import Base, Settings
from ulmfit_fast.commands.run_folder import find_model
from ulmfit_fast.errors import InputError
from ulmfit_fast.training.trainer import ULMFiTTrainer


def check_size(settings: Settings, option: str, model: object) -> None:
    """Refuse a size or a tokenizer beside a model, which has its own."""
    if settings.size or settings.tokenizer:
        given = "--size" if settings.size else "--tokenizer"
        raise InputError(
            f"{option} and {given} exclude each other: the model at {model} has its size and its "
            f"tokenizer; leave {given} out"
        )


def check_base(path: Path, option: str = "--base", name: object = None) -> Base:
    """Read a language model once, to refuse it before any work is done.

    Args:
        path: its folder, or the run's around it.
        option: that names it, for messages.
        name: what the user named, where that is not path.

    Raises:
        InputError: no language model is there, or it is damaged.
    """
    folder = find_model(path, "language_model")
    trainer = ULMFiTTrainer.load(folder, device="cpu")
    if trainer.language_model is None:
        raise InputError(
            f"{option} {name or folder}: a classifier, not a language model; give the "
            "language_model folder of a run of pretrain or train"
        )
    return Base(folder, trainer.size, trainer.tokenizer_kind)
