"""The report of a run: one HTML file that holds all it needs and asks the network for nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

import jinja2
from markupsafe import Markup

from ulmfit_fast import __version__
from ulmfit_fast.errors import InputError, one_line
from ulmfit_fast.interpret.examination import Examination
from ulmfit_fast.report import text
from ulmfit_fast.report.attribution import highlights
from ulmfit_fast.report.confusion import MAX_CLASSES, matrix, texts_of_cells
from ulmfit_fast.report.figures import Pictures
from ulmfit_fast.report.inputs import Inputs, read_inputs
from ulmfit_fast.report.plots import most_confused
from ulmfit_fast.report.sections import (
    choices_section,
    data_section,
    reproduce_section,
    speed_section,
)
from ulmfit_fast.report.verdict import verdict

MAX_MISTAKES = 20
MAX_SUSPECTS = 60
LONG_NAME = 4  # characters of a class name that stand upright above the matrix
SECTIONS = {
    "data": "Data",
    "choices": "Choices",
    "rates": "Learning rates",
    "curves": "Curves",
    "confusion": "Confusion",
    "classes": "Classes",
    "calibration": "Calibration",
    "mistakes": "Mistakes",
    "suspects": "Labels",
    "speed": "Speed",
    "reproduce": "Environment",
}


def write_report(run_folder: str | Path, out: str | Path | None = None) -> Path:
    """Write the report of a run from the files in its folder; what is missing is left out.

    Args:
        run_folder: with run.json, and metrics.jsonl and examination.json where they were written.
        out: the file; None is report.html in the folder. One that stands there is replaced.

    Returns:
        path: of the file.

    Raises:
        InputError: no run is there, or one of its files is damaged.
        OSError: the file cannot be written; what stood there before still does.
    """
    folder = Path(run_folder)
    path = Path(out) if out is not None else folder / "report.html"
    page = render(read_inputs(folder))
    path.parent.mkdir(parents=True, exist_ok=True)
    made = path.with_name(f".{path.name}.{os.getpid()}")  # so that no half of a page is ever there
    try:
        # A command may name files with bytes that are no UTF-8.
        made.write_text(page, encoding="utf-8", errors="backslashreplace")
        made.replace(path)
    finally:
        made.unlink(missing_ok=True)
    return path


def render(inputs: Inputs) -> str:
    """Return the page of a run.

    Raises:
        InputError: run.json lacks a value, or has one of another kind.
    """
    try:
        return _page(_values(inputs))
    except (
        ArithmeticError, AttributeError, LookupError, ParseError, TypeError, ValueError,
        jinja2.TemplateError,
    ) as error:  # fmt: skip
        raise InputError(
            f"{inputs.folder / 'run.json'}: a value is missing or of another kind "
            f"({type(error).__name__}: {one_line(error, 80)}); restore the file, or train again"
        ) from error


def _page(values: dict[str, Any]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ulmfit_fast.report", "template"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        excerpt=text.excerpt, percent=text.percent, interval=text.interval, number=text.number,
        part_name=text.part_name, thousands=lambda n: f"{n:,}",
    )  # fmt: skip
    style, script = _asset("style.css"), _asset("script.js")
    return environment.get_template("report.html").render(
        style=Markup(style), style_hash=_hash(style),
        script=Markup(script), script_hash=_hash(script),
        version=__version__,
        **values,
    )  # fmt: skip


def _values(inputs: Inputs) -> dict[str, Any]:
    pictures, run, found = Pictures(), inputs.run, inputs.examination
    source = str(run.get("source") or inputs.folder.resolve().name)
    speed = speed_section(inputs)
    speed["charts"] = pictures.throughput(inputs.history)
    shown: dict[str, Any] = {
        "data": data_section(inputs),
        "choices": choices_section(run),
        "rates": pictures.rates(inputs.history),
        "curves": pictures.curves(inputs.history),
        **_confusion(inputs),
        "classes": _classes(inputs),
        **(_examined(found, pictures) if found is not None and found.n else {}),
        "speed": speed if speed["rows"] or speed["charts"] else None,
        "reproduce": reproduce_section(run),
    }
    shown["data"]["lengths"] = pictures.lengths(found.overview) if found and found.overview else ""
    return {
        "title": source,
        "eyebrow": _eyebrow(inputs, source),
        "verdict": verdict(inputs),
        "remarks": inputs.remarks,
        "sections": {id_: name for id_, name in SECTIONS.items() if shown.get(id_)},
        "cells": None,
        "upright": False,
        **shown,
    }


def _eyebrow(inputs: Inputs, source: str) -> str:
    written = datetime.fromtimestamp((inputs.folder / "run.json").stat().st_mtime, tz=UTC)
    kinds = {"train": "text classifier", "pretrain": "language model", "demo": "demo"}
    kind = kinds.get(str(inputs.run.get("kind")), "run")
    return f"ulmfit-fast report, {kind}, {text.excerpt(source, 120)}, {written:%d %B %Y}"


def _confusion(inputs: Inputs) -> dict[str, Any]:
    """Return the matrix and its texts: of the examination, else of an evaluation alone."""
    found = inputs.examination
    result = inputs.run.get("test") or inputs.run.get("valid") or {}
    if found is not None and found.n:
        labels, counts = list(found.labels), found.confusion
    elif result.get("confusion") and result.get("per_class"):
        labels, counts = list(result["per_class"]), result["confusion"]
    else:
        return {}
    shown = most_confused(counts, MAX_CLASSES)
    made = matrix(labels, counts, shown, has_texts=found is not None)
    cells = _json(texts_of_cells(found, shown)) if found is not None else None
    upright = any(len(name) > LONG_NAME for name in made.names)
    return {"confusion": made, "cells": cells, "upright": upright}


def _classes(inputs: Inputs) -> dict[str, Any] | None:
    found = inputs.examination
    rows: list[dict[str, Any]]
    result = inputs.run.get("test") or inputs.run.get("valid") or {}
    if found is not None and found.n:
        rows = [
            {"name": c.name, "n": c.n, "scores": [
                (c.precision, c.precision_interval), (c.recall, c.recall_interval),
                (c.f1, c.f1_interval),
            ]}
            for c in found.classes
        ]  # fmt: skip
    else:
        rows = [
            {"name": name, "n": scores["n"],
             "scores": [(scores[key], None) for key in ("precision", "recall", "f1")]}
            for name, scores in (result.get("per_class") or {}).items()
        ]  # fmt: skip
    rows.sort(key=lambda row: row["scores"][2][0])
    return {"rows": rows, "has_intervals": found is not None} if rows else None


def _examined(found: Examination, pictures: Pictures) -> dict[str, Any]:
    """Return the sections that only an examination can fill."""
    part = text.part_name(found.part)
    items = [
        {
            "row": m.row, "text": m.text, "label": m.label, "answer": m.answer,
            "probability": m.probability, "nearest": m.nearest,
            "marks": highlights(m.attribution) if m.attribution else None,
        }
        for m in found.mistakes[:MAX_MISTAKES]
    ]  # fmt: skip
    n_wrong = found.n - sum(found.confusion[c][c] for c in range(len(found.labels)))
    lead = f"{text.counted(n_wrong, 'mistake')} on {text.counted(found.n, f'{part} text')}"
    lead += f"; here the {len(items)} that the model was surest of." if n_wrong > 1 else "."
    suspects = found.suspects
    n = len(suspects)
    some = f" Shown are {MAX_SUSPECTS} of {n}." if n > MAX_SUSPECTS else ""
    return {
        "calibration": {
            "scores": found.calibration,
            "chart": pictures.calibration(found.calibration),
        },
        "mistakes": {
            "texts": items, "lead": lead, "part": part,
            "has_marks": any(item["marks"] for item in items),
        } if items else None,
        "suspects": {
            "texts": suspects[:MAX_SUSPECTS],
            "lead": "The model gives these texts' own labels a low probability, and another class "
                    "a high one (confident learning). Read them: a part is hard, not wrong. The "
                    f"likeliest come first.{some}",
        } if suspects else None,
    }  # fmt: skip


def _asset(name: str) -> str:
    return (files("ulmfit_fast.report") / "template" / name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    digest = hashlib.sha256(content.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _json(values: object) -> Markup:
    """Write JSON that may stand in a script element: nothing in it can end one."""
    written = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        written = written.replace(character, f"\\u{ord(character):04x}")
    return Markup(written)
