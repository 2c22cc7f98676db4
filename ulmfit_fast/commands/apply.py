"""`ulmfit-fast predict`, `evaluate` and `info`: a trained model at work."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from ulmfit_fast.commands.data import quoted, reading_remarks
from ulmfit_fast.commands.parts import check_labels, labelled_part, rows_without_label
from ulmfit_fast.commands.report import evaluation_values, format_error, skipped_rows
from ulmfit_fast.commands.run_folder import find_model
from ulmfit_fast.commands.summary import format_accuracy, say_classes
from ulmfit_fast.commands.terminal import Terminal, count, listing, printable
from ulmfit_fast.errors import InputError
from ulmfit_fast.text import TextTable
from ulmfit_fast.text.sources import known_encoding
from ulmfit_fast.text.table import RawTable, load_table
from ulmfit_fast.training.checkpoint import read_json
from ulmfit_fast.training.evaluation import Prediction
from ulmfit_fast.training.precision import PrecisionName
from ulmfit_fast.training.trainer import ULMFiTTrainer


@dataclass(frozen=True)
class ApplyOptions:
    """Options of `predict` and `evaluate`.

    Attributes:
        model: folder of a classifier, or of the run that made it.
        source: file of texts; "-" is standard input, one text a line.
        text_columns: columns of the text; empty takes the model's, or finds them in a file
            without column names.
        label_column: column of the label; None finds it.
        encoding: None detects UTF-8 and UTF-16.
        header: whether a csv file begins with column names; None decides.
        device: None takes a GPU where torch sees one.
        precision: None takes the one that the model was trained with.
        out: file for the predictions; None is standard output.
        overwrite: whether a file may stand there.
    """

    model: Path
    source: str
    text_columns: tuple[str, ...] = ()
    label_column: str | None = None
    encoding: str | None = None
    header: bool | None = None
    device: str | None = None
    precision: PrecisionName | None = None
    out: Path | None = None
    overwrite: bool = False


def predict(options: ApplyOptions, terminal: Terminal) -> None:
    """Write a class and the probability of every class for each text, as CSV or JSON lines.

    On standard output control characters of the texts are escaped; a file has them as they are.

    Raises:
        InputError: the model or the texts cannot be used, or the output file exists.
    """
    out = options.out
    if out is not None:
        _check_place(out, overwrite=options.overwrite)
    trainer = load_classifier(options.model, options.device, options.precision)
    table = _read_texts(options, trainer.text_columns, terminal)
    rows, texts, n_skipped = table.rows, table.texts, len(table.skipped)
    if out is not None and not terminal.as_json:
        _check_writable(out, [("a class", name) for name in trainer.labels])
        _check_writable(out, ((f"row {row}", text) for row, text in zip(rows, texts, strict=True)))
    if options.source != "-":
        terminal.note(f"{table.source}: text from {_listed(table)}")
    predictions = trainer.predict(texts)
    with _open_output(out) as stream:
        if terminal.as_json:
            _write_json_lines(stream, rows, texts, predictions)
        else:
            as_shown = str if out else printable
            _write_csv(stream, trainer.labels, zip(rows, texts, predictions, strict=True), as_shown)
    for line in skipped_rows([(table.source, row) for row in table.skipped]):
        terminal.note(line)
    skipped = f"; {count(n_skipped, 'row')} without text skipped" if n_skipped else ""
    terminal.note(f"{count(len(texts), 'text')}{f' -> {out}' if out else ''}{skipped}")


def evaluate(options: ApplyOptions, terminal: Terminal) -> None:
    """Print a classifier's accuracy and error on labelled texts, with every class.

    Raises:
        InputError: the model or the file cannot be used, or a label is unknown to the model.
    """
    trainer = load_classifier(options.model, options.device, options.precision)
    table = _read(options, trainer.text_columns, terminal, labelled=True)
    part = labelled_part(table)
    left_out = [(table.source, row) for row in table.skipped] + rows_without_label(table)
    check_labels(part, set(trainer.labels), f"the model {options.model}")
    terminal.note(f"{table.source}: text from {_listed(table)}, label from {table.label_column!r}")
    result = trainer.evaluate(part.texts, part.labels)
    terminal.fact("accuracy", format_accuracy(result))
    terminal.fact("error", format_error(result))
    terminal.say(f"loss      {result.loss:.4f} nats a text")
    if left_out:
        terminal.say(f"skipped   {count(len(left_out), 'row')} without text or label")
    for line in skipped_rows(left_out):
        terminal.say(line)
    say_classes(result, terminal)
    terminal.result({**evaluation_values(result), "n_skipped": len(left_out)})


def load_classifier(
    path: Path, device: str | None, precision: PrecisionName | None = None
) -> ULMFiTTrainer:
    """Read a classifier from its folder, or from the folder of its run.

    Raises:
        InputError: no classifier is there, or it is damaged.
    """
    folder = find_model(path, "model")
    trainer = ULMFiTTrainer.load(folder, device=device, precision=precision)
    if trainer.classifier is None:
        raise InputError(
            f"{folder}: a language model, not a classifier; train one with ulmfit-fast train FILE "
            f"--base {folder}"
        )
    return trainer


def _read(
    options: ApplyOptions, model_columns: tuple[str, ...], terminal: Terminal, *, labelled: bool
) -> TextTable:
    """Read the file, and say so where its first row was taken for column names by default."""
    raw = load_table(options.source, encoding=options.encoding, header=options.header)
    text_columns = options.text_columns or (model_columns if raw.has_names else ())
    if not options.text_columns:
        _check_columns(raw, text_columns, options.model)
    label_column = options.label_column
    if labelled and label_column is None and raw.has_names:
        trained_on = label_column_of(options.model)
        label_column = trained_on if trained_on in raw.columns else None
    table = raw.choose(
        text_columns=text_columns or None, label_column=label_column, labelled=labelled
    )
    for remark in reading_remarks(table):
        terminal.note(remark)
    return table


def label_column_of(model: Path) -> str | None:
    """Return the column that the run of a model had its labels from; None if nothing says it."""
    for folder in (model, model.parent):
        if (folder / "run.json").is_file():
            data = read_json(folder / "run.json").get("data")
            column = data.get("label_column") if isinstance(data, dict) else None
            return column if isinstance(column, str) else None
    return None


def _listed(table: TextTable) -> str:
    return listing([repr(name) for name in table.text_columns])


def _check_columns(raw: RawTable, wanted: Sequence[str], model: Path) -> None:
    """Raise InputError if a file lacks columns that the model was trained on."""
    missing = [name for name in wanted if name not in raw.columns]
    if not missing:
        return
    hint = "; or --no-header, if the first row is a text" if raw.header_is_guessed else ""
    raise InputError(
        f"{raw.source}: no column {quoted(missing)}; the model {model} was trained on "
        f"{quoted(wanted)} (found: {quoted(list(raw.columns))}): name the text with --text-column"
        f"{hint}"
    )


def _read_texts(
    options: ApplyOptions, model_columns: tuple[str, ...], terminal: Terminal
) -> TextTable:
    """Read the texts of a file or the lines of standard input."""
    if options.source == "-":
        return read_standard_input(options.encoding)
    return _read(options, model_columns, terminal, labelled=False)


def read_standard_input(encoding: str | None) -> TextTable:
    """Read the lines of standard input, one text each; those without text are left out.

    Raises:
        InputError: no text, or bytes that are not of the encoding.
    """
    lines = _read_lines(sys.stdin.buffer.read(), encoding or "utf-8-sig")
    if not any(line.strip() for line in lines):
        raise InputError("standard input: no text; write one text a line")
    rows = range(1, len(lines) + 1)
    return RawTable("standard input", {"text": lines}, rows, has_names=False).choose(
        text_columns=["text"], labelled=False
    )


def _read_lines(data: bytes, encoding: str) -> list[str]:
    """Decode lines that end with a line feed, with or without a carriage return."""
    encoding = known_encoding(encoding, "standard input")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        row = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"standard input, line {row}: byte {error.start} (0x{data[error.start]:02x}) is not "
            f"{encoding.removesuffix('-sig')}; name the encoding, such as --encoding latin-1"
        ) from error
    except UnicodeError as error:
        raise InputError(
            f"standard input: not {encoding}; name the encoding, such as --encoding latin-1"
        ) from error
    before, nul, _ = text.partition("\0")
    if nul:
        row, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        raise InputError(
            f"standard input, line {row}, column {column}: NUL byte; remove it, or name the "
            "encoding, such as --encoding utf-16"
        )
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []


@contextmanager
def _open_output(out: Path | None) -> Iterator[IO[str]]:
    """Open standard output, or a file that gets its name once it is whole."""
    if out is None:
        yield sys.stdout
        sys.stdout.flush()
        return
    part = out.with_name(f".{out.name}.part")
    try:
        with part.open("w", encoding="utf-8", newline="") as stream:
            yield stream
        os.replace(part, out)
    finally:
        part.unlink(missing_ok=True)


def _check_place(out: Path, *, overwrite: bool) -> None:
    """Raise InputError if no file can be written there."""
    folder = out.parent
    if out.is_dir():
        raise InputError(f"--out {out}: a folder has this name; give the name of a file")
    if out.exists() and not overwrite:
        raise InputError(f"--out {out}: this file exists; give another one, or add --overwrite")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {out}: {folder} is a file, not a folder; give another place")
    if not folder.exists():
        raise InputError(f"--out {out}: there is no folder {folder}; make it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"--out {out}: the folder {folder} cannot be written; give another place")


def _check_writable(out: Path, texts: Iterable[tuple[str, str]]) -> None:
    """Raise InputError for the first (where, text) that JSON can hold and UTF-8 cannot."""
    for where, text in texts:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(
                f"--out {out}: {where} has half a character "
                f"(\\u{ord(text[error.start]):04x}) that a csv file cannot hold; correct the text, "
                "or write JSON with --json"
            ) from error


def _write_csv(
    stream: IO[str],
    labels: Sequence[str],
    rows: Iterable[tuple[int, str, Prediction]],
    as_shown: Callable[[str], str],
) -> None:
    """Write one row a text; as_shown turns what the data says into what may be written."""
    writer = csv.writer(stream, lineterminator="\n")
    names = [f"p({as_shown(name)})" for name in labels]
    writer.writerow(["row", "label", "probability", *names, "text"])
    for row, text, prediction in rows:
        values = [f"{prediction.probabilities[name]:.6f}" for name in labels]
        best = f"{prediction.probabilities[prediction.label]:.6f}"
        writer.writerow([row, as_shown(prediction.label), best, *values, as_shown(text)])


def _write_json_lines(
    stream: IO[str], rows: list[int], texts: list[str], predictions: list[Prediction]
) -> None:
    for row, text, prediction in zip(rows, texts, predictions, strict=True):
        stream.write(json.dumps({"row": row, **asdict(prediction), "text": text}) + "\n")
