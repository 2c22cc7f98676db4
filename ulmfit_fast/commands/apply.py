"""`ulmfit-fast predict`, `evaluate` and `info`: a trained model at work."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from ulmfit_fast.commands.data import Part, check_labels
from ulmfit_fast.commands.report import evaluation_values, format_error
from ulmfit_fast.commands.run_folder import find_model
from ulmfit_fast.commands.terminal import Terminal, count, printable
from ulmfit_fast.errors import InputError
from ulmfit_fast.text import read_table
from ulmfit_fast.training.evaluation import Evaluation, Prediction
from ulmfit_fast.training.trainer import ULMFiTTrainer


@dataclass(frozen=True)
class ApplyOptions:
    """Options of `predict` and `evaluate`.

    Attributes:
        model: folder of a classifier, or of the run that made it.
        source: file of texts; "-" is standard input, one text a line.
        text_columns: columns of the text; empty finds them.
        label_column: column of the label; None finds it.
        encoding: None detects UTF-8 and UTF-16.
        device: None takes a GPU where torch sees one.
        out: file for the predictions; None is standard output.
        overwrite: whether a file may stand there.
    """

    model: Path
    source: str
    text_columns: tuple[str, ...] = ()
    label_column: str | None = None
    encoding: str | None = None
    device: str | None = None
    out: Path | None = None
    overwrite: bool = False


def predict(options: ApplyOptions, terminal: Terminal) -> None:
    """Write a class and the probability of every class for each text, as CSV or JSON lines.

    On standard output control characters of the texts are escaped; a file has them as they are.

    Raises:
        InputError: the model or the texts cannot be used, or the output file exists.
    """
    out = options.out
    if out is not None and out.exists() and not options.overwrite:
        raise InputError(f"--out {out}: this file exists; give another one, or add --overwrite")
    trainer = load_classifier(options.model, options.device)
    rows, texts, n_skipped = _read_texts(options)
    predictions = trainer.predict(texts)
    with _open_output(out) as stream:
        if terminal.as_json:
            _write_json_lines(stream, rows, texts, predictions)
        else:
            shown = texts if out else [printable(text) for text in texts]
            _write_csv(stream, trainer.labels, zip(rows, shown, predictions, strict=True))
    skipped = f"; {count(n_skipped, 'row')} without text skipped" if n_skipped else ""
    terminal.note(f"{count(len(texts), 'text')}{f' -> {out}' if out else ''}{skipped}")


def evaluate(options: ApplyOptions, terminal: Terminal) -> None:
    """Print a classifier's error on labelled texts, with every class.

    Raises:
        InputError: the model or the file cannot be used, or a label is unknown to the model.
    """
    trainer = load_classifier(options.model, options.device)
    table = read_table(
        options.source, text_columns=options.text_columns or None,
        label_column=options.label_column, encoding=options.encoding, labelled=True,
    )  # fmt: skip
    labelled = [i for i, label in enumerate(table.labels) if label is not None]
    labels = [label or "" for label in table.labels]
    part = Part(table.texts, labels, table.rows, table.source).take(labelled)
    n_skipped = len(table.skipped) + len(table.texts) - len(part)
    check_labels(part, set(trainer.labels), f"the model {options.model}")
    result = trainer.evaluate(part.texts, part.labels)
    terminal.say(f"error     {format_error(result)}")
    terminal.say(f"loss      {result.loss:.4f} nats a text")
    if n_skipped:
        terminal.say(f"skipped   {count(n_skipped, 'row')} without text or label")
    say_classes(result, terminal)
    terminal.result({**evaluation_values(result), "n_skipped": n_skipped})


def say_classes(result: Evaluation, terminal: Terminal) -> None:
    """Print precision and recall of each class, and the commonest mistakes."""
    rows = [("class", "texts", "precision", "recall", "F1")]
    for name, values in result.per_class.items():
        shares = [f"{100 * values[key]:.1f} %" for key in ("precision", "recall", "f1")]
        rows.append((name, f"{values['n']:.0f}", shares[0], shares[1], shares[2]))
    terminal.table(rows)
    names = list(result.per_class)
    mistakes = sorted(
        (-n, names[row], names[column])
        for row, counts in enumerate(result.confusion)
        for column, n in enumerate(counts)
        if row != column and n
    )
    for negative_n, true, answer in mistakes[:3]:
        terminal.say(f"  {-negative_n} of class {true} were taken for {answer}")


def load_classifier(path: Path, device: str | None) -> ULMFiTTrainer:
    """Read a classifier from its folder, or from the folder of its run.

    Raises:
        InputError: no classifier is there, or it is damaged.
    """
    folder = find_model(path, "model")
    trainer = ULMFiTTrainer.load(folder, device=device)
    if trainer.classifier is None:
        raise InputError(
            f"{folder}: a language model, not a classifier; train one with ulmfit-fast train FILE "
            f"--base {folder}"
        )
    return trainer


def _read_texts(options: ApplyOptions) -> tuple[list[int], list[str], int]:
    """Return row numbers, texts and how many rows were skipped."""
    if options.source == "-":
        lines = _read_lines(sys.stdin.buffer.read(), options.encoding or "utf-8-sig")
        texts = [(row, line) for row, line in enumerate(lines, start=1) if line.strip()]
        if not texts:
            raise InputError("standard input: no text; write one text a line")
        return [row for row, _ in texts], [text for _, text in texts], len(lines) - len(texts)
    table = read_table(
        options.source, text_columns=options.text_columns or None, encoding=options.encoding,
        labelled=False,
    )  # fmt: skip
    return table.rows, table.texts, len(table.skipped)


def _read_lines(data: bytes, encoding: str) -> list[str]:
    """Decode lines that end with a line feed, with or without a carriage return."""
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        row = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"standard input, line {row}: byte {error.start} (0x{data[error.start]:02x}) is not "
            f"{encoding.removesuffix('-sig')}; name the encoding, such as --encoding latin-1"
        ) from error
    except LookupError as error:
        raise InputError(
            f"--encoding {encoding}: no such encoding; try utf-8 or latin-1"
        ) from error
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []


@contextmanager
def _open_output(out: Path | None) -> Iterator[IO[str]]:
    """Open standard output, or a file that gets its name once it is whole."""
    if out is None:
        yield sys.stdout
        return
    part = out.with_name(f".{out.name}.part")
    try:
        with part.open("w", encoding="utf-8", newline="") as stream:
            yield stream
        os.replace(part, out)
    finally:
        part.unlink(missing_ok=True)


def _write_csv(
    stream: IO[str], labels: list[str], rows: Iterable[tuple[int, str, Prediction]]
) -> None:
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["row", "label", "probability", *(f"p({name})" for name in labels), "text"])
    for row, text, prediction in rows:
        values = [f"{prediction.probabilities[name]:.6f}" for name in labels]
        best = f"{prediction.probabilities[prediction.label]:.6f}"
        writer.writerow([row, prediction.label, best, *values, text])


def _write_json_lines(
    stream: IO[str], rows: list[int], texts: list[str], predictions: list[Prediction]
) -> None:
    for row, text, prediction in zip(rows, texts, predictions, strict=True):
        stream.write(json.dumps({"row": row, **asdict(prediction), "text": text}) + "\n")
