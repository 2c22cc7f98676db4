"""The learning-rate range test: a stage's own steps under rates that grow until the loss bursts.

Source: Smith 2017, arXiv:1506.01186, section 3.3; as in fastai 2.8's lr_find.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

from torch import nn

from ulmfit_fast.errors import InputError, TrainingError
from ulmfit_fast.optim import set_rates
from ulmfit_fast.schedule import discriminative_rates
from ulmfit_fast.training import launch
from ulmfit_fast.training.config import TrainConfig
from ulmfit_fast.training.device import seeded
from ulmfit_fast.training.loop import Fit
from ulmfit_fast.training.rate_suggestions import Suggestions, suggest
from ulmfit_fast.training.steps import Batch, Task

# As in fastai: the average moves 2 % of the way to each loss, and a test ends at four times the
# smallest average. A tenth of its steps before the suggestions, and five after, do not count.
SMOOTHING = 0.98
BURSTS_AT = 4.0
LEFT_OUT_LAST = 5
FEWEST_STEPS = 20

#: Told (steps done, steps) on the way.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class RangeTest:
    """What a range test found.

    Attributes:
        stage: which was tested.
        layers: groups that trained, as in the stage's first phase, lowest first.
        rates: learning rate of the top group at each step.
        losses: smoothed loss of each step; nats a token, or a document.
        raw_losses: loss of each step.
        n_steps: steps that were to be taken; fewer were where the loss burst.
        suggestions: rates to train with.
    """

    stage: str
    layers: list[str]
    rates: list[float]
    losses: list[float]
    raw_losses: list[float]
    n_steps: int
    suggestions: Suggestions

    @property
    def has_burst(self) -> bool:
        """Whether the loss rose so far that the test ended early."""
        return len(self.rates) < self.n_steps


def find_learning_rate(
    task: Task,
    config: TrainConfig,
    *,
    from_scratch: bool,
    lowest: float = 1e-7,
    highest: float = 10.0,
    n_steps: int = 100,
    progress: Progress | None = None,
) -> RangeTest:
    """Train a stage's first phase under rates from lowest to highest, and suggest one.

    Rates grow by one factor a step. Layers keep the ratios of their rates, Adam its betas; frozen
    layers stay frozen. The model is as it was at the end: weights, buffers, what is frozen, mode.

    Args:
        task: what the stage trains.
        config: all settings; the stage's own learning rate does not count.
        from_scratch: whether the layers below the top are random.
        lowest: first rate of the top group.
        highest: rate that the step after the last would have.
        n_steps: steps to take, over as many epochs as it needs.
        progress: told of every step.

    Raises:
        InputError: rates that do not grow from above 0, fewer than 20 steps, or no batch.
        TrainingError: the loss burst before there was a curve.

    Source: Smith 2017, arXiv:1506.01186, section 3.3.
    """
    if not 0 < lowest < highest < math.inf:
        raise InputError(f"rates from {lowest:g} to {highest:g}: give two that grow, above 0")
    if launch.world_size() > 1:
        raise InputError("a range test runs in one process: call it without torchrun")
    if n_steps < FEWEST_STEPS:
        raise InputError(f"{n_steps} steps: a range test needs at least {FEWEST_STEPS}")
    with seeded(config.seed, task.device), _restored(task.model):
        fit = Fit(task, config, (), from_scratch=from_scratch)
        layers = _freeze(fit)
        task.model.train()
        curve = _Curve()
        with closing(_batches(fit, n_steps)) as batches:
            for step, batch in enumerate(batches):
                rate = lowest * (highest / lowest) ** (step / n_steps)
                rates = discriminative_rates(rate, len(fit.groups), fit.plan.lr_decay)
                by_layer = dict(zip(fit.groups, rates, strict=True))
                set_rates(fit.optimizer, by_layer, config.betas)
                loss = fit.steps.step(batch, None).cross_entropy.item()
                if not math.isfinite(loss):
                    break
                curve.add(rate, loss)
                if progress is not None:
                    progress(step + 1, n_steps)
                if curve.has_burst:
                    break
    return _result(task.stage, layers, curve, n_steps)


class _Curve:
    """Rates and smoothed losses of the steps so far."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.losses: list[float] = []
        self.raw_losses: list[float] = []
        self._sum = 0.0

    def add(self, rate: float, loss: float) -> None:
        """Take a step's rate and loss."""
        self._sum = SMOOTHING * self._sum + (1 - SMOOTHING) * loss
        self.rates.append(rate)
        self.raw_losses.append(loss)
        self.losses.append(self._sum / (1 - SMOOTHING ** len(self.rates)))

    @property
    def has_burst(self) -> bool:
        """Whether the last loss is far above the smallest."""
        return self.losses[-1] > BURSTS_AT * min(self.losses)


def _result(stage: str, layers: list[str], curve: _Curve, n_steps: int) -> RangeTest:
    """Return a test's result with the suggestions of the part of its curve that counts."""
    counted = slice(n_steps // 10, len(curve.rates) - LEFT_OUT_LAST)
    rates, losses = curve.rates[counted], curve.losses[counted]
    if len(rates) < 2:
        raise TrainingError(
            f"stage {stage}: the loss burst after {len(curve.rates)} of {n_steps} steps, before "
            "there was a curve; begin with a smaller rate"
        )
    found = suggest(rates, losses)
    return RangeTest(stage, layers, curve.rates, curve.losses, curve.raw_losses, n_steps, found)


def _freeze(fit: Fit) -> list[str]:
    """Freeze what the stage's first phase freezes; return the names of the other groups."""
    names = list(fit.groups)
    n_frozen = len(names) - fit.phases[0].n_unfrozen
    for index, parameters in enumerate(fit.groups.values()):
        for parameter in parameters:
            parameter.requires_grad_(index >= n_frozen)
            parameter.grad = None
    for group in fit.optimizer.param_groups:
        group["frozen"] = group["layer"] in names[:n_frozen]
    fit.steps.start_phase()
    return names[n_frozen:]


def _batches(fit: Fit, n_steps: int) -> Generator[Batch, None, None]:
    """Yield n_steps batches, from as many epochs as hold them; every epoch's streams begin anew.

    Raises:
        InputError: an epoch has no batch.
    """
    left, epoch = n_steps, 0
    while left:
        if not fit.task.n_batches(epoch):
            raise InputError("there is no batch to train on: give more text")
        fit.steps.start_epoch()
        for batch in fit.task.batches(epoch):
            yield batch
            left -= 1
            if not left:
                return
        epoch += 1


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Give a model its weights, buffers, mode and what is frozen back at the end; no gradients."""
    state = copy.deepcopy(model.state_dict())
    modes = {module: module.training for module in model.modules()}
    trained = {parameter: parameter.requires_grad for parameter in model.parameters()}
    try:
        yield
    finally:
        model.load_state_dict(state)
        for module, mode in modes.items():
            module.training = mode
        for parameter, flag in trained.items():
            parameter.requires_grad_(flag)
            parameter.grad = None
