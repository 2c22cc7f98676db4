"""Runs the stages of a training in order, also one whose process was stopped in the middle.

With checkpoints the same calls are made again in a new process: a finished stage gives back what it
made, the one that ran goes on where it was, and those after it are new.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from ulmfit_fast import __version__
from ulmfit_fast.errors import InputError
from ulmfit_fast.model import LanguageModel, TextClassifier
from ulmfit_fast.text.corpus import Corpus
from ulmfit_fast.text.tokenizer import Tokenizer
from ulmfit_fast.training.config import StageName, TrainConfig
from ulmfit_fast.training.device import seeded
from ulmfit_fast.training.graphs import Recorder
from ulmfit_fast.training.history import History
from ulmfit_fast.training.joining import here, is_first
from ulmfit_fast.training.keeper import StageState
from ulmfit_fast.training.loop import Fit, StageResult
from ulmfit_fast.training.observer import Observer
from ulmfit_fast.training.plan import StagePlan
from ulmfit_fast.training.ranked_keeper import (
    keeper_of,
    say_other_number,
    seed_of_rank,
    together,
)
from ulmfit_fast.training.restore import (
    describe_model,
    described,
    restore_model,
    settings_in,
    settings_of,
)
from ulmfit_fast.training.resume import LANGUAGE_MODEL_STAGES, Checkpoints
from ulmfit_fast.training.snapshot import Snapshot
from ulmfit_fast.training.stage_state import below
from ulmfit_fast.training.stopping import Interrupted
from ulmfit_fast.training.tasks import ClassifierTask, LanguageModelTask

Model = LanguageModel | TextClassifier
Task = LanguageModelTask | ClassifierTask


@dataclass(frozen=True)
class Stage:
    """A stage, and how to make what it needs where no checkpoint has it.

    Attributes:
        name: its name.
        config: all settings.
        data: texts and labels; what of them changes nothing of the training need not be here.
        from_scratch: whether the layers below the top are random.
        tokenizer: makes the tokenizer.
        model: makes the model, with the stage's seed.
        task: makes the task.
        labels: names of the classes.
        plan: in place of the recipe's; None for the recipe's.
    """

    name: StageName
    config: TrainConfig
    data: Sequence[Iterable[str] | None]
    from_scratch: bool
    tokenizer: Callable[[], Tokenizer]
    model: Callable[[Tokenizer], Model]
    task: Callable[[Any, Tokenizer], Task]
    labels: tuple[str, ...] = ()
    plan: StagePlan | None = None


@dataclass(frozen=True)
class Outcome:
    """What a stage made.

    Attributes:
        tokenizer: of the model.
        model: None for one that a later stage has replaced, or whose checkpoint is damaged.
        result: seconds, tokens and metrics.
    """

    tokenizer: Tokenizer
    model: Model | None
    result: StageResult


class Stages:
    """Runs stages.

    Args:
        checkpoints: where to save the training; None saves nothing.
        described: JSON values of the trainer, for whoever goes on.
    """

    def __init__(self, checkpoints: Checkpoints | None, described: dict[str, Any]) -> None:
        self._device = torch.device("cpu")
        self._observers: Sequence[Observer] = ()
        self._recorder: Recorder | None = None
        self._checkpoints = checkpoints
        self._described = described
        self._history: list[dict[str, Any]] = []
        self._is_begun = False

    def of_all_processes(self, config: TrainConfig) -> TrainConfig:
        """Return settings whose batches are those of all processes that began the training."""
        n = self._described["processes"]
        for stage in ("pretrain", "language_model", "classifier"):
            config = config.with_stage(stage, batch_size=n * getattr(config, stage).batch_size)
        return config

    def told(self, observers: Sequence[Observer]) -> Sequence[Observer]:
        """Return which observers this process tells: one of several keeps a history at most."""
        return [each for each in observers if is_first() or isinstance(each, History)]

    def run(
        self,
        stage: Stage,
        device: torch.device,
        observers: Sequence[Observer],
        recorder: Recorder | None,
    ) -> Outcome:
        """Run a stage, or the rest of it.

        Args:
            stage: which.
            device: where to train.
            observers: told of every step and epoch.
            recorder: makes CUDA graphs of a language model's steps; None makes none.

        Raises:
            InputError: a checkpoint is of another stage, of other settings or of other texts, or a
                stage was broken off before.
            TrainingError: as Fit.run.
            TrainingStopped: a signal came or the time is over.
        """
        ranks, checkpoints = here(), self._checkpoints
        self._device, self._observers, self._recorder = device, self.told(observers), recorder
        if "processes" not in self._described:
            n = ranks.size if checkpoints is None else checkpoints.begun_by()
            self._described["processes"] = n
        try:
            return self._run(stage)
        finally:  # a trainer that does not train is copied and pickled
            self._observers, self._recorder = (), None

    def _run(self, stage: Stage) -> Outcome:
        checkpoints = self._checkpoints
        if checkpoints is None:
            return self._train(stage, None, None)
        if self._is_begun:
            # Begun anew, its checkpoints would soon take the place of those of before.
            raise InputError(
                f"a stage was broken off in this trainer; go on with: {checkpoints.how_to_go_on}"
            )
        try:
            with checkpoints.stop.listening(), checkpoints.locked():
                return self._run_kept(stage, checkpoints)
        except Interrupted as error:
            raise checkpoints.stopped(f"stage {stage.name}, outside its steps") from error

    def _run_kept(self, stage: Stage, checkpoints: Checkpoints) -> Outcome:
        index, resumed = len(self._history), checkpoints.resumed
        entry = {"stage": stage.name, "fingerprint": fingerprint(stage)}
        done = resumed.values["history"] if resumed is not None else []
        begun: Snapshot | None = None
        if resumed is not None and index < len(done):
            check_same(done[index], entry, checkpoints)
            outcome = self._finished(done, index, resumed, checkpoints)
        else:
            if resumed is not None and resumed.values["index"] == index and not is_done(resumed):
                check_same(resumed.values["entry"], entry, checkpoints)
                begun = resumed
            outcome = self._train(stage, begun, entry)
        # Until its end is kept: a call after an error in that would be taken for the next stage's.
        self._is_begun = True
        history = [*self._history, {**entry, "result": asdict(outcome.result)}]
        model = outcome.model
        if index >= len(done) and model is not None:
            made = (model, outcome.tokenizer)
            with checkpoints.stop.held_back(), here().in_turn(f"saving stage {stage.name}"):
                checkpoints.try_to_write(
                    lambda: self._end_of(stage, entry, made, history), f"{stage.name}-done"
                )
        self._history, self._is_begun = history, False
        if here().any(checkpoints.stop.signal is not None)[0]:  # held back since the last step
            self._is_begun = True
            raise Interrupted
        return outcome

    def _train(self, stage: Stage, begun: Snapshot | None, entry: dict[str, Any] | None) -> Outcome:
        with seeded(stage.config.seed, self._device):
            if begun is None:
                tokenizer = stage.tokenizer()
                model, from_scratch = stage.model(tokenizer), stage.from_scratch
            else:
                tokenizer, model = begun.tokenizer, self._model_of(begun)
                from_scratch = begun.values["from_scratch"]
            task = stage.task(model, tokenizer)
            ranks = here()
            ranks.meet("getting ready for a stage")
            if ranks.size > 1:
                content = f"{__version__} {torch.__version__} {stage.config} {corpora_of(task)}"
                ranks.check_same(content, "texts, settings or versions")
            seed_of_rank(stage.config.seed, ranks)
            keeper = None
            if self._checkpoints is not None and entry is not None:
                frame = self._frame(stage, entry, (model, tokenizer), self._history)
                frame.values["from_scratch"] = from_scratch
                frame.values["corpora"] = corpora_of(task)
                state = state_of(begun, frame)
                say_other_number(state, ranks, self._checkpoints)
                keeper = keeper_of(self._checkpoints, frame, state, ranks, task.train.batch_size)
            fit = Fit(
                task, stage.config, self._observers, from_scratch=from_scratch,
                recorder=self._recorder, keeper=keeper, plan=stage.plan,
            )  # fmt: skip
            self._is_begun = keeper is not None
            with together(ranks, fit.place, model, self._checkpoints):
                result = fit.run()
            self._is_begun = False
            return Outcome(tokenizer, model, result)

    def _frame(
        self, stage: Stage, entry: dict[str, Any], made: tuple[Model, Tokenizer],
        history: list[dict[str, Any]],
    ) -> Snapshot:  # fmt: skip
        """Return what all checkpoints of a stage have alike."""
        model, tokenizer = made
        values = {
            "index": len(history), "stage": stage.name, "entry": entry,
            "history": list(history), "trainer": self._described,
            "model": describe_model(model, list(stage.labels)),
            "train": settings_of(model, stage.config).to_dict(),
        }  # fmt: skip
        return Snapshot(values, {}, tokenizer)

    def _end_of(
        self, stage: Stage, entry: dict[str, Any], made: tuple[Model, Tokenizer],
        history: list[dict[str, Any]],
    ) -> Snapshot:  # fmt: skip
        """Return the checkpoint of a finished stage.

        Its index is that of the stage to come: what is done stands in the history.
        """
        state = made[0].state_dict()
        tensors = {f"model/{name}": each.detach().cpu() for name, each in state.items()}
        return replace(self._frame(stage, entry, made, history), tensors=tensors)

    def _finished(
        self, done: list[dict[str, Any]], index: int, resumed: Snapshot, checkpoints: Checkpoints
    ) -> Outcome:
        """Return the outcome of a stage that was finished in another process."""
        model: Model | None = None
        tokenizer = resumed.tokenizer
        result = StageResult(**done[index]["result"])
        later = {each["stage"] for each in done[index + 1 :]}
        kept: Snapshot | None = None
        if index == len(done) - 1 and is_done(resumed):
            kept = resumed
        elif result.stage in LANGUAGE_MODEL_STAGES and not later & set(LANGUAGE_MODEL_STAGES):
            kept = checkpoints.finished_language_model(index)
        if kept is not None:
            model, tokenizer = self._model_of(kept).eval(), kept.tokenizer
            kept.tensors.clear()  # not needed again, and as large as the model
        return Outcome(tokenizer, model, result)

    def _model_of(self, snapshot: Snapshot) -> Model:
        where = "state.json of the checkpoint"
        settings = settings_in(snapshot.values, where)
        model = described(snapshot.values["model"], snapshot.tokenizer, where)
        tensors = below(snapshot.tensors, "model")
        return restore_model(model, settings, tensors, where).to(self._device)


def is_done(snapshot: Snapshot) -> bool:
    """Say whether a checkpoint is of a stage that is finished."""
    return "state" not in snapshot.values


def state_of(begun: Snapshot | None, frame: Snapshot) -> StageState | None:
    """Return the state of a checkpoint, whose ids must be those of now; None without one.

    Raises:
        InputError: the same texts gave other ids than before, as another library may.
    """
    if begun is None:
        return None
    if begun.values["corpora"] != frame.values["corpora"]:
        raise InputError(
            f"stage {frame.values['stage']}: the texts have other ids than when the checkpoint was "
            "made; go on with the versions of ulmfit_fast and tokenizers that made it"
        )
    return StageState(begun.values["state"], begun.tensors)


def check_same(kept: dict[str, Any], now: dict[str, Any], checkpoints: Checkpoints) -> None:
    """Raise InputError unless a stage is the one that a checkpoint is of."""
    if kept["stage"] != now["stage"]:
        raise InputError(
            f"{checkpoints.folder}: its checkpoint is of stage {kept['stage']}, but "
            f"{now['stage']} was called; make the same calls as before"
        )
    for what, hash_now in now["fingerprint"].items():
        if kept["fingerprint"].get(what) != hash_now:
            raise InputError(
                f"{checkpoints.folder}: stage {now['stage']} was begun with other {what}; go on "
                "with the same, or train anew in another folder"
            )


def fingerprint(stage: Stage) -> dict[str, str]:
    """Return hashes of the settings and of the data of a stage."""
    plan = {} if stage.plan is None else {"plan": asdict(stage.plan)}
    settings = json.dumps(stage.config.to_dict() | plan, sort_keys=True)
    digest = hashlib.sha256()
    for part in stage.data:
        digest.update(b"-" if part is None else b"+")
        for text in part or ():
            content = str(text).encode("utf-8", "surrogatepass")
            digest.update(len(content).to_bytes(8, "little"))
            digest.update(content)
    return {
        "settings": hashlib.sha256(settings.encode()).hexdigest(),
        "texts or labels": digest.hexdigest(),
    }


def corpora_of(task: Task) -> list[str | None]:
    """Return the hashes of a task's ids, to train on and to measure on."""
    parts = task.train, task.valid
    return [None if part is None else corpus_hash(part.corpus) for part in parts]


def corpus_hash(corpus: Corpus) -> str:
    """Return the SHA-256 of a corpus's ids and of where its documents begin."""
    digest = hashlib.sha256(np.ascontiguousarray(corpus.offsets).data)
    digest.update(np.ascontiguousarray(corpus.ids).data)
    return digest.hexdigest()
