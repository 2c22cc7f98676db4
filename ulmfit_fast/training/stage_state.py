"""How far a stage is, and its state as tensors and JSON values and back."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ulmfit_fast.model import EncoderState
from ulmfit_fast.optim import LayerwiseAdamW
from ulmfit_fast.training.keeper import StageState
from ulmfit_fast.training.notebook import html_table
from ulmfit_fast.training.snapshot import generators, set_generators
from ulmfit_fast.training.steps import EagerSteps, Metrics


@dataclass
class StageResult:
    """What a stage did.

    Attributes:
        stage: its name.
        seconds: wall time.
        n_tokens: tokens read in training.
        epochs: metrics of each epoch.
        best: metrics of the epoch whose weights the model now has.
    """

    stage: str
    seconds: float = 0.0
    n_tokens: int = 0
    epochs: list[Metrics] = field(default_factory=list)
    best: Metrics = field(default_factory=dict)

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the metrics of every epoch."""
        caption = f"{self.stage}: {self.seconds:.1f} s, {self.n_tokens:,} tokens"
        rows = {str(epoch): metrics for epoch, metrics in enumerate(self.epochs, 1)}
        return html_table(caption, "epoch", rows)


@dataclass
class Progress:
    """How far a stage is.

    Attributes:
        epoch: epochs done, validation included.
        batch: batches done of the epoch after these.
        step: optimizer steps done.
        n_tokens_unread: tokens since a loss was last read.
        n_skipped: steps whose loss or gradient was not finite, in all.
        n_skipped_told: those that stand in the metrics of an epoch.
        n_bad: the last steps in a row, if they were skipped.
        best_score: of the best epoch.
        epochs_since_best: epochs after it.
        rate: factor of all learning rates: 1, and half of it after each return to an earlier state.
        n_returns: how often that was.
        seconds: time spent, as of when the state was taken.
        epoch_seconds: likewise, in the epoch.
        rows: of a batch that run at a time, once it did not fit into memory; None before.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    n_tokens_unread: int = 0
    n_skipped: int = 0
    n_skipped_told: int = 0
    n_bad: int = 0
    best_score: tuple[float, ...] | None = None
    epochs_since_best: int = 0
    rate: float = 1.0
    n_returns: int = 0
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    rows: int | None = None


class Sums:
    """Loss of the epoch that runs: summed on the device, over the steps where it is finite."""

    def __init__(self, device: torch.device) -> None:
        self.loss = torch.zeros((), device=device)
        self.n_steps = torch.zeros((), dtype=torch.int64, device=device)

    def start(self) -> None:
        """Begin an epoch."""
        self.loss.zero_()
        self.n_steps.zero_()

    def add(self, total: Tensor, cross_entropy: Tensor) -> None:
        """Add a step's loss, unless the loss that is minimized is not finite."""
        is_finite = total.isfinite()
        self.loss += torch.where(is_finite, cross_entropy, 0.0)
        self.n_steps += is_finite

    def mean(self) -> float:
        """Return the mean, nan where no step's loss was finite; waits for the device."""
        n_steps = int(self.n_steps)
        return self.loss.item() / n_steps if n_steps else math.nan


@dataclass
class StageParts:
    """What of a stage has state.

    Attributes:
        model: what is trained.
        optimizer: over its layers.
        steps: has the LSTMs' state.
        sums: loss of the epoch.
        progress: how far it is.
        result: what it did.
        best_weights: of the best epoch, if there is one.
    """

    model: nn.Module
    optimizer: LayerwiseAdamW
    steps: EagerSteps
    sums: Sums
    progress: Progress
    result: StageResult
    best_weights: dict[str, Tensor] | None = None

    def capture(self, device: torch.device, *, is_first: bool = True) -> StageState:
        """Return the state; its tensors are those of the training unless they had to be copied.

        Args:
            device: of the training.
            is_first: False leaves out what all processes have alike.
        """
        tensors = self._common() if is_first else {}
        for layer, (h, c) in enumerate(self.steps.state or []):
            tensors |= {f"lstm/{layer}/h": h, f"lstm/{layer}/c": c}
        tensors |= {f"generator/{name}": each for name, each in generators(device).items()}
        self.progress.rows = self.steps.micro_batches.limit.rows
        values = {"progress": asdict(self.progress), "result": asdict(self.result)}
        return StageState(values, {name: each.detach().cpu() for name, each in tensors.items()})

    def _common(self) -> dict[str, Tensor]:
        """Return the tensors that all processes have alike."""
        tensors = {f"model/{name}": each for name, each in self.model.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{index}/{name}": each for name, each in state.items()}
        tensors |= {f"best/{name}": each for name, each in (self.best_weights or {}).items()}
        return tensors | {"sums/loss": self.sums.loss, "sums/n_steps": self.sums.n_steps}

    def restore(self, state: StageState, device: torch.device) -> None:
        """Become what was captured, in place as far as there is a place."""
        tensors, values = state.tensors, state.values
        self.model.load_state_dict(below(tensors, "model"))
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in below(tensors, "optimizer").items():
            index, _, key = name.partition("/")
            moments.setdefault(int(index), {})[key] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        best = below(tensors, "best")
        self.best_weights = {name: each.to(device) for name, each in best.items()} or None
        self.steps.state = lstm_state(below(tensors, "lstm"), device)
        set_generators(below(tensors, "generator"), device)
        self.sums.loss.copy_(tensors["sums/loss"])
        self.sums.n_steps.copy_(tensors["sums/n_steps"])
        self.progress = progress_of(values["progress"])
        limit = self.steps.micro_batches.limit
        limit.rows = limit.rows or self.progress.rows  # going back makes no room
        self.result = StageResult(**values["result"])


def below(tensors: dict[str, Tensor], folder: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with folder/, without it."""
    start = f"{folder}/"
    return {n.removeprefix(start): each for n, each in tensors.items() if n.startswith(start)}


def lstm_state(tensors: dict[str, Tensor], device: torch.device) -> EncoderState | None:
    """Return h and c of each layer; None without any."""
    n_layers = len(tensors) // 2
    pairs = [(tensors[f"{n}/h"].to(device), tensors[f"{n}/c"].to(device)) for n in range(n_layers)]
    return pairs or None


def progress_of(values: dict[str, Any]) -> Progress:
    """Return progress from JSON, which has no tuples."""
    score = values["best_score"]
    return Progress(**{**values, "best_score": None if score is None else tuple(score)})
