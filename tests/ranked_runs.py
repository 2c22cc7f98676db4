"""Small trainings in several processes and in one; also the program of each process."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from resume_runs import At, asks_to_stop, make_checkpoints, without_times
from small_training import LIGHT, draw_texts, small_config
from torch import nn

from ulmfit_fast import TrainConfig, TrainingStopped, ULMFiTTrainer
from ulmfit_fast.model import Dropouts, LossParts
from ulmfit_fast.training.joining import join, leave
from ulmfit_fast.training.observer import Observer, Step
from ulmfit_fast.training.resume import Checkpoints
from ulmfit_fast.training.stopping import StopRequest
from ulmfit_fast.training.tasks import LanguageModelTask

N_RANKS, N_ROWS = 2, 12  # rows of all processes
NO_DROPOUT = Dropouts().scaled(0.0)
NEVER = StopRequest()


def config(dropouts: Dropouts, n_processes: int) -> TrainConfig:
    """Return settings whose batches have the same rows in any number of processes.

    eps is so large that Adam does not blow rounding up where a gradient is all but zero.
    """
    found = small_config("paper", variable_bptt=True, weight_decay=0.02, seed=3, eps=1e-3)
    found = dataclasses.replace(found, bptt=7, max_len=14)
    for stage in ("pretrain", "language_model", "classifier"):
        found = found.with_stage(
            stage, epochs=3, batch_size=N_ROWS // n_processes, dropouts=dropouts
        )
    return found


class Losses(Observer):
    """Keeps every loss that is told."""

    def __init__(self) -> None:
        self.of: list[float] = []

    def step(self, step: Step) -> None:
        self.of.append(step.loss)


def train(trainer: ULMFiTTrainer) -> dict[str, Any]:
    """Train all stages; return what came out of them."""
    texts, labels = draw_texts(61)  # the last batch of documents is a smaller one
    valid_texts, valid_labels = draw_texts(21, seed=1)
    losses = Losses()
    trainer.observers = [*trainer.observers, losses]
    results = [
        trainer.pretrain(texts[:40], valid_texts),
        trainer.finetune_lm(texts, valid_texts),
        trainer.train_classifier(texts, labels, valid_texts, valid_labels),
    ]
    assert trainer.language_model is not None
    assert trainer.classifier is not None
    assert type(trainer.classifier.head[0]) is nn.BatchNorm1d
    states = {"lm": trainer.language_model, "classifier": trainer.classifier}
    return {
        "weights": {
            f"{part}/{name}": tensor
            for part, model in states.items()
            for name, tensor in model.state_dict().items()
        },
        "losses": losses.of,
        "results": without_times([dataclasses.asdict(result) for result in results]),
    }


def begin(
    settings: TrainConfig, checkpoints: Checkpoints | None = None, *observers: Observer
) -> ULMFiTTrainer:
    return ULMFiTTrainer(
        settings, size="tiny", device="cpu", checkpoints=checkpoints, observers=observers
    )


class AskedAtStep3(StopRequest):
    """Is asked to stop after so many steps, also where no observer is told of them."""

    n_calls = 0

    def is_asked(self, saving_s: float = 0.0) -> bool:
        self.n_calls += 1  # the first one is before the first step
        return self.n_calls > 3


def stop_at(
    folder: Path, settings: TrainConfig, stage: str, step: int, stop: StopRequest | None = None
) -> None:
    """Begin a training that is asked to stop at a step; by stop, or in this process."""
    checkpoints = make_checkpoints(folder, stop=stop or StopRequest())
    act = asks_to_stop(checkpoints) if stop is None else lambda: None
    try:
        train(begin(settings, checkpoints, At(stage, step, act)))
    except TrainingStopped as stopped:
        assert f"stage {stage}, step {step} of" in str(stopped)  # noqa: PT017 - in no test
    else:
        raise AssertionError("the training was not stopped")


def go_on(folder: Path) -> dict[str, Any]:
    return train(ULMFiTTrainer.resume(make_checkpoints(folder, warn=warnings.append)))


warnings: list[str] = []


def without_head_dropout() -> None:
    """The head's second dropout has no setting; draws differ from process to process."""
    nn.Dropout.forward = lambda _, x: x  # type: ignore[method-assign]


def poison(at_call: int) -> Callable[[], None]:
    """Have a call of the language model's loss be NaN in this process; return what undoes that."""
    before, n_calls = LanguageModelTask.loss, [0]

    def loss(self: LanguageModelTask, *arguments: Any) -> Any:
        parts, state = before(self, *arguments)
        n_calls[0] += 1
        factor = torch.nan if n_calls[0] == at_call else 1.0
        return LossParts(parts.total * factor, parts.cross_entropy), state

    def undo() -> None:
        LanguageModelTask.loss = before  # type: ignore[method-assign]

    LanguageModelTask.loss = loss  # type: ignore[assignment, method-assign]
    return undo


def run_rank(folder: Path) -> dict[str, Any]:
    """Do everything that the test looks at; return what came out of it in this process."""
    ranks = join(60.0)
    found: dict[str, Any] = {"rank": ranks.rank}
    dropped = config(LIGHT, N_RANKS)
    found["dropped"] = train(begin(dropped))
    stop_at(folder / "dropped", dropped, "pretrain", 3, AskedAtStep3() if ranks.rank else NEVER)
    found["dropped, went on"] = go_on(folder / "dropped")
    # Draws of the host: only the first process has asked for them, and they arrive everywhere.
    found["made by the first"] = ranks.from_first(lambda: f"rank {ranks.rank}".encode(), "it")
    undo = poison(4) if ranks.rank == 1 else lambda: None
    found["poisoned"] = train(begin(dropped))
    undo()
    without_head_dropout()
    plain = config(NO_DROPOUT, N_RANKS)
    found["plain"] = train(begin(plain))
    stop_at(folder / "by two", plain, "language_model", 4)
    warnings.clear()
    found["plain, begun by one"] = go_on(folder / "by one")
    found["warnings"] = list(warnings)
    try:
        ranks.check_same(f"rank {ranks.rank}", "numbers")
    except ValueError as error:
        found["different"] = str(error)
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    place = Path(sys.argv[1])
    made = run_rank(place)
    torch.save(made, place / f"rank{made['rank']}.pt")
    leave()
