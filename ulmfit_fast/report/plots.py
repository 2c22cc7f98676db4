"""Pictures of a training and of a classifier, as figures of matplotlib.

The functions that begin with draw_ fill axes of the caller's; those that begin with plot_ return a
figure with all there is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.transforms import ScaledTranslation

from ulmfit_fast.errors import InputError
from ulmfit_fast.interpret.examination import Calibration, PartOverview
from ulmfit_fast.report.style import GRID, INK, MUTED, SERIES, Plot, new_plot, our_style
from ulmfit_fast.training.history import History, StageHistory

TITLES = {
    "pretrain": "Language model, from scratch",
    "language_model": "Language model, fine-tuned",
    "classifier": "Classifier",
}
PARTS = {"valid": "validation"}
LEGEND_INCHES = 0.58  # from the x axis down, over its numbers and its name
# Points of a line: more cannot be told apart at the width of a report.
MAX_DRAWN = 360
# The average drawn moves this far to each new value, further where there are few.
SMOOTHING, LEAST_STEPS = 0.02, 30
_PERCENT = FuncFormatter(lambda value, _: f"{100 * value:.4g} %")
_Item = TypeVar("_Item")


def plot_losses(history: History) -> Plot:
    """Draw training and validation loss of every stage, side by side."""
    return _side_by_side(_trained(history), draw_losses)


def plot_metrics(history: History) -> Plot:
    """Draw perplexity or accuracy on held-out texts of every stage, side by side."""
    measured = [stage for stage in _trained(history) if metric_of(stage)]
    if not measured:
        raise InputError("no stage was measured: give validation texts to the stages")
    return _side_by_side(measured, draw_metric)


def plot_rates(history: History, *, log: bool = False) -> Plot:
    """Draw the learning rate of every layer group of every stage, side by side."""
    return _side_by_side(_trained(history), lambda axes, stage: draw_rates(axes, stage, log=log))


def plot_throughput(history: History) -> Plot:
    """Draw tokens a second of every stage, side by side."""
    return _side_by_side(_trained(history), draw_throughput)


def plot_calibration(calibration: Calibration) -> Plot:
    """Draw how often answers are right against how sure they are."""
    with our_style():
        figure, (axes,) = new_plot(height=3.3)
        draw_calibration(axes, calibration)
    return figure


def plot_lengths(parts: Sequence[PartOverview]) -> Plot:
    """Draw the lengths of the texts of every part, as shares of the part."""
    with our_style():
        figure, (axes,) = new_plot()
        draw_lengths(axes, parts)
    return figure


def plot_confusion(
    labels: Sequence[str], confusion: Sequence[Sequence[int]], *, max_classes: int = 20
) -> Plot:
    """Draw what a classifier takes for what.

    Args:
        labels: names of the classes.
        confusion: counts, row true class, column answer.
        max_classes: classes shown, those that are confused most, in the order of labels.

    Raises:
        InputError: no classes.
    """
    if not labels:
        raise InputError("no classes to draw")
    chosen = most_confused(confusion, max_classes)
    counts = np.asarray(confusion)[np.ix_(chosen, chosen)]
    names = [labels[index] for index in chosen]
    with our_style():
        side = max(3.2, 1.6 + 0.42 * len(chosen))
        figure = Plot(figsize=(side + 0.6, side), layout="constrained")
        axes = figure.add_subplot()
        axes.grid(visible=False)
        shares = counts / np.maximum(1, np.asarray(confusion)[chosen].sum(axis=1, keepdims=True))
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for row, column in np.ndindex(*counts.shape):
            colour = "white" if shares[row, column] > 0.55 else INK
            axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center",
                      color=colour, fontsize=9)  # fmt: skip
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
        axes.set_yticks(range(len(names)), names)
        axes.set_xlabel("answer")
        axes.set_ylabel("true class")
        if len(chosen) < len(labels):
            axes.set_title(f"The {len(chosen)} of {len(labels)} classes that are confused most")
    return figure


def most_confused(confusion: Sequence[Sequence[int]], n: int) -> list[int]:
    """Return the n classes to show, in their own order: those of the largest confusions.

    Pairs of classes are taken by how many texts of the one are taken for the other, then classes
    by their mistakes.
    """
    counts = np.asarray(confusion).reshape(len(confusion), -1)
    rows, columns = np.nonzero(counts)
    is_wrong = rows != columns
    rows, columns = rows[is_wrong], columns[is_wrong]
    wrong = counts[rows, columns]
    largest = np.argsort(-wrong, kind="stable")  # of equal ones the first
    of_pairs = np.stack([rows[largest], columns[largest]], axis=1).ravel().tolist()
    of_classes = np.zeros(len(counts), dtype=np.int64)
    for mistaken in (rows, columns):
        np.add.at(of_classes, mistaken, wrong)
    of_all = np.argsort(-of_classes, kind="stable").tolist()
    return sorted(list(dict.fromkeys([*of_pairs, *of_all]))[:n])


def metric_of(stage: StageHistory) -> str:
    """Return the name of the metric that tells most of a stage; "" if it was not measured."""
    names = [set(epoch.metrics) for epoch in stage.epochs]
    return next((m for m in ("perplexity", "accuracy") if any(m in found for found in names)), "")


def draw_losses(axes: Axes, stage: StageHistory) -> None:
    """Draw the loss of every step, smoothed, and the validation loss of every epoch."""
    points = thinned(stage.points)
    steps, losses = [point.step for point in points], [point.loss for point in points]
    axes.plot(steps, losses, color=SERIES[0], alpha=0.3, linewidth=0.8)
    smooth = _smoothed([point.loss for point in stage.points])
    kept = {point.step: value for point, value in zip(stage.points, smooth, strict=True)}
    axes.plot(steps, [kept[step] for step in steps], color=SERIES[0], label="training")
    valid = [(epoch.step, epoch.metrics["valid_loss"])
             for epoch in stage.epochs if "valid_loss" in epoch.metrics]  # fmt: skip
    if valid:
        axes.plot(*zip(*valid, strict=True), color=SERIES[1], marker="o", label="validation")
    _set_limits(axes, losses, [loss for _, loss in valid])
    unit = "document" if stage.name == "classifier" else "token"
    _finish(axes, stage, f"loss, nats a {unit}")
    axes.legend(loc="upper right", ncols=2)


def draw_metric(axes: Axes, stage: StageHistory) -> None:
    """Draw perplexity or accuracy of every epoch, and ring the epoch that was kept."""
    name = metric_of(stage)
    epochs = [epoch for epoch in stage.epochs if name in epoch.metrics]
    values = [epoch.metrics[name] for epoch in epochs]
    steps = [epoch.step for epoch in epochs]
    axes.plot(steps, values, color=SERIES[1], marker="o")
    # Several epochs may have the same accuracy: the one that was kept has all of its figures.
    kept_figures = {**stage.metrics, "seconds": None}
    kept = [k for k, e in enumerate(epochs) if {**e.metrics, "seconds": None} == kept_figures]
    if kept:
        axes.plot(steps[kept[0]], values[kept[0]], marker="o", markersize=11, linestyle="none",
                  markerfacecolor="none", markeredgecolor=INK, label="kept")  # fmt: skip
        axes.legend(loc="upper right" if name == "perplexity" else "lower right")
    axes.margins(0.08, 0.15)
    if name == "accuracy":
        axes.yaxis.set_major_formatter(_PERCENT)
    elif values and max(values) > 20 * max(min(values), 1e-9):
        _log_scale(axes)
    _finish(axes, stage, f"{name}, held-out texts")


def draw_rates(axes: Axes, stage: StageHistory, *, log: bool = False) -> None:
    """Draw the rate of every layer group at every step; where it is frozen, there is no line."""
    points = thinned(stage.points)
    steps = [point.step for point in points]
    groups, dashes = stage.groups, ("-", (0, (5, 1.6)), (0, (1.4, 1.2)))
    together: dict[tuple[float, ...], list[str]] = {}
    for group in groups:  # groups of one rate are one line
        rates = tuple(point.rates.get(group, 0.0) for point in points)
        together.setdefault(rates, []).append(group)
    for index, (rates, names) in enumerate(together.items()):
        visible = [rate if rate > 0 else math.nan for rate in rates]
        label = ", ".join(names) if len(names) < len(groups) or len(names) == 1 else "all layers"
        axes.plot(steps, visible, color=SERIES[index % len(SERIES)], label=label,
                  linestyle=dashes[index // len(SERIES) % len(dashes)])  # fmt: skip
    if log:
        _log_scale(axes)
    else:
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    _finish(axes, stage, "learning rate")
    if together:
        _legend_below(axes, 3)


def draw_throughput(axes: Axes, stage: StageHistory) -> None:
    """Draw tokens a second of every step."""
    points = [p for p in thinned(stage.points, 160) if math.isfinite(p.tokens_per_s)]
    rates = [point.tokens_per_s for point in points]
    axes.plot([p.step for p in points], rates, color=SERIES[2], linewidth=1)
    if rates:
        # The first step compiles and waits: one outlier must not flatten the rest.
        axes.set_ylim(0, 1.15 * float(np.quantile(rates, 0.99)) or 1)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: in_thousands(value)))
    _finish(axes, stage, "tokens a second")


def draw_calibration(axes: Axes, calibration: Calibration) -> None:
    """Draw accuracy over confidence, the number of answers as the size of the point."""
    bins = [b for b in calibration.bins if b.n]
    total = sum(b.n for b in bins)
    axes.plot([0, 1], [0, 1], color=MUTED, linestyle=(0, (4, 3)), linewidth=1, label="ideal")
    for b in bins:
        axes.plot([b.confidence, b.confidence], [b.confidence, b.accuracy], color=SERIES[1],
                  linewidth=1, alpha=0.7)  # fmt: skip
    axes.scatter([b.confidence for b in bins], [b.accuracy for b in bins], color=SERIES[0],
                 s=[14 + 180 * b.n / max(1, total) for b in bins], zorder=3,
                 label="answers (larger: more)")  # fmt: skip
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="probability of the answer",
             ylabel="share that is right")  # fmt: skip
    axes.xaxis.set_major_formatter(_PERCENT)
    axes.yaxis.set_major_formatter(_PERCENT)
    _legend_below(axes, 2)


def draw_lengths(axes: Axes, parts: Sequence[PartOverview]) -> None:
    """Draw how long the texts of every part are, as a share of the part in every bin."""
    for index, part in enumerate(parts):
        if not part.n or not part.length_counts:
            continue
        shares = np.asarray(part.length_counts) / max(1, sum(part.length_counts))
        edges = np.asarray(part.length_edges, dtype=float)
        if len(edges) > 2:  # the last bin holds all that is longer: as wide as the others
            edges[-1] = min(edges[-1], 2 * edges[-2] - edges[-3])
        axes.stairs(shares, edges, label=PARTS.get(part.name, part.name),
                    color=SERIES[index % len(SERIES)], linewidth=1.5)  # fmt: skip
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(_PERCENT)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set(xlabel="tokens of a text (in the last bin: all longer)", ylabel="share of the texts")
    _legend_below(axes, 4)


def thinned(points: Sequence[_Item], n: int = MAX_DRAWN) -> list[_Item]:
    """Return at most n + 1 points, evenly spaced, the last among them."""
    stride = max(1, math.ceil(len(points) / n))
    chosen = list(points[::stride])
    return [*chosen, points[-1]] if points and (len(points) - 1) % stride else chosen


def in_thousands(value: float) -> str:
    """Write 12,345 as 12k, and small numbers as they are."""
    if value >= 10_000:
        return f"{value / 1000:,.0f}k"
    return f"{value / 1000:.1f}k" if value >= 1000 else f"{value:.0f}"


def _trained(history: History) -> list[StageHistory]:
    stages = [stage for stage in history.stages if stage.points]
    if not stages:
        raise InputError("no stage to draw: train one first")
    return stages


def _side_by_side(stages: list[StageHistory], draw: Callable[[Axes, StageHistory], None]) -> Plot:
    with our_style():
        figure, all_axes = new_plot(len(stages))
        for axes, stage in zip(all_axes, stages, strict=True):
            draw(axes, stage)
    return figure


def _finish(axes: Axes, stage: StageHistory, what: str) -> None:
    """Name the axes, and mark where epochs end."""
    axes.set_title(TITLES.get(stage.name, stage.name))
    axes.set_xlabel("step")
    axes.set_ylabel(what)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.grid(visible=False, axis="x")
    if len(stage.epochs) <= 40:
        for epoch in stage.epochs:
            axes.axvline(epoch.step, color=GRID, linewidth=0.8, zorder=0)


def _legend_below(axes: Axes, n_columns: int) -> None:
    """Put the legend under the name of the x axis, however high the axes are."""
    if not axes.get_legend_handles_labels()[0]:
        return
    below = ScaledTranslation(0, -LEGEND_INCHES, axes.figure.dpi_scale_trans)
    axes.legend(loc="upper left", bbox_to_anchor=(0, 0), bbox_transform=axes.transAxes + below,
                ncols=n_columns, markerscale=0.6, borderaxespad=0, borderpad=0)  # fmt: skip


def _log_scale(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    # 0.003 between 0.001 and 0.01: a rate may stay within one decade.
    axes.yaxis.set_minor_formatter(
        FuncFormatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] == "3" else "")
    )


def _set_limits(axes: Axes, losses: Sequence[float], valid: Sequence[float]) -> None:
    """Let single steps that are far off leave the picture."""
    finite = [loss for loss in losses if math.isfinite(loss)]
    if not finite:
        return
    shown = [*np.quantile(finite, [0.002, 0.995]).tolist(), *filter(math.isfinite, valid)]
    low, high = min(shown), max(shown)
    margin = 0.12 * (high - low) or 0.1
    axes.set_ylim(low - margin, high + 2 * margin)


def _smoothed(values: Sequence[float]) -> list[float]:
    part = min(1.0, max(SMOOTHING, LEAST_STEPS / max(1, len(values))))
    total, weight, out = 0.0, 0.0, []
    for value in values:
        if math.isfinite(value):
            total += part * (value - total)
            weight += part * (1 - weight)
        out.append(total / weight if weight else math.nan)
    return out
