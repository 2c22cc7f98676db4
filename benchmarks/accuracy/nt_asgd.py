"""Optimizers of the language models: NT-ASGD as published, and Adam with and without averaging.

Every recipe has `optimizer`, `step(length)` after a backward pass, `averaged()` for the weights to
measure, `epoch_ended(valid_loss)`, and plain `notes` that go into checkpoints and records.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ulmfit_fast.model import LanguageModel
from ulmfit_fast.optim import LayerwiseAdamW, layer_param_groups
from ulmfit_fast.schedule import slanted_triangular


@dataclass(frozen=True)
class RecipeSettings:
    """Numbers of a recipe.

    Attributes:
        lr: learning rate; of NT-ASGD for a batch of bptt steps.
        clip: largest norm of the gradient.
        weight_decay: L2 for NT-ASGD (in the gradient), decoupled for Adam.
        non_monotone: epochs without a better validation loss before averaging begins.
    """

    lr: float
    clip: float = 0.25
    weight_decay: float = 1.2e-6
    non_monotone: int = 5


#: Merity's for NT-ASGD. Adam: the rate of the ULMFiT paper under its schedule; a quarter of it
#: where the rate stands still until averaging begins. Neither was tuned.
RECIPES = {
    "nt-asgd": RecipeSettings(lr=30.0),
    "adam": RecipeSettings(lr=0.004),
    "adam-average": RecipeSettings(lr=0.001),
}


class NonMonotone:
    """Says when validation has stopped getting better.

    It does when a loss is above the smallest of those more than n epochs before.

    Source: Merity, Keskar, Socher 2017, arXiv:1708.02182, algorithm 1; awd-lstm-lm's main.py, which
        looks before it adds the loss, and only once more than n losses are there.
    """

    def __init__(self, n: int, losses: Sequence[float] = ()) -> None:
        self.n = n
        self.losses = list(losses)

    def add(self, loss: float) -> bool:
        """Take an epoch's validation loss; return whether to begin averaging."""
        earlier = self.losses[: max(0, len(self.losses) - self.n)]
        self.losses.append(loss)
        return bool(earlier) and loss > min(earlier)


class NTASGD:
    """SGD at a constant rate, then ASGD from the epoch on at which validation stops getting better.

    The rate of a batch is that of bptt steps times its length over bptt, as its loss is a mean over
    more or fewer tokens. torch.optim.ASGD uses the rate of the step before; so it did there.
    """

    def __init__(self, model: LanguageModel, settings: RecipeSettings, bptt: int) -> None:
        self.settings, self.bptt = settings, bptt
        self.parameters = list(model.parameters())
        self.trigger = NonMonotone(settings.non_monotone)
        self.averaging_since: int | None = None
        self.optimizer: torch.optim.Optimizer = torch.optim.SGD(
            self.parameters, lr=settings.lr, weight_decay=settings.weight_decay
        )

    def step(self, length: int) -> None:
        """Clip, update, and forget the gradients of a batch of so many steps."""
        nn.utils.clip_grad_norm_(self.parameters, self.settings.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.lr * length / self.bptt
        self.optimizer.step()
        self.optimizer.zero_grad()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Have the average in the model, once there is one."""
        if self.averaging_since is None:
            yield
            return
        kept = [p.detach().clone() for p in self.parameters]
        with torch.no_grad():
            for parameter in self.parameters:
                parameter.copy_(self.optimizer.state[parameter]["ax"])
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(self.parameters, kept, strict=True):
                    parameter.copy_(value)

    def epoch_ended(self, valid_loss: float) -> None:
        """Look whether to begin averaging with the next epoch."""
        if self.averaging_since is None and self.trigger.add(valid_loss):
            self._average(since=len(self.trigger.losses))

    def _average(self, since: int) -> None:
        self.averaging_since = since
        self.optimizer = torch.optim.ASGD(
            self.parameters, lr=self.settings.lr, lambd=0.0, t0=0,
            weight_decay=self.settings.weight_decay,
        )  # fmt: skip

    @property
    def notes(self) -> dict[str, Any]:
        """What of the recipe is no tensor."""
        return {"losses": self.trigger.losses, "averaging_since": self.averaging_since}

    def restore(self, notes: dict[str, Any]) -> None:
        """Set notes back; the optimizer's own state is loaded after."""
        self.trigger = NonMonotone(self.settings.non_monotone, notes["losses"])
        if notes["averaging_since"] is not None:
            self._average(notes["averaging_since"])


class Adam:
    """LayerwiseAdamW: under a slanted triangle over all epochs, or at one rate and then averaged.

    Args:
        model: what is trained.
        settings: numbers.
        n_steps: of all epochs, for the schedule.
        averages: whether weights are averaged once validation stops getting better, as NT-ASGD's.
    """

    def __init__(
        self, model: LanguageModel, settings: RecipeSettings, n_steps: int, *, averages: bool
    ) -> None:
        self.settings, self.n_steps, self.averages = settings, n_steps, averages
        self.trigger = NonMonotone(settings.non_monotone)
        self.averaging_since: int | None = None
        self.n_taken = 0
        self.optimizer = LayerwiseAdamW(
            layer_param_groups(
                model.layer_groups(), lr=settings.lr, lr_decay=1.0,
                weight_decay=settings.weight_decay, undecayed=model.undecayed_parameters(),
            ),
            betas=(0.7, 0.99), max_grad_norm=settings.clip, skip_nonfinite=False,
            average="mean" if averages else None,
        )  # fmt: skip
        if averages:
            self.optimizer.averaging = False

    def step(self, length: int) -> None:
        """Update, and forget the gradients; the rate does not depend on a batch's length."""
        multiplier = 1.0 if self.averages else slanted_triangular(self.n_taken, self.n_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.lr * multiplier
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.n_taken += 1

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Have the average in the model, once there is one."""
        if self.averaging_since is None:
            yield
            return
        with self.optimizer.averaged():
            yield

    def epoch_ended(self, valid_loss: float) -> None:
        """Look whether to begin averaging with the next epoch."""
        if self.averages and self.averaging_since is None and self.trigger.add(valid_loss):
            self.averaging_since, self.optimizer.averaging = len(self.trigger.losses), True

    @property
    def notes(self) -> dict[str, Any]:
        """What of the recipe is no tensor."""
        return {
            "losses": self.trigger.losses,
            "averaging_since": self.averaging_since,
            "n_taken": self.n_taken,
        }

    def restore(self, notes: dict[str, Any]) -> None:
        """Set notes back; the optimizer's own state is loaded after."""
        self.trigger = NonMonotone(self.settings.non_monotone, notes["losses"])
        self.averaging_since, self.n_taken = notes["averaging_since"], notes["n_taken"]
        if self.averages:
            self.optimizer.averaging = self.averaging_since is not None


def make_recipe(name: str, model: LanguageModel, bptt: int, n_steps: int) -> NTASGD | Adam:
    """Return the recipe of RECIPES with a name."""
    if name == "nt-asgd":
        return NTASGD(model, RECIPES[name], bptt)
    return Adam(model, RECIPES[name], n_steps, averages=name == "adam-average")
