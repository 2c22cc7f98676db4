"""Two figures from the records: error against training time and cost of an answer; few labels."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import machine

from . import intervals
from .record import all_records, say
from .table import CLASSIFICATION, TITLES, at

FOLDER = machine.ROOT / "docs" / "assets"
KINDS = ("from-scratch", "supervised", "semi-supervised")


def costs(records: list[dict[str, Any]], name: str) -> dict[tuple[str, str], list[float]]:
    """Return (variant, preset) -> mean error, training seconds and ms a text on a data set."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        if record["task"] in (name, "baselines") and record["dataset"] == name:
            groups[record["variant"], record["preset"]].append(record["metrics"])
    keys = ("error", "train_seconds", "predict_ms_a_text")
    return {
        group: [statistics.fmean(metrics[key] for metrics in of) for key in keys]
        for group, of in sorted(groups.items())
        if group[0] in CLASSIFICATION
    }


def draw_costs(records: list[dict[str, Any]], folder: Path) -> Path | None:
    """Draw error against cost, a row a data set; None without records."""
    found = {name: points for name in TITLES if (points := costs(records, name))}
    if not found:
        return None
    from matplotlib.ticker import NullFormatter

    figure, axes = new_figure(len(found))
    for row, (name, points) in zip(axes, found.items(), strict=True):
        for (variant, preset), (error, *cost) in points.items():
            label = (
                variant if variant in ("tfidf", "ngrams", "sentences") else f"{variant}, {preset}"
            )
            for axis, x in zip(row, cost, strict=True):
                axis.plot([x], [100 * error], "o")
                axis.annotate(label, (x, 100 * error), xytext=(4, 4), textcoords="offset points")
        for column, (axis, title) in enumerate(
            zip(row, ("training, s", "an answer, ms"), strict=True)
        ):
            x = [cost[column] for _, *cost in points.values()]
            axis.set(xscale="log", xlabel=title, ylabel="test error, %", title=TITLES[name])
            axis.set_xlim(
                10 ** math.floor(math.log10(min(x))), 10 ** math.ceil(math.log10(max(x) * 2))
            )
            axis.xaxis.set_minor_formatter(NullFormatter())
            axis.margins(y=0.25)
    return save(figure, folder / "accuracy-cost.svg")


def draw_low_shot(records: list[dict[str, Any]], folder: Path) -> Path | None:
    """Draw error against labels with intervals over seeds; None without records."""
    found = [r for r in records if r["task"] == "low-shot"]
    places = sorted({(r["dataset"], r["preset"]) for r in found})
    if not places:
        return None
    figure, axes = new_figure(1, len(places))
    for axis, (name, preset) in zip(axes[0], places, strict=True):
        mine = [r for r in found if (r["dataset"], r["preset"]) == (name, preset)]
        for kind in KINDS:
            points = []
            for n in sorted({r["settings"]["labels"] for r in mine}):
                errors = [100 * r["metrics"]["error"] for r in at(mine, kind, n)]
                if len(errors) > 1:
                    low, high = intervals.of_mean(errors)
                    points.append((n, statistics.fmean(errors), (high - low) / 2))
            if points:
                x, y, half = zip(*points, strict=True)
                axis.errorbar(x, y, yerr=half, marker="o", capsize=3, label=kind)
        axis.set(
            xscale="log", xlabel="labels", ylabel="error, %", title=f"{TITLES[name]}, {preset}"
        )
        axis.legend()
    return save(figure, folder / "accuracy-low-shot.svg")


def new_figure(n_rows: int, n_columns: int = 2) -> tuple[Any, Any]:
    """Return a figure with axes [rows, columns]."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"font.size": 8}):
        figure = Figure(figsize=(4.5 * n_columns, 3.2 * n_rows), layout="constrained")
        return figure, figure.subplots(n_rows, n_columns, squeeze=False)


def save(figure: Any, file: Path) -> Path:
    """Write an SVG; the same figure gives the same bytes."""
    from matplotlib import rc_context

    file.parent.mkdir(parents=True, exist_ok=True)
    with rc_context({"svg.hashsalt": "accuracy", "svg.fonttype": "none"}):
        figure.savefig(file, metadata={"Date": None})
    return file


def main(results: Path, folder: Path = FOLDER) -> int:
    """Draw what there are records for; return the exit status."""
    records = [r for r in all_records(results) if not r["preset"].endswith("-quick")]
    for file in (draw_costs(records, folder), draw_low_shot(records, folder)):
        if file is not None:
            say(f"drawn: {file.name}")
    return 0
