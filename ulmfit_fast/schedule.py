"""Learning-rate schedules, discriminative rates and gradual unfreezing.

Schedules are pure functions of the step: multipliers of a layer's largest learning rate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


def slanted_triangular(
    step: int, n_steps: int, cut_frac: float = 0.1, ratio: float = 32.0
) -> float:
    """Return the multiplier of the largest learning rate at a step.

    It rises in a straight line from 1 / ratio to 1 over the first cut_frac of the steps, then falls
    in a straight line back to 1 / ratio, which the step after the last one would reach.

    Args:
        step: 0 .. n_steps - 1.
        n_steps: steps of the whole schedule.
        cut_frac: share of the steps that rise.
        ratio: largest over smallest rate.

    Source: Howard, Ruder 2018, arXiv:1801.06146v5, equation 3. Where cut_frac * n_steps is no
        integer, the fall is stretched to end with the schedule, as in the authors' code.
    """
    cut = max(1, math.floor(n_steps * cut_frac))
    p = step / cut if step < cut else 1 - (step - cut) / max(1, n_steps - cut)
    return (1 + p * (ratio - 1)) / ratio


@dataclass(frozen=True)
class OneCycle:
    """The 1cycle policy: warm up and anneal along cosines, momentum the other way round.

    Attributes:
        pct_start: share of the steps that warm up.
        div: largest over first learning rate.
        div_final: largest over last learning rate.
        momentums: first, middle and last momentum (Adam's beta1).

    Source: Smith 2018, arXiv:1803.09820; defaults of fastai 2.8 (fit_one_cycle, TextLearner).
    """

    pct_start: float = 0.25
    div: float = 25.0
    div_final: float = 1e5
    momentums: tuple[float, float, float] = (0.8, 0.7, 0.8)

    def lr(self, position: float) -> float:
        """Return the multiplier of the largest learning rate at a position in [0, 1]."""
        return self._at(position, (1 / self.div, 1.0, 1 / self.div_final))

    def momentum(self, position: float) -> float:
        """Return the momentum at a position in [0, 1]."""
        return self._at(position, self.momentums)

    def _at(self, position: float, values: tuple[float, float, float]) -> float:
        first, middle, last = values
        if position < self.pct_start:
            return cosine(first, middle, position / self.pct_start)
        return cosine(middle, last, (position - self.pct_start) / (1 - self.pct_start))


def cosine(start: float, end: float, position: float) -> float:
    """Go from start to end along half a cosine; position in [0, 1]."""
    return start + (1 + math.cos(math.pi * (1 - position))) * (end - start) / 2


def discriminative_rates(lr: float, n_groups: int, decay: float = 2.6) -> list[float]:
    """Return a learning rate for each layer group, lowest layer first.

    lr[l - 1] = lr[l] / decay; the last of the n_groups has lr itself.

    Source: Howard, Ruder 2018, arXiv:1801.06146, section 3.2.
    """
    return [lr / decay ** (n_groups - 1 - group) for group in range(n_groups)]


@dataclass(frozen=True)
class Phase:
    """Epochs trained with the same layers unfrozen, under one cycle of the schedule.

    Attributes:
        n_unfrozen: layer groups that train, counted from the top.
        epochs: at least 1.
        lr: largest learning rate of the top group.
        n_above: groups at the top that stand still; those that train are counted below them.
    """

    n_unfrozen: int
    epochs: int
    lr: float
    n_above: int = 0

    def trained(self, n_groups: int) -> range:
        """Return which of n_groups layer groups train, lowest first."""
        end = n_groups - self.n_above
        return range(end - self.n_unfrozen, end)


def gradual_unfreezing(n_groups: int, epochs: int, rates: list[float]) -> list[Phase]:
    """Plan phases that unfreeze one more group after each epoch, then all for what is left.

    Args:
        n_groups: layer groups of the model.
        epochs: epochs in all, at least 1.
        rates: learning rate of each phase with frozen layers, then of the last one with none; its
            length less one is the number of phases with frozen layers.

    Returns:
        phases: their epochs add up to epochs; with few epochs the last frozen phases go.
    """
    n_frozen = min(len(rates) - 1, n_groups - 1, epochs - 1)
    phases = [Phase(n_unfrozen=n + 1, epochs=1, lr=rates[n]) for n in range(n_frozen)]
    return [*phases, Phase(n_unfrozen=n_groups, epochs=epochs - n_frozen, lr=rates[-1])]
