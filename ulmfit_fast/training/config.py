"""All settings of a run in one frozen dataclass, and the two recipes that fill it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from ulmfit_fast.errors import InputError
from ulmfit_fast.files import from_json
from ulmfit_fast.model import Dropouts
from ulmfit_fast.training.precision import PrecisionName, check_precision_name

Recipe = Literal["paper", "fastai"]
StageName = Literal["pretrain", "language_model", "classifier"]


@dataclass(frozen=True)
class StageConfig:
    """Settings of one stage.

    Attributes:
        epochs: passes over the texts, gradual unfreezing included.
        lr: largest learning rate of the top layer group.
        batch_size: rows of a batch.
        clip: largest norm of the gradient; 0 clips nothing.
        dropouts: chances of the five dropouts.
    """

    epochs: int
    lr: float
    batch_size: int
    clip: float
    dropouts: Dropouts


@dataclass(frozen=True)
class TrainConfig:
    """Settings of all three stages; make one with TrainConfig.preset.

    Attributes:
        recipe: "paper" (slanted triangles, one more group an epoch) or "fastai" (1cycle).
        seed: fixes initial weights, order of the data and every dropout mask.
        bptt: tokens of a chunk.
        variable_bptt: draw the length of each language-model batch around bptt.
        max_len: tokens at a document's end that the classifier pools.
        pretrain: language model from scratch.
        language_model: language model on the target texts.
        classifier: classifier.
        lr_decay: learning rate of a layer group over that of the group below.
        weight_decay: decoupled.
        betas: Adam's; under the 1cycle policy the first one moves.
        eps: Adam's.
        alpha: weight of the activation regularisation (AR).
        beta: weight of the temporal activation regularisation (TAR).
        patience: epochs without a better validation result before a stage stops; 0 never stops.
        max_vocab: largest vocabulary.
        min_freq: how often a word must occur to have a place in it.
        precision: "bf16", "fp32", or "auto": bf16 where the hardware has it.
    """

    recipe: Recipe
    seed: int
    bptt: int
    variable_bptt: bool
    max_len: int
    pretrain: StageConfig
    language_model: StageConfig
    classifier: StageConfig
    lr_decay: float
    weight_decay: float
    betas: tuple[float, float]
    eps: float
    alpha: float
    beta: float
    patience: int
    max_vocab: int
    min_freq: int
    precision: PrecisionName = "auto"

    def __post_init__(self) -> None:
        """Raise InputError for a setting that no training can use."""
        for stage in ("pretrain", "language_model", "classifier"):
            settings: StageConfig = getattr(self, stage)
            for name in ("epochs", "batch_size"):
                check_at_least(1, f"{stage} {name}", getattr(settings, name))
            if not settings.lr > 0:
                raise InputError(f"{stage} lr is {settings.lr}: give a learning rate above 0")
        for name in ("max_len", "min_freq"):
            check_at_least(1, name, getattr(self, name))
        # Batch norm and temporal regularisation need two of what they compare.
        check_at_least(2, "bptt", self.bptt)
        check_at_least(2, "classifier batch_size", self.classifier.batch_size)
        check_precision_name(self.precision)

    @classmethod
    def preset(cls, recipe: str = "fastai", **overrides: Any) -> TrainConfig:
        """Return a recipe's settings, with some replaced.

        Args:
            recipe: "paper" (Howard & Ruder 2018, section 4.1) or "fastai" (its notebooks, 2.8).
            overrides: fields of TrainConfig.

        Raises:
            InputError: no such recipe.
        """
        if recipe not in PRESETS:
            raise InputError(f"no recipe {recipe!r}: choose one of {', '.join(PRESETS)}")
        return replace(PRESETS[recipe], **overrides)

    def with_stage(self, stage: StageName, **overrides: Any) -> TrainConfig:
        """Return a copy with some settings of one stage replaced: overrides, by name."""
        return replace(self, **{stage: replace(getattr(self, stage), **overrides)})

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainConfig:
        """Rebuild a config from to_dict()'s output.

        One from before there was a choice of precision was trained in fp32, and stays with it.

        Raises:
            InputError: a field is missing or unknown, as in a file of another version, or has a
                value that no training can use.
        """
        settings: TrainConfig = from_json(
            cls, {"precision": "fp32", **values} if isinstance(values, dict) else values, "settings"
        )
        if settings.recipe not in PRESETS:
            raise InputError(f"no recipe {settings.recipe!r}: choose one of {', '.join(PRESETS)}")
        return settings


def check_at_least(least: int, name: str, value: int) -> None:
    """Raise InputError unless value is at least the least."""
    if value < least:
        raise InputError(f"{name} is {value}: give at least {least}")


PAPER_DROPOUTS = Dropouts(output=0.4, hidden=0.3, input=0.4, embed=0.05, weight=0.5)
FASTAI_LM_DROPOUTS = Dropouts(output=0.1, hidden=0.15, input=0.25, embed=0.02, weight=0.2)

PRESETS: dict[str, TrainConfig] = {
    # arXiv:1801.06146 section 4.1; clipping, AR/TAR and min_freq from the authors' scripts.
    "paper": TrainConfig(
        recipe="paper", seed=0, bptt=70, variable_bptt=True, max_len=1400,
        pretrain=StageConfig(15, 0.004, 64, 0.3, PAPER_DROPOUTS),
        language_model=StageConfig(15, 0.004, 64, 0.3, PAPER_DROPOUTS),
        classifier=StageConfig(50, 0.01, 32, 25.0, PAPER_DROPOUTS),
        lr_decay=2.6, weight_decay=0.0, betas=(0.7, 0.99), eps=1e-8, alpha=2.0, beta=1.0,
        patience=10, max_vocab=60_000, min_freq=2,
    ),
    # fastai 2.8's text learners with the learning rates of its ULMFiT notebooks.
    "fastai": TrainConfig(
        recipe="fastai", seed=0, bptt=72, variable_bptt=False, max_len=1440,
        pretrain=StageConfig(10, 0.005, 64, 0.0, FASTAI_LM_DROPOUTS),
        language_model=StageConfig(5, 0.02, 64, 0.0, FASTAI_LM_DROPOUTS),
        classifier=StageConfig(5, 0.02, 64, 0.0, PAPER_DROPOUTS.scaled(0.5)),
        lr_decay=2.6, weight_decay=0.01, betas=(0.8, 0.99), eps=1e-5, alpha=2.0, beta=1.0,
        patience=0, max_vocab=60_000, min_freq=3,
    ),
}  # fmt: skip
