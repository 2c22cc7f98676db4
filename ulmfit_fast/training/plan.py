"""Which layers train when, and how fast: the two recipes' phases, rates and schedules."""

from __future__ import annotations

from ulmfit_fast.schedule import OneCycle, Phase, gradual_unfreezing, slanted_triangular
from ulmfit_fast.training.config import StageConfig, StageName, TrainConfig


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


def schedule(config: TrainConfig, step: int, n_steps: int) -> tuple[float, float]:
    """Return the multiplier of every layer's largest learning rate, and Adam's beta1.

    Args:
        config: the recipe decides.
        step: step of the phase, 0 .. n_steps - 1.
        n_steps: steps of the phase.
    """
    if config.recipe == "paper":
        return slanted_triangular(step, n_steps), config.betas[0]
    cycle = OneCycle()
    position = step / n_steps
    return cycle.lr(position), cycle.momentum(position)
