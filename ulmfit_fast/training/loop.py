"""The training loop of all three stages."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from ulmfit_fast.errors import TrainingError
from ulmfit_fast.model import LossParts
from ulmfit_fast.optim import LayerwiseAdamW, layer_param_groups, set_rates
from ulmfit_fast.schedule import Phase, discriminative_rates
from ulmfit_fast.training.config import StageConfig, TrainConfig
from ulmfit_fast.training.graphs import GraphSteps, Recorder
from ulmfit_fast.training.notebook import html_table
from ulmfit_fast.training.observer import Observer, Step
from ulmfit_fast.training.plan import layer_decay, schedule, stage_phases
from ulmfit_fast.training.steps import EagerSteps, Metrics, Task

# Reading a loss waits for a GPU, so there it is read seldom; on a CPU it costs nothing.
GPU_STEPS_BETWEEN_READS = 20
CPU_STEPS_BETWEEN_READS = 1


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


class Fit:
    """One stage: phases of epochs, validation after each, the best weights at the end.

    Args:
        task: what is trained.
        config: all settings; the task's stage picks its own.
        observers: told of every step that reads its loss, and of every epoch.
        from_scratch: whether the layers below the top are random.
        recorder: makes CUDA graphs of the steps, where the task is one for them; None makes none.
    """

    def __init__(
        self,
        task: Task,
        config: TrainConfig,
        observers: Sequence[Observer],
        *,
        from_scratch: bool,
        recorder: Recorder | None = None,
    ) -> None:
        self.task = task
        self.config = config
        self.settings: StageConfig = getattr(config, task.stage)
        self.observers = observers
        self.decay = layer_decay(config, task.stage, from_scratch)
        on_cpu = task.device.type == "cpu"
        self.read_every = CPU_STEPS_BETWEEN_READS if on_cpu else GPU_STEPS_BETWEEN_READS
        self.groups = task.model.layer_groups()
        self.phases = stage_phases(config, task.stage, len(self.groups), from_scratch)
        groups = layer_param_groups(
            self.groups,
            lr=0.0,  # set before every step
            weight_decay=config.weight_decay,
            undecayed=task.model.undecayed_parameters(),
        )
        graphed = recorder if task.has_few_shapes else None
        self.optimizer = LayerwiseAdamW(
            groups,
            betas=config.betas,
            eps=config.eps,
            max_grad_norm=self.settings.clip or None,
            capturable=graphed is not None,
        )
        self.steps = EagerSteps(task, self.optimizer)
        if graphed is not None:
            self.steps = GraphSteps(task, self.optimizer, graphed)
        self.result = StageResult(task.stage)
        self.best_score: tuple[float, ...] | None = None
        self.best_weights: dict[str, Tensor] | None = None
        self.epochs_since_best = 0
        self.frozen: dict[str, float] = {}  # names of the groups that stand still, rate 0
        self.n_steps_done = 0
        self.n_steps_skipped = 0
        self.n_tokens_unread = 0

    def run(self) -> StageResult:
        """Train, and leave the best weights in the model.

        Raises:
            TrainingError: a loss is not finite, in training or in validation. It is found at the
                next reading, at the latest at the end of the epoch.
        """
        started = time.perf_counter()
        first = [sum(phase.epochs for phase in self.phases[:n]) for n in range(len(self.phases))]
        epochs_of = [
            range(begin, begin + phase.epochs)
            for begin, phase in zip(first, self.phases, strict=True)
        ]
        n_steps = sum(self.task.n_batches(e) for epochs in epochs_of for e in epochs)
        for observer in self.observers:
            observer.stage_started(self.task.stage, n_steps, self.describe())
        for phase, epochs in zip(self.phases, epochs_of, strict=True):
            if not self._run_phase(phase, epochs):
                break
        if self.best_weights is not None:
            self.task.model.load_state_dict(self.best_weights)
        for parameter in self.task.model.parameters():
            parameter.requires_grad_(True)
        self.task.model.eval()
        self.result.seconds = time.perf_counter() - started
        for observer in self.observers:
            observer.stage_ended(self.task.stage, self.result.seconds, self.result.best)
        return self.result

    def describe(self) -> str:
        """Say in one line what the stage will do."""
        n_parameters = sum(p.numel() for p in self.task.model.parameters())
        unfreezing = " then ".join(
            f"{phase.epochs} epoch{'s' if phase.epochs > 1 else ''} of "
            + ("all layers" if phase.n_unfrozen == len(self.groups) else f"top {phase.n_unfrozen}")
            for phase in self.phases
        )
        rate = f"lr {self.phases[0].lr:g}"
        return (
            f"{n_parameters / 1e6:.1f} M parameters in {self.task.precision.name}, "
            f"{self.task.describe()}, {unfreezing}, {rate}"
        )

    def _run_phase(self, phase: Phase, epochs: range) -> bool:
        """Train a phase; return False once the stage should stop early."""
        frozen = len(self.groups) - phase.n_unfrozen
        for index, parameters in enumerate(self.groups.values()):
            for parameter in parameters:
                parameter.requires_grad_(index >= frozen)
                parameter.grad = None
        self.frozen = dict.fromkeys(list(self.groups)[:frozen], 0.0)
        for group in self.optimizer.param_groups:
            group["frozen"] = group["layer"] in self.frozen  # so that a graph may leave them out
        self.steps.start_phase()
        largest = discriminative_rates(phase.lr, len(self.groups), self.decay)
        rates = dict(zip(self.groups, largest, strict=True))
        n_steps = sum(self.task.n_batches(epoch) for epoch in epochs)
        step = 0
        for epoch in epochs:
            step = self._run_epoch(epoch, step, n_steps, rates)
            if self.config.patience and self.epochs_since_best >= self.config.patience:
                return False
        return True

    def _run_epoch(self, epoch: int, step: int, n_steps: int, rates: dict[str, float]) -> int:
        """Train one epoch from a step of the phase on, validate, and return the next step."""
        started = time.perf_counter()
        self.task.model.train()
        loss_sum = torch.zeros((), device=self.task.device)
        first, last = step, step + self.task.n_batches(epoch) - 1
        self.steps.start_epoch()
        for batch in self.task.batches(epoch):
            multiplier, beta1 = schedule(self.config, step, n_steps)
            now = {layer: rate * multiplier for layer, rate in rates.items()}
            set_rates(self.optimizer, now, (beta1, self.config.betas[1]))
            self.n_steps_done += 1
            self.n_tokens_unread += batch.n_tokens
            self.result.n_tokens += batch.n_tokens
            is_read = self.n_steps_done % self.read_every == 0 or step == last
            at = partial(
                Step,
                self.task.stage,
                self.n_steps_done,
                epoch + 1,
                rates=now | self.frozen,
                beta1=beta1,
            )  # fmt: skip
            read = partial(self._read, at) if is_read else None
            parts = self.steps.step(batch, read)
            loss_sum += parts.cross_entropy
            step += 1
        metrics = {"train_loss": loss_sum.item() / max(1, step - first), **self.task.validate()}
        for name in ("train_loss", "valid_loss"):
            self._check_finite(name, metrics.get(name, 0.0))
        skipped = int(self.optimizer.skipped_steps)
        if skipped > self.n_steps_skipped:
            metrics["skipped_steps"] = skipped - self.n_steps_skipped
            self.n_steps_skipped = skipped
        metrics["seconds"] = time.perf_counter() - started
        self.result.epochs.append(metrics)
        self._keep_if_best(metrics)
        for observer in self.observers:
            observer.epoch_ended(self.task.stage, epoch + 1, metrics)
        return step

    def _read(self, at: Callable[..., Step], parts: LossParts) -> None:
        """Read the loss, and tell the observers."""
        self._check_finite("loss", parts.total.item())
        step = at(loss=parts.cross_entropy.item(), n_tokens=self.n_tokens_unread)
        for observer in self.observers:
            observer.step(step)
        self.n_tokens_unread = 0

    def _check_finite(self, name: str, value: float) -> None:
        if not math.isfinite(value):
            raise TrainingError(
                f"stage {self.task.stage}, step {self.n_steps_done}: the {name} is {value}, so the "
                "stage was given up. Lower the learning rate or clip the gradient."
            )

    def _keep_if_best(self, metrics: Metrics) -> None:
        score = self.task.score(metrics)
        if not score:  # no validation part: the last weights are kept
            self.result.best = metrics
        elif self.best_score is None or score < self.best_score:
            self.best_score = score
            self.best_weights = copy.deepcopy(self.task.model.state_dict())
            self.result.best = metrics
            self.epochs_since_best = 0
        else:
            self.epochs_since_best += 1
