"""The training loop of all three stages."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from contextlib import closing
from functools import partial

from ulmfit_fast.errors import TrainingError
from ulmfit_fast.model import LossParts
from ulmfit_fast.optim import LayerwiseAdamW, layer_param_groups, set_rates
from ulmfit_fast.schedule import Phase, discriminative_rates
from ulmfit_fast.training.config import StageConfig, TrainConfig
from ulmfit_fast.training.device import check_alone
from ulmfit_fast.training.graphs import GraphSteps, Recorder
from ulmfit_fast.training.heap import Heap
from ulmfit_fast.training.joining import here
from ulmfit_fast.training.keeper import Keeper, Place, StageState
from ulmfit_fast.training.micro_batches import RowLimit
from ulmfit_fast.training.observer import Observer, Step
from ulmfit_fast.training.plan import StagePlan, stage_plan
from ulmfit_fast.training.stage_state import Progress, StageParts, StageResult, Sums
from ulmfit_fast.training.steps import Batch, EagerSteps, Metrics, Task
from ulmfit_fast.training.stopping import Interrupted

__all__ = ["Fit", "StageResult"]

# Reading a loss waits for a GPU, so there it is read seldom; on a CPU it costs nothing.
GPU_STEPS_BETWEEN_READS = 20
CPU_STEPS_BETWEEN_READS = 1
#: Steps in a row without a finite loss and gradient after which the stage goes back to a state from
#: before, at a rate of so much of the one that led there; and how often it does.
MOST_BAD_STEPS = 3
RATE_AFTER_RETURN = 0.5
MOST_RETURNS = 3


class _DivergedError(Exception):
    """Says what is not finite."""


class Fit:
    """One stage: phases of epochs, validation after each, the best weights at the end.

    A step whose loss or gradient is not finite is skipped and counted; after MOST_BAD_STEPS of them
    in a row the stage goes back to a state that was kept, at half the rate.

    Args:
        task: what is trained.
        config: all settings; the task's stage picks its own.
        observers: told of every step that reads its loss, and of every epoch.
        from_scratch: whether the layers below the top are random.
        recorder: makes CUDA graphs of the steps, where the task is one for them; None makes none.
        keeper: keeps the state, and says when to stop; None keeps nothing.
        plan: in place of the recipe's phases, rates and schedule; None takes those.

    Raises:
        InputError: the plan is of another number of layer groups, or CUDA graphs are wanted where
            several processes train.
    """

    def __init__(
        self,
        task: Task,
        config: TrainConfig,
        observers: Sequence[Observer],
        *,
        from_scratch: bool,
        recorder: Recorder | None = None,
        keeper: Keeper | None = None,
        plan: StagePlan | None = None,
    ) -> None:
        graphed = recorder if task.has_few_shapes else None
        if graphed is not None:
            check_alone(here().size)
        self.task = task
        self.config = config
        self.settings: StageConfig = getattr(config, task.stage)
        self.observers = observers
        self.keeper = keeper or Keeper()
        on_cpu = task.device.type == "cpu"
        self.read_every = CPU_STEPS_BETWEEN_READS if on_cpu else GPU_STEPS_BETWEEN_READS
        self.groups = task.model.layer_groups()
        self.plan = plan or stage_plan(config, task.stage, len(self.groups), from_scratch)
        self.plan.check(len(self.groups))
        self.phases = self.plan.phases
        self.n_steps = sum(task.n_batches(epoch) for epoch in range(self.n_epochs))
        groups = layer_param_groups(
            self.groups,
            lr=0.0,  # set before every step
            weight_decay=config.weight_decay,
            undecayed=task.model.undecayed_parameters(),
        )
        optimizer = LayerwiseAdamW(
            groups,
            betas=config.betas,
            eps=config.eps,
            max_grad_norm=self.settings.clip or None,
            capturable=graphed is not None,
        )
        ranks = here()
        steps = EagerSteps(task, optimizer)
        if ranks.size > 1:
            # Here, as torch may have been built without process groups.
            from ulmfit_fast.training.ranked_steps import RankedSteps

            steps = RankedSteps(task, optimizer, ranks)
        if graphed is not None:
            steps = GraphSteps(task, optimizer, graphed)
        what = f"stage {task.stage}"
        steps.micro_batches.limit = RowLimit(what, task.device, self.keeper.warn)
        self.optimizer, self.steps, self.heap = optimizer, steps, Heap()
        self.now = StageParts(
            task.model, optimizer, steps, Sums(task.device), Progress(), StageResult(task.stage)
        )
        self.frozen: dict[str, float] = {}  # names of the groups that stand still, rate 0
        self._n_skipped_elsewhere = 0  # skipped steps that this optimizer does not count
        self._began = self._epoch_began = time.perf_counter()

    @property
    def n_epochs(self) -> int:
        """Epochs of all phases."""
        return sum(phase.epochs for phase in self.phases)

    def run(self) -> StageResult:
        """Train, and leave the best weights in the model.

        Raises:
            TrainingError: loss or gradient is not finite again and again, or the loss of a whole
                epoch or of validation is not, and there is no earlier state, or going back to it
                did not help.
            TrainingStopped: the keeper was asked to stop; the state is kept.
        """
        begun = self.keeper.begun()
        if begun is None:
            self._began = time.perf_counter()
            self.keeper.keep(self.place(), self.capture, at_once=True)
        else:
            self._restore(begun)
            begun.tensors.clear()  # copied by now: up to four times the model
        self._announce()
        while True:
            try:
                self._train()
                break
            except _DivergedError as error:
                self._go_back(error)
        if self.now.best_weights is not None:
            self.task.model.load_state_dict(self.now.best_weights)
        for parameter in self.task.model.parameters():
            parameter.requires_grad_(True)
        self.task.model.eval()
        result = self.now.result
        result.seconds = time.perf_counter() - self._began
        with self.keeper.held_back():
            for observer in self.observers:
                observer.stage_ended(self.task.stage, result.seconds, result.best)
        return result

    def describe(self) -> str:
        """Say in one line what the stage will do."""
        n_parameters = sum(p.numel() for p in self.task.model.parameters())
        rate = f"lr {self.phases[0].lr:g}"
        return (
            f"{n_parameters / 1e6:.1f} M parameters in {self.task.precision.name}, "
            f"{self.task.describe()}, {self.plan.describe(list(self.groups))}, {rate}"
        )

    def place(self) -> Place:
        """Return where the stage is."""
        return Place(self.task.stage, self.now.progress.step, self.n_steps)

    def capture(self) -> StageState:
        """Return everything that the stage needs to go on."""
        now = time.perf_counter()
        self.now.progress.seconds = now - self._began
        self.now.progress.epoch_seconds = now - self._epoch_began
        return self.now.capture(self.task.device, is_first=here().is_first)

    def _restore(self, state: StageState) -> None:
        self.now.restore(state, self.task.device)
        progress, now = self.now.progress, time.perf_counter()
        self._n_skipped_elsewhere = progress.n_skipped - int(self.optimizer.skipped_steps)
        self._began = now - progress.seconds
        self._epoch_began = now - progress.epoch_seconds

    def _announce(self) -> None:
        progress = self.now.progress
        told = self.task.stage, self.n_steps, self.describe()
        for observer in self.observers:
            if progress.step:
                observer.stage_resumed(*told, progress.step)
            else:
                observer.stage_started(*told)

    def _train(self) -> None:
        """Train from where the stage is to its end."""
        running: Phase | None = None
        progress = self.now.progress
        while progress.epoch < self.n_epochs:
            if self.config.patience and progress.epochs_since_best >= self.config.patience:
                return
            phase, epochs = self.plan.phase_of(progress.epoch)
            if phase is not running:
                running = phase
                self._start_phase(phase)
            self._run_epoch(phase, epochs)
            self.keeper.keep(self.place(), self.capture)

    def _start_phase(self, phase: Phase) -> None:
        trained = phase.trained(len(self.groups))
        self.frozen = {}
        for index, (name, parameters) in enumerate(self.groups.items()):
            for parameter in parameters:
                parameter.requires_grad_(index in trained)
                parameter.grad = None
            if index not in trained:
                self.frozen[name] = 0.0
        for group in self.optimizer.param_groups:
            group["frozen"] = group["layer"] in self.frozen  # so that a graph may leave them out
        self.steps.start_phase()

    def _run_epoch(self, phase: Phase, epochs: range) -> None:
        """Train an epoch from the batch that it is at, and validate."""
        progress = self.now.progress
        self.task.model.train()
        if progress.batch == 0:
            self._epoch_began = time.perf_counter()
            self.now.sums.start()
            self.steps.start_epoch()
        try:
            with self.keeper.held_back():
                self._take_steps(phase, epochs)
            if self.keeper.is_asked_to_stop():
                raise Interrupted
            metrics = {"train_loss": self.now.sums.mean(), **self.task.validate()}
        except Interrupted:  # validation changes nothing, and begins anew
            self.keeper.stop(self.place(), self.capture)
            raise
        for name in ("train_loss", "valid_loss"):
            if not math.isfinite(metrics.get(name, 0.0)):
                raise _DivergedError(f"the {name} is {metrics[name]}")
        with self.keeper.held_back():
            self._end_epoch(metrics)

    def _take_steps(self, phase: Phase, epochs: range) -> None:
        """Train on the batches that are left of an epoch."""
        progress = self.now.progress
        n_batches = [self.task.n_batches(epoch) for epoch in epochs]
        first = sum(n_batches[: progress.epoch - epochs[0]])
        last = n_batches[progress.epoch - epochs[0]] - 1
        largest = discriminative_rates(phase.lr, len(self.groups), self.plan.lr_decay)
        rates = dict(zip(self.groups, largest, strict=True))
        with closing(self.task.batches(progress.epoch, progress.batch)) as batches:
            for batch in batches:
                step = first + progress.batch
                multiplier, beta1 = self.plan.at(step, sum(n_batches), self.config.betas[0])
                multiplier *= progress.rate
                now = {layer: rate * multiplier for layer, rate in rates.items()}
                self._take_step(batch, now, beta1, is_last=progress.batch == last)
                progress.batch += 1
                self.heap.trim_if_due()
                if not progress.n_bad or self.keeper.is_asked_to_stop():
                    self.keeper.keep(self.place(), self.capture)

    def _take_step(
        self, batch: Batch, rates: dict[str, float], beta1: float, *, is_last: bool
    ) -> None:
        progress = self.now.progress
        set_rates(self.optimizer, rates, (beta1, self.config.betas[1]))
        progress.step += 1
        progress.n_tokens_unread += batch.n_tokens
        self.now.result.n_tokens += batch.n_tokens
        is_read = progress.step % self.read_every == 0 or is_last or progress.n_bad > 0
        read = partial(self._read, rates | self.frozen, beta1) if is_read else None
        parts = self.steps.step(batch, read)
        self.now.sums.add(parts.total, parts.cross_entropy)
        if is_read:
            self._count_skipped()

    def _read(self, rates: dict[str, float], beta1: float, parts: LossParts) -> None:
        """Read the loss, and tell the observers unless the step is about to be skipped."""
        if not math.isfinite(parts.total.item()):
            return
        progress = self.now.progress
        step = Step(
            self.task.stage, progress.step, progress.epoch + 1, parts.cross_entropy.item(),
            progress.n_tokens_unread, rates, beta1,
        )  # fmt: skip
        for observer in self.observers:
            observer.step(step)
        progress.n_tokens_unread = 0

    def _count_skipped(self) -> None:
        """Count steps that the optimizer skipped; raise _DivergedError once they are too many."""
        progress = self.now.progress
        n_skipped = int(self.optimizer.skipped_steps) + self._n_skipped_elsewhere
        progress.n_bad = progress.n_bad + 1 if n_skipped > progress.n_skipped else 0
        progress.n_skipped = n_skipped
        if progress.n_bad >= MOST_BAD_STEPS:
            raise _DivergedError(
                f"{MOST_BAD_STEPS} steps in a row had a loss or gradient not finite"
            )

    def _end_epoch(self, metrics: Metrics) -> None:
        progress = self.now.progress
        if progress.n_skipped > progress.n_skipped_told:
            metrics["skipped_steps"] = progress.n_skipped - progress.n_skipped_told
            progress.n_skipped_told = progress.n_skipped
        metrics["seconds"] = time.perf_counter() - self._epoch_began
        self.now.result.epochs.append(metrics)
        self._keep_if_best(metrics)
        progress.epoch += 1
        progress.batch = 0
        for observer in self.observers:
            observer.epoch_ended(self.task.stage, progress.epoch, metrics)

    def _keep_if_best(self, metrics: Metrics) -> None:
        score, progress = self.task.score(metrics), self.now.progress
        if not score:  # no validation part: the last weights are kept
            self.now.result.best = metrics
        elif progress.best_score is None or score < progress.best_score:
            progress.best_score = score
            self.now.best_weights = copy.deepcopy(self.task.model.state_dict())
            self.now.result.best = metrics
            progress.epochs_since_best = 0
        else:
            progress.epochs_since_best += 1

    def _go_back(self, why: _DivergedError) -> None:
        """Go on from a state that was kept, at a lower rate, or raise TrainingError."""
        place, n_returns = self.place(), self.now.progress.n_returns
        state = self.keeper.go_back() if n_returns < MOST_RETURNS else None
        if state is None:
            after = f" after going back {n_returns} times" if n_returns else ""
            raise TrainingError(
                f"stage {place.stage}, step {place.step}: {why}{after}, so the stage was given up. "
                "Lower the learning rate or clip the gradient."
            ) from why
        rate = self.now.progress.rate * RATE_AFTER_RETURN
        self._restore(state)
        self.now.progress.rate, self.now.progress.n_returns = rate, n_returns + 1
        self.keeper.warn(
            f"stage {place.stage}, step {place.step}: {why}; back to step "
            f"{self.now.progress.step} with {rate:g} of the learning rate"
        )
        self._announce()
