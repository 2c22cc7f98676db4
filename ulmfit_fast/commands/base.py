"""Which language model a training starts from: the one asked for, the package's own, or none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ulmfit_fast import pretrained
from ulmfit_fast.commands.choices import Base, Settings
from ulmfit_fast.commands.run_folder import find_model
from ulmfit_fast.errors import InputError
from ulmfit_fast.text.tokenizer import load_tokenizer
from ulmfit_fast.training.defaults import MOST_TOKENS_A_WORD, MOST_UNKNOWN, measure_tokens
from ulmfit_fast.training.trainer import ULMFiTTrainer

#: In place of a folder: from scratch. A folder of this name goes first.
SCRATCH = Path("none")


class BaseChoice(NamedTuple):
    """What to start from; base None is from scratch, and why is for the user."""

    base: Base | None
    why: str


def given_base(given: Path | None, settings: Settings, general: str | None) -> BaseChoice | None:
    """Return what the user decided to start from; None leaves it open.

    Args:
        given: of --base.
        settings: a size or a tokenizer there is one of a new model.
        general: file of text to pretrain on.

    Raises:
        InputError: options exclude each other, or no language model is there.
    """
    if given == SCRATCH and not given.exists():
        return BaseChoice(None, "--base none")
    if given is not None and general is not None:
        raise InputError(
            "--base and --general exclude each other: give a pretrained model, or the text to "
            "pretrain one on"
        )
    if given is not None:
        check_size(settings, "--base", given)
        return BaseChoice(check_base(given), "--base")
    values = {"--general": general, "--size": settings.size, "--tokenizer": settings.tokenizer}
    option = next((name for name, value in values.items() if value is not None), None)
    return BaseChoice(None, f"{option} is of a new model") if option else None


def default_base(texts: Sequence[str]) -> BaseChoice:
    """Return the package's own model if the texts are of its language, else none.

    Args:
        texts: to train on.
    """
    name = pretrained.DEFAULT
    if name not in pretrained.names():
        return BaseChoice(None, "this installation has no pretrained model; give one with --base")
    folder = pretrained.folder(name)
    found = measure_tokens(load_tokenizer(folder / "tokenizer.json"), texts)
    title = name.capitalize()
    if found.a_word > MOST_TOKENS_A_WORD:
        return BaseChoice(
            None, f"your texts do not look {title}: {found.a_word:.1f} tokens a word for the "
            f"model {name}, and {title} text has fewer than {MOST_TOKENS_A_WORD:.1f}; take it all "
            f"the same: --base {name}",
        )  # fmt: skip
    if found.unknown > MOST_UNKNOWN:
        return BaseChoice(
            None, f"your texts do not look {title}: the model {name} does not know "
            f"{found.unknown:.0%} of their characters; take it all the same: --base {name}",
        )  # fmt: skip
    why = (
        f"comes with ulmfit_fast, and your texts look {title}: {found.a_word:.2f} tokens a word; "
        "from scratch: --base none"
    )
    return BaseChoice(check_base(folder), why)


def check_base(path: Path, option: str = "--base", name: object = None) -> Base:
    """Read a language model once, to refuse it before any work is done.

    Args:
        path: its folder, or the run's around it, or the name of a model of the package.
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


def check_size(settings: Settings, option: str, model: object) -> None:
    """Refuse a size or a tokenizer beside a model, which has its own."""
    if settings.size or settings.tokenizer:
        given = "--size" if settings.size else "--tokenizer"
        raise InputError(
            f"{option} and {given} exclude each other: the model at {model} has its size and its "
            f"tokenizer; leave {given} out"
        )
