"""Which layers train when, and how fast: the two recipes' phases and schedules."""

from __future__ import annotations

from ulmfit_fast.schedule import OneCycle, Phase, gradual_unfreezing, slanted_triangular
from ulmfit_fast.training.config import StageConfig, StageName, TrainConfig


def stage_phases(config: TrainConfig, stage: StageName, n_groups: int) -> list[Phase]:
    """Return the phases of a stage.

    paper: the language model trains all layers at once, the classifier unfreezes one more group
        after every epoch and ends with all.
    fastai: the language model trains its embedding and softmax for one epoch, then all at a tenth
        of the rate; the classifier trains one, two and three groups for an epoch each at lr, lr / 2
        and lr / 4, then all at lr / 20.

    Source: arXiv:1801.06146 section 3.3; fastai's ULMFiT notebooks.
    """
    settings: StageConfig = getattr(config, stage)
    lr = settings.lr
    rates = {
        ("paper", "classifier"): [lr] * n_groups,
        ("fastai", "language_model"): [lr, lr / 10],
        ("fastai", "classifier"): [lr, lr / 2, lr / 4, lr / 20],
    }.get((config.recipe, stage), [lr])
    return gradual_unfreezing(n_groups, settings.epochs, rates)


def schedule(config: TrainConfig, stage: StageName, step: int, n_steps: int) -> tuple[float, float]:
    """Return the multiplier of every layer's largest learning rate, and Adam's beta1.

    Args:
        config: the recipe decides.
        stage: pretraining has no reason to start high, so it too follows the recipe's cycle.
        step: step of the phase, 0 .. n_steps - 1.
        n_steps: steps of the phase.
    """
    if config.recipe == "paper":
        return slanted_triangular(step, n_steps), config.betas[0]
    cycle = OneCycle()
    position = step / n_steps
    return cycle.lr(position), cycle.momentum(position)
