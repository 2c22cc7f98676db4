"""`ulmfit-fast train` and `pretrain`: read, check, choose, say what was chosen, train, save."""

from __future__ import annotations

import json
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ulmfit_fast.commands.base import check_base, check_size, default_base, given_base
from ulmfit_fast.commands.cache import cache_folder
from ulmfit_fast.commands.choices import Base, check_settings, choose, count_words
from ulmfit_fast.commands.convert import ConvertOptions, read_source
from ulmfit_fast.commands.data import (
    TrainingData,
    read_general,
    read_training_data,
    reading_remarks,
    skipped_of,
)
from ulmfit_fast.commands.environment import peak_memory
from ulmfit_fast.commands.held_out import split_documents
from ulmfit_fast.commands.loggers import make_loggers
from ulmfit_fast.commands.ranked import after_restart, checkpoints_of, note_stop, run_folder
from ulmfit_fast.commands.report import LanguageModelStage, Run, say_plan, summarize
from ulmfit_fast.commands.run_folder import RunFolder, find_model, write_skipped
from ulmfit_fast.commands.run_report import make_report, parts_of
from ulmfit_fast.commands.summary import say_results
from ulmfit_fast.commands.terminal import Terminal
from ulmfit_fast.commands.train_options import (
    RECORD,
    TrainOptions,
    read_record,
    write_record,
)
from ulmfit_fast.errors import InputError, TrainingStopped
from ulmfit_fast.text import TextStream, TextTable
from ulmfit_fast.training.config import StageName
from ulmfit_fast.training.joining import here, is_first, join, leave
from ulmfit_fast.training.observer import Observer
from ulmfit_fast.training.progress import ConsoleProgress, JsonlLog
from ulmfit_fast.training.resume import Checkpoints
from ulmfit_fast.training.stopping import Interrupted
from ulmfit_fast.training.trainer import ULMFiTTrainer


def train(options: TrainOptions, terminal: Terminal) -> None:
    """Train a classifier from a table of texts and labels, and write the run's folder.

    Raises:
        InputError: an option, a file or a model cannot be used; nothing was written.
        TrainingError: the loss is not finite.
    """
    ranks = join(options.rank_timeout_s)
    with ranks.in_turn("reading the files"):
        prepared = _prepared(options, terminal)
    if prepared is not None:
        _execute(*prepared, terminal)
    leave()


def _prepared(
    options: TrainOptions, terminal: Terminal
) -> tuple[Run, RunFolder, TrainOptions] | None:
    """Read, check and choose; None where the run is finished already."""
    options = after_restart(options, "train", here().launch_id)
    folder = run_folder(options, "train")
    if options.resume is not None:
        if folder.path.exists() and not folder.unfinished.exists():
            _say_finished(folder, terminal)
            return None
        options = read_record(options, folder.unfinished, "train")
    check_settings(options.settings)
    chosen = given_base(options.base, options.settings, options.files.general)
    data = read_training_data(options.files, options.settings.seed)
    base, why = chosen or default_base([*data.train.texts, *data.unlabelled])
    stages = _language_model_stages(data, base, options.settings.seed)
    run = _choose(options, stages, base=base, data=data)
    run.why_base = why
    return run, folder, options


def pretrain(options: TrainOptions, terminal: Terminal) -> None:
    """Train a language model on one or more files of text, and write the run's folder.

    Without a file the model to start from is written as it is.

    Raises:
        InputError: an option or the file cannot be used; nothing was written.
        TrainingError: the loss is not finite.
    """
    ranks = join(options.rank_timeout_s)
    with ExitStack() as stack:  # of the model to start from
        with ranks.in_turn("reading the file"):
            prepared = _prepared_pretraining(options, terminal, stack)
        if prepared is not None:
            _execute(*prepared, terminal)
    leave()


def _prepared_pretraining(
    options: TrainOptions, terminal: Terminal, stack: ExitStack
) -> tuple[Run, RunFolder, TrainOptions] | None:
    """Read, check and choose; None where there is nothing to train."""
    options = after_restart(options, "pretrain", here().launch_id)
    if options.resume is not None:
        folder = run_folder(options, "pretrain")
        if folder.path.exists() and not folder.unfinished.exists():
            _say_finished(folder, terminal)
            return None
        options = read_record(options, folder.unfinished, "pretrain")
    if options.start is None:
        if not options.files.train:
            raise InputError("no FILE: give the text to train on, or a model to take with --from")
        folder = run_folder(options, "pretrain")
        return _chosen_pretraining(options, None), folder, options
    if not options.files.train and options.settings.lm_epochs:
        raise InputError("--epochs needs a FILE to train on; leave it out to take the model as is")
    folder = run_folder(options, "pretrain")
    check_size(options.settings, "--from", options.start)
    start = stack.enter_context(model_folder_of(options.start, terminal))
    base = check_base(start, "--from", options.start)
    if options.files.train:
        return _chosen_pretraining(options, base), folder, options
    if is_first():
        _take(options.start, base.folder, folder, terminal)
    return None


def _take(start: str, model: Path, folder: RunFolder, terminal: Terminal) -> None:
    """Write the folder of a run that trains nothing."""
    with folder.fill() as place:
        ULMFiTTrainer.load(model, device="cpu").save(place / "language_model")
        facts = {"kind": "pretrain", "out": str(folder.path), "source": None, "base": start}
        write_json(place / "run.json", {**facts, "stages": []})
    terminal.say(f"model           {folder.path / 'language_model'}, as it was in {start}")
    out = shlex.quote(str(folder.path))
    terminal.say(f"next            ulmfit-fast train FILE --base {out}")
    terminal.result({**facts, "stages": []})


def _chosen_pretraining(options: TrainOptions, base: Base | None) -> Run:
    name: StageName = "pretrain" if base is None else "language_model"
    table = read_general(options.files)
    documents = table if isinstance(table, TextStream) else table.texts
    parts = split_documents(documents, table.source, options.settings.seed)
    stages = [LanguageModelStage(name, *parts)]
    return _choose(options, stages, base=base, table=table)


@contextmanager
def model_folder_of(start: str, terminal: Terminal) -> Iterator[Path]:
    """Have a language model in a folder: its own, or for a while one made of fastai's file."""
    folder = find_model(Path(start), "language_model")
    if (folder / "config.json").exists():
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="ulmfit-fast-") as made:
        place = Path(made) / "language_model"
        trainer = read_source(ConvertOptions(start, place), terminal)
        trainer.save(place)
        yield place


def _say_finished(folder: RunFolder, terminal: Terminal) -> None:
    if is_first():
        folder.tidy()
    terminal.say(f"{folder.path}: finished already")


def _language_model_stages(
    data: TrainingData, base: Base | None, seed: int
) -> list[LanguageModelStage]:
    """Return the stages before the classifier: general text, then the target's."""
    target = [*data.train.texts, *data.unlabelled]
    valid = list(dict.fromkeys(data.valid.texts))
    if base is not None:
        return [LanguageModelStage("language_model", target, valid)]
    if not data.general:
        return [LanguageModelStage("pretrain", target, valid)]
    general = LanguageModelStage("pretrain", *split_documents(data.general, "--general", seed))
    return [general, LanguageModelStage("language_model", target, valid)]


def _choose(
    options: TrainOptions,
    stages: list[LanguageModelStage],
    *,
    base: Base | None = None,
    data: TrainingData | None = None,
    table: TextTable | TextStream | None = None,
) -> Run:
    """Decide what was left open, from the data of a classifier or the table of a language model."""
    n_words = {stage.name: count_words(stage.texts) for stage in stages}
    n_rows = len(data.train) if data else 0
    choices = choose(options.settings, n_words, n_rows, stages[-1].name, base)
    cache = cache_folder(options.cache, is_wanted=not options.no_cache)
    run = Run(options.files.train, choices, stages, base=base.folder if base else None, data=data)
    run.cache, run.start, run.has_report = cache, options.start, options.report
    run.log_to = options.log_to
    if data is not None:
        run.skipped, run.remarks = data.skipped, data.remarks
    if table is not None:
        run.skipped, run.remarks = skipped_of(table), reading_remarks(table)
    return run


def _execute(run: Run, folder: RunFolder, options: TrainOptions, terminal: Terminal) -> None:
    """Say what will be done, do it, and say what came out; of several processes, in the first."""
    if not is_first():
        _follow(run, folder, options, terminal)
        return
    run.command, run.launch_id = options.command, here().launch_id
    say_plan(run, folder.path, terminal)
    with (
        folder.fill() as place,
        observing(
            place / "metrics.jsonl", run, make_loggers(run, place, folder.path.name, terminal.warn)
        ) as observers,
    ):
        if not (place / RECORD).exists():
            write_record(place, "train" if run.data else "pretrain", options, run.launch_id)
        note_stop(place, None, run.launch_id)
        write_skipped(place / "skipped.csv", run.skipped)
        checkpoints = checkpoints_of(folder, options, terminal)
        try:
            with checkpoints.stop.listening():
                trainer = _run_stages(run, place, observers, checkpoints)
                run.seconds = checkpoints.seconds
                run.peak_memory = peak_memory(run.choices.device)
                write_json(place / "run.json", summarize(run, folder.path))
        except Interrupted as error:
            raise checkpoints.stopped("a place between two stages") from error
        except TrainingStopped as stopped:
            note_stop(place, stopped, run.launch_id)
            raise
        except OSError as error:  # a full disk names no file
            raise OSError(error.errno, error.strerror, error.filename or str(place)) from error
    if run.has_report:
        make_report(trainer, parts_of(run.data), folder.path, terminal)
    say_results(run, folder.path, terminal)
    terminal.result(summarize(run, folder.path))


def _follow(run: Run, folder: RunFolder, options: TrainOptions, terminal: Terminal) -> None:
    """Train with the first process, which does everything else."""
    checkpoints = checkpoints_of(folder, options, terminal)
    try:
        with checkpoints.stop.listening():
            _run_stages(run, folder.unfinished, [], checkpoints)
    except Interrupted as error:
        raise checkpoints.stopped("a place between two stages") from error


def _run_stages(
    run: Run, place: Path, observers: Sequence[Observer], checkpoints: Checkpoints
) -> ULMFiTTrainer:
    """Run the stages that are left, save the models, and return the trainer."""
    if checkpoints.find() is None and is_first():
        (place / "metrics.jsonl").unlink(missing_ok=True)
    trainer = _make_trainer(run, observers, checkpoints)
    table = run.data.table if run.data is not None else None
    trainer.text_columns = table.text_columns if table and table.has_names else ()
    for stage in run.stages:
        fit = trainer.pretrain if stage.name == "pretrain" else trainer.finetune_lm
        run.results.append(fit(stage.texts, stage.valid_texts))
    if not (place / "language_model").exists():
        trainer.save(place / "language_model", "language_model")
    if run.data is not None:
        _classify(run, run.data, trainer)
        trainer.save(place / "model", "classifier")
    return trainer


def _make_trainer(
    run: Run, observers: Sequence[Observer], checkpoints: Checkpoints
) -> ULMFiTTrainer:
    choices = run.choices
    if run.base is not None:
        return ULMFiTTrainer.load(
            run.base, config=choices.config, device=choices.device, observers=observers,
            cache_dir=run.cache, cuda_graphs=choices.cuda_graphs, checkpoints=checkpoints,
        )  # fmt: skip
    return ULMFiTTrainer(
        choices.config, size=choices.size, tokenizer_kind=choices.tokenizer,
        device=choices.device, observers=observers, cache_dir=run.cache,
        cuda_graphs=choices.cuda_graphs, checkpoints=checkpoints,
    )  # fmt: skip


def _classify(run: Run, data: TrainingData, trainer: ULMFiTTrainer) -> None:
    """Train the classifier and test it once."""
    train, valid = data.train, data.valid
    run.results.append(
        trainer.train_classifier(train.texts, train.labels, valid.texts, valid.labels)
    )
    if not is_first():
        return
    run.valid = trainer.evaluate(valid.texts, valid.labels)
    if data.test is not None:
        run.test = trainer.evaluate(data.test.texts, data.test.labels)


@contextmanager
def observing(
    log: Path, run: Run | None = None, loggers: Sequence[Observer] = ()
) -> Iterator[list[Observer]]:
    """Show progress on standard error, log it to a file and to loggers, until the block ends."""
    stages, device = (run.epochs, run.choices.device) if run is not None else (None, None)
    console = ConsoleProgress(stages=stages, device=device)
    observers: list[Observer] = [console, JsonlLog(log), *loggers]
    try:
        yield observers
    finally:
        for observer in observers:
            observer.close()


def write_json(path: Path, values: object) -> None:
    """Write a JSON file that people can read."""
    path.write_text(json.dumps(values, indent=1, allow_nan=False) + "\n", encoding="utf-8")
