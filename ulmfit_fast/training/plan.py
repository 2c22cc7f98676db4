"""Which layers train when, and how fast: the two recipes' phases, rates and schedules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ulmfit_fast.errors import InputError
from ulmfit_fast.schedule import OneCycle, Phase, cosine, gradual_unfreezing, slanted_triangular
from ulmfit_fast.training.config import StageConfig, StageName, TrainConfig

ScheduleName = Literal["slanted_triangular", "one_cycle", "constant", "cosine"]


@dataclass(frozen=True)
class StagePlan:
    """Which layers of a stage train when, and how fast; in `trainer.plans` in place of a recipe.

    Attributes:
        phases: one after the other; their epochs are those of the stage.
        lr_decay: learning rate of a layer group over that of the group below; 1 for one rate.
        schedule: of every phase. "cosine" falls from the largest rate to 0.
    """

    phases: tuple[Phase, ...]
    lr_decay: float = 1.0
    schedule: ScheduleName = "slanted_triangular"

    def check(self, n_groups: int) -> None:
        """Raise InputError unless a model of n_groups layer groups can follow the plan."""
        if not self.phases:
            raise InputError("the plan has no phase: give at least one")
        for phase in self.phases:
            groups = phase.trained(n_groups)
            if not len(groups) or phase.n_above < 0 or groups.start < 0 or phase.epochs < 1:
                raise InputError(f"{phase} does not fit a model of {n_groups} layer groups")

    def describe(self, names: Sequence[str]) -> str:
        """Say which of the layer groups with these names train for how long."""
        parts = []
        for phase in self.phases:
            trained = phase.trained(len(names))
            which = f"top {phase.n_unfrozen}" if not phase.n_above else ""
            if len(trained) == len(names):
                which = "all layers"
            which = which or " and ".join(names[i] for i in trained)
            parts.append(f"{phase.epochs} epoch{'s' if phase.epochs > 1 else ''} of {which}")
        return " then ".join(parts)

    def phase_of(self, epoch: int) -> tuple[Phase, range]:
        """Return the phase of an epoch, counted from 0, and the epochs of that phase."""
        first = 0
        for phase in self.phases:
            if epoch < first + phase.epochs:
                return phase, range(first, first + phase.epochs)
            first += phase.epochs
        raise IndexError(f"epoch {epoch} of {first}")

    def at(self, step: int, n_steps: int, beta1: float) -> tuple[float, float]:
        """Return the multiplier of every layer's largest learning rate, and Adam's beta1.

        Args:
            step: step of the phase, 0 .. n_steps - 1.
            n_steps: steps of the phase.
            beta1: of the settings; "one_cycle" has its own.
        """
        position = step / n_steps
        if self.schedule == "one_cycle":
            cycle = OneCycle()
            return cycle.lr(position), cycle.momentum(position)
        multiplier = {
            "slanted_triangular": slanted_triangular(step, n_steps),
            "constant": 1.0,
            "cosine": cosine(1.0, 0.0, position),
        }
        return multiplier[self.schedule], beta1


def stage_plan(
    config: TrainConfig, stage: StageName, n_groups: int, from_scratch: bool
) -> StagePlan:
    """Return what the recipe plans for a stage; arguments as for stage_phases."""
    return StagePlan(
        tuple(stage_phases(config, stage, n_groups, from_scratch)),
        layer_decay(config, stage, from_scratch),
        "slanted_triangular" if config.recipe == "paper" else "one_cycle",
    )


def stage_phases(
    config: TrainConfig, stage: StageName, n_groups: int, from_scratch: bool
) -> list[Phase]:
    """Return the phases of a stage.

    From scratch every layer has everything to learn: one phase, all layers, at the rate of
    pretraining. Else:

    paper: the language model trains all layers at once, the classifier unfreezes one more group
        after every epoch and ends with all.
    fastai: the language model trains its embedding and softmax for one epoch, then all at a tenth
        of the rate; the classifier trains one, two and three groups for an epoch each at lr, lr / 2
        and lr / 4, then all at lr / 20.

    Source: arXiv:1801.06146 section 3.3; fastai's ULMFiT notebooks.
    """
    settings: StageConfig = getattr(config, stage)
    lr = settings.lr
    if from_scratch:
        return [Phase(n_groups, settings.epochs, config.pretrain.lr)]
    rates = {
        ("paper", "classifier"): [lr] * n_groups,
        ("fastai", "language_model"): [lr, lr / 10],
        ("fastai", "classifier"): [lr, lr / 2, lr / 4, lr / 20],
    }.get((config.recipe, stage), [lr])
    return gradual_unfreezing(n_groups, settings.epochs, rates)


def layer_decay(config: TrainConfig, stage: StageName, from_scratch: bool) -> float:
    """Return the learning rate of a layer group over that of the group below.

    1 from scratch, and for fastai's language model, which trains all layers at one rate.
    """
    one_rate = from_scratch or (config.recipe, stage) == ("fastai", "language_model")
    return 1.0 if one_rate else config.lr_decay
