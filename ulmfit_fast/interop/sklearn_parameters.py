"""The parameters of the scikit-learn classifier: checked, and turned into a trainer."""

from __future__ import annotations

import math
from dataclasses import replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Protocol

from sklearn.utils import check_random_state

from ulmfit_fast.errors import InputError
from ulmfit_fast.interop.model_folder import read_folder, restore, trainer_of
from ulmfit_fast.training.config import StageName, TrainConfig
from ulmfit_fast.training.defaults import (
    count_words,
    default_recipe,
    default_size,
    n_steps_with,
    with_stage_length,
)
from ulmfit_fast.training.device import choose_device
from ulmfit_fast.training.precision import PrecisionName, check_precision_name
from ulmfit_fast.training.sizes import model_size
from ulmfit_fast.training.trainer import ULMFiTTrainer

KINDS = ("word", "subword")
LARGEST_SEED = 2**31 - 1


class Parameters(Protocol):
    """What ULMFiTClassifier documents."""

    base: str | Path | None
    size: str | None
    tokenizer: str | None
    preset: str | None
    lm_epochs: int | None
    epochs: int | None
    batch_size: int | None
    lr: float | None
    random_state: Any
    device: str | None
    precision: PrecisionName
    verbose: int


def check_parameters(given: Parameters) -> None:
    """Raise InputError for a parameter that no fit can use."""
    for name, least in (("lm_epochs", 0), ("epochs", 1), ("batch_size", 2)):
        check_count(name, getattr(given, name), least)
    lr: object = given.lr
    if lr is not None and not (is_number(lr, Real) and 0 < float(lr) < math.inf):  # type: ignore[arg-type]
        raise InputError(f"lr is {lr!r:.60}: give a learning rate above 0, or None")
    base: object = given.base
    if base is not None and not isinstance(base, str | Path):
        raise InputError(f"base is {base!r:.60}: give the path of a folder, or None")
    for name in ("size", "tokenizer"):
        if base is not None and getattr(given, name) is not None:
            raise InputError(
                f"base and {name} exclude each other: the model at {base} has its own; leave "
                f"{name} None"
            )
    for name in ("size", "tokenizer", "preset", "device", "precision"):
        value = getattr(given, name)
        if value is not None and not isinstance(value, str):
            raise InputError(f"{name} is {value!r:.60}, a {type(value).__name__}: give a text")
    if given.size is not None:
        model_size(given.size)
    if given.tokenizer is not None and given.tokenizer not in KINDS:
        raise InputError(f"no tokenizer {given.tokenizer!r}: choose one of {', '.join(KINDS)}")
    if given.preset is not None:
        TrainConfig.preset(given.preset)
    check_precision_name(given.precision)


def is_number(value: object, kind: type) -> bool:
    """Say whether a value is a number of a kind; True and False are none."""
    return isinstance(value, kind) and not isinstance(value, bool)


def check_count(name: str, value: object, least: int) -> None:
    """Raise InputError unless a value is None or a whole number of at least the least."""
    if value is None or (is_number(value, Integral) and int(value) >= least):  # type: ignore[call-overload]
        return
    raise InputError(f"{name} is {value!r:.60}: give a whole number of at least {least}, or None")


def draw_seed(random_state: Any) -> int:
    """Return a seed: the number itself, or one drawn from a RandomState or from numpy's own.

    Raises:
        InputError: it is none of these.
    """
    if is_number(random_state, Integral) and 0 <= int(random_state) < 2**63:
        return int(random_state)
    try:
        return int(check_random_state(random_state).randint(LARGEST_SEED))
    except ValueError as error:
        raise InputError(
            f"random_state is {random_state!r:.60}: give a number from 0 to 2**63 - 1, a "
            "numpy.random.RandomState, or None"
        ) from error


def new_trainer(given: Parameters, texts: list[str], n_labelled: int, seed: int) -> ULMFiTTrainer:
    """Return a trainer with everything chosen, and the language model of base in it.

    Raises:
        InputError: no such device, or no language model at base.
    """
    device, n_words = choose_device(given.device), count_words(texts)
    model = companions = base_size = None
    if given.base is not None:
        tensors, header, tokenizer = read_folder(Path(given.base), "language_model")
        model, companions = restore(tensors, header, tokenizer, str(given.base))
        base_size = companions.size
    if given.preset is None:
        config = default_recipe(seed, keeps_knowledge=model is not None, base_size=base_size)
    else:
        config = TrainConfig.preset(given.preset, seed=seed)
    config = replace(config, precision=given.precision)
    stage: StageName = "pretrain" if given.base is None else "language_model"
    n_lm_steps = n_steps_with(config, n_words)
    lm_epochs = given.lm_epochs or None  # without an epoch the stage is left out
    config = with_stage_length(config, stage, lm_epochs, given.batch_size, n_lm_steps)
    config = with_stage_length(config, "classifier", given.epochs, given.batch_size, n_labelled)
    if given.lr is not None:
        config = config.with_stage("classifier", lr=float(given.lr))
    if model is None or companions is None:
        size = given.size or default_size(device.type, n_words)
        kind = given.tokenizer or KINDS[0]
        return ULMFiTTrainer(config, size=size, tokenizer_kind=kind, device=str(device))
    return trainer_of(model, replace(companions, settings=config), device=str(device))
