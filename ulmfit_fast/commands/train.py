"""`ulmfit-fast train` and `pretrain`: read, check, choose, say what was chosen, train, save."""

from __future__ import annotations

import csv
import json
import random
import shlex
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ulmfit_fast.commands.cache import cache_folder
from ulmfit_fast.commands.choices import Base, Settings, check_settings, choose, count_words
from ulmfit_fast.commands.convert import ConvertOptions, read_source
from ulmfit_fast.commands.data import Files, TrainingData, header_remark, read_training_data
from ulmfit_fast.commands.report import LanguageModelStage, Run, say_plan, say_results, summarize
from ulmfit_fast.commands.run_folder import RunFolder, default_out, find_model
from ulmfit_fast.commands.terminal import Terminal
from ulmfit_fast.errors import InputError
from ulmfit_fast.text import SkippedRow, TextStream, TextTable, read_table, stream_texts
from ulmfit_fast.training.config import StageName
from ulmfit_fast.training.observer import Observer
from ulmfit_fast.training.progress import ConsoleProgress, JsonlLog
from ulmfit_fast.training.trainer import ULMFiTTrainer

# Share of a general text's documents that the language model is measured on.
GENERAL_VALID_SHARE = 0.05


@dataclass(frozen=True)
class TrainOptions:
    """Options of `train` and `pretrain`.

    Attributes:
        files: what to read.
        settings: what the user decided.
        base: folder of a language model to start from.
        start: of `pretrain`: the same, or a file or address of fastai's.
        out: folder of the run; None is runs/<name of the file>.
        overwrite: whether to replace a finished run.
        cache: folder for numericalized texts; None is the user's cache folder.
        no_cache: whether to keep none.
    """

    files: Files
    settings: Settings
    base: Path | None = None
    start: str | None = None
    out: Path | None = None
    overwrite: bool = False
    cache: Path | None = None
    no_cache: bool = False


def train(options: TrainOptions, terminal: Terminal) -> None:
    """Train a classifier from a table of texts and labels, and write the run's folder.

    Raises:
        InputError: an option, a file or a model cannot be used; nothing was written.
        TrainingError: the loss is not finite.
    """
    folder = _run_folder(options)
    if options.base and options.files.general:
        raise InputError(
            "--base and --general exclude each other: give a pretrained model, or the text to "
            "pretrain one on"
        )
    check_settings(options.settings)
    if options.base:
        check_size(options.settings, "--base", options.base)
    base = check_base(options.base) if options.base else None
    data = read_training_data(options.files, options.settings.seed)
    stages = _language_model_stages(data, base, options.settings.seed)
    run = _choose(options, stages, base=base, data=data)
    _execute(run, folder, terminal)


def pretrain(options: TrainOptions, terminal: Terminal) -> None:
    """Train a language model on a file of text, and write the run's folder.

    Without a file the model to start from is written as it is.

    Raises:
        InputError: an option or the file cannot be used; nothing was written.
        TrainingError: the loss is not finite.
    """
    if options.start is None:
        if not options.files.train:
            raise InputError("no FILE: give the text to train on, or a model to take with --from")
        _pretrain(options, _run_folder(options), None, terminal)
        return
    if not options.files.train and options.settings.lm_epochs:
        raise InputError("--epochs needs a FILE to train on; leave it out to take the model as is")
    folder = _run_folder(options)
    check_size(options.settings, "--from", options.start)
    with model_folder_of(options.start, terminal) as start:
        base = check_base(start, "--from", options.start)
        if not options.files.train:
            _take(options.start, base.folder, folder, terminal)
        else:
            _pretrain(options, folder, base, terminal)


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


def check_size(settings: Settings, option: str, model: object) -> None:
    """Refuse a size or a tokenizer beside a model, which has its own."""
    if settings.size or settings.tokenizer:
        given = "--size" if settings.size else "--tokenizer"
        raise InputError(
            f"{option} and {given} exclude each other: the model at {model} has its size and its "
            f"tokenizer; leave {given} out"
        )


def _pretrain(
    options: TrainOptions, folder: RunFolder, base: Base | None, terminal: Terminal
) -> None:
    files = options.files
    name: StageName = "pretrain" if base is None else "language_model"
    columns, seed = files.text_columns or None, options.settings.seed
    table: TextTable | TextStream | None = stream_texts(
        files.train, text_columns=columns, encoding=files.encoding, header=files.header
    )
    if isinstance(table, TextStream):
        stages = [LanguageModelStage(name, *split_stream(table, seed))]
    else:
        table = read_table(
            files.train, text_columns=columns, encoding=files.encoding, header=files.header,
            labelled=False,
        )  # fmt: skip
        texts, valid_texts = split_texts(table.texts, table.source, seed)
        stages = [LanguageModelStage(name, texts, valid_texts)]
    _execute(_choose(options, stages, base=base, table=table), folder, terminal)


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


def _run_folder(options: TrainOptions) -> RunFolder:
    out = options.out or default_out(options.files.train or options.start or "")
    return RunFolder(out, overwrite=options.overwrite)


def check_base(path: Path, option: str = "--base", name: object = None) -> Base:
    """Read a language model once, to refuse it before any work is done.

    Args:
        path: its folder, or the run's around it.
        option: that names it, for messages.
        name: what the user named, where that is not path.

    Raises:
        InputError: no language model is there, or it is damaged.
    """
    folder = find_model(path, "language_model")
    trainer = ULMFiTTrainer.load(folder, device="cpu")
    if trainer.language_model is None:
        raise InputError(
            f"{option} {name or folder}: a classifier, not a language model; give the "
            "language_model folder of a run of pretrain or train"
        )
    return Base(folder, trainer.size, trainer.tokenizer_kind)


def split_texts(texts: Sequence[str], source: str, seed: int) -> tuple[list[str], list[str]]:
    """Hold documents out to measure a language model on; equal ones stay together.

    Raises:
        InputError: fewer than two different documents.
    """
    different = sorted(set(texts))
    if len(different) < 2:
        raise _one_document(source)
    n_valid = max(1, round(GENERAL_VALID_SHARE * len(different)))
    held_out = set(random.Random(seed).sample(different, n_valid))
    return [text for text in texts if text not in held_out], sorted(held_out)


def split_stream(texts: TextStream, seed: int) -> tuple[TextStream, TextStream]:
    """Hold documents of a large file out, each by a number made of its content and the seed.

    Raises:
        InputError: the file cannot be used, or all of its documents fall into one part.
    """
    train, valid = texts.split(GENERAL_VALID_SHARE, seed)
    if not len(train) or not len(valid):
        raise _one_document(texts.source)
    return train, valid


def _one_document(source: str) -> InputError:
    return InputError(
        f"{source}: one document only; a language model needs some to train on and some to be "
        "measured on (a text file has one document a line)"
    )


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
    general = LanguageModelStage("pretrain", *split_texts(data.general, "--general", seed))
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
    run.cache, run.start = cache, options.start
    if data is not None:
        run.skipped, run.remarks = data.skipped, data.remarks
    if table is not None:
        run.skipped = [(table.source, row) for row in table.skipped]
        run.remarks = header_remark(table)
        if isinstance(table, TextStream) and table.n_skipped > len(table.skipped):
            listed = f"the first {len(table.skipped):,} are listed"
            run.remarks.append(f"{table.source}: {table.n_skipped:,} rows have no text; {listed}")
    return run


def _execute(run: Run, folder: RunFolder, terminal: Terminal) -> None:
    """Say what will be done, do it, and say what came out."""
    say_plan(run, folder.path, terminal)
    started = time.perf_counter()
    with folder.fill() as place, observing(place / "metrics.jsonl") as observers:
        _write_skipped(place / "skipped.csv", run.skipped)
        trainer = _make_trainer(run, observers)
        table = run.data.table if run.data is not None else None
        trainer.text_columns = table.text_columns if table and table.has_names else ()
        for stage in run.stages:
            fit = trainer.pretrain if stage.name == "pretrain" else trainer.finetune_lm
            run.results.append(fit(stage.texts, stage.valid_texts))
        trainer.save(place / "language_model", "language_model")
        if run.data is not None:
            _classify(run, run.data, trainer)
            trainer.save(place / "model", "classifier")
        run.seconds = time.perf_counter() - started
        write_json(place / "run.json", summarize(run, folder.path))
    say_results(run, folder.path, terminal)
    terminal.result(summarize(run, folder.path))


def _make_trainer(run: Run, observers: Sequence[Observer]) -> ULMFiTTrainer:
    choices = run.choices
    if run.base is not None:
        return ULMFiTTrainer.load(
            run.base, config=choices.config, device=choices.device, observers=observers,
            cache_dir=run.cache, cuda_graphs=choices.cuda_graphs,
        )  # fmt: skip
    return ULMFiTTrainer(
        choices.config, size=choices.size, tokenizer_kind=choices.tokenizer,
        device=choices.device, observers=observers, cache_dir=run.cache,
        cuda_graphs=choices.cuda_graphs,
    )  # fmt: skip


def _classify(run: Run, data: TrainingData, trainer: ULMFiTTrainer) -> None:
    """Train the classifier and test it once."""
    train, valid = data.train, data.valid
    run.results.append(
        trainer.train_classifier(train.texts, train.labels, valid.texts, valid.labels)
    )
    run.valid = trainer.evaluate(valid.texts, valid.labels)
    if data.test is not None:
        run.test = trainer.evaluate(data.test.texts, data.test.labels)


@contextmanager
def observing(log: Path) -> Iterator[list[Observer]]:
    """Show progress on standard error and log it to a file until the block ends."""
    observers: list[Observer] = [ConsoleProgress(), JsonlLog(log)]
    try:
        yield observers
    finally:
        for observer in observers:
            observer.close()


def write_json(path: Path, values: object) -> None:
    """Write a JSON file that people can read."""
    path.write_text(json.dumps(values, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _write_skipped(path: Path, skipped: Sequence[tuple[str, SkippedRow]]) -> None:
    """List the rows that were left out, if there are any."""
    if not skipped:
        return
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "row", "column", "reason"))
        writer.writerows((source, row.row, row.column, row.reason) for source, row in skipped)
