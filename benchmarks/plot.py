"""Draw the LSTM's times as an SVG beside their record; matplotlib is imported to draw only."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

#: Implementation -> name in the legend and colour.
BARS = {
    "ulmfit_fast": ("ulmfit_fast", "#1b6ca8"),
    "ulmfit_fast_graph": ("ulmfit_fast in a CUDA graph", "#6fb1e0"),
    "torch": ("nn.LSTM with weight drop", "#d1603d"),
    "torch_undropped": ("nn.LSTM without weight drop", "#eeb79f"),
    "reference": ("reference", "#9a9a9a"),
}
MODE = "forward+backward"
#: Time steps of a batch in training: other lengths are in the table.
STEPS = 70


def is_drawn(record: Path) -> bool:
    """Say whether a record has a plot."""
    return record.name.startswith("lstm--")


def file_of(record: Path) -> Path:
    """Return the plot of a record: one for each machine, without the date."""
    return record.with_name(f"{record.stem.rpartition('--')[0]}.svg")


def mark(record: Path) -> str:
    """Return what a plot carries to say which record it shows."""
    return f"{record.name} sha256:{hashlib.sha256(record.read_bytes()).hexdigest()}"


def is_current(record: Path) -> bool:
    """Say whether the plot of a record is there and was drawn from it."""
    file = file_of(record)
    return file.is_file() and mark(record) in file.read_text()


def title(record: dict[str, Any]) -> str:
    """Return what was measured, where and when."""
    machine = record["machine"]
    where = machine.get("gpu") or f"{machine['cpu']}, {machine['threads']} threads"
    what = f"Weight-dropped LSTM, forward and backward, T {STEPS}"
    return f"{what}\n{where}; torch {machine['torch']}; {record['date']}"


def groups_of(cases: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return label of a point -> implementation -> case, of those that are drawn."""
    groups: dict[str, dict[str, dict[str, Any]]] = {}
    for case in cases:
        if case["mode"] == MODE and case["sizes"]["T"] == STEPS and case["impl"] in BARS:
            name = "three layers" if case["op"] == "lstm stack" else "layer"
            label = f"{name}\nB {case['sizes']['B']}, H {case['sizes']['H']}"
            groups.setdefault(label, {})[case["impl"]] = case
    return groups


def draw(path: Path, record: dict[str, Any]) -> None:
    """Write the plot of a record: a panel for each dtype, a bar for each implementation.

    Args:
        path: the record's file; the plot is written beside it.
        record: its content.
    """
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    by_dtype: dict[str, list[dict[str, Any]]] = {}
    for case in record["cases"]:
        by_dtype.setdefault(case["dtype"], []).append(case)
    panels = {dtype: groups for dtype, cases in by_dtype.items() if (groups := groups_of(cases))}
    n_rows = max((len(groups) for groups in panels.values()), default=1)
    style = {"svg.hashsalt": "ulmfit_fast", "font.size": 9, "axes.facecolor": "white"}
    with pyplot.rc_context(style):
        size = 4.6 * max(len(panels), 1), 1.4 + 0.75 * n_rows
        figure, axes = pyplot.subplots(1, max(len(panels), 1), figsize=size, squeeze=False)
        for axis, (dtype, groups) in zip(axes[0], panels.items(), strict=False):
            draw_panel(axis, dtype, groups)
        figure.suptitle(title(record))
        handles = {
            label: h
            for axis in axes[0]
            for h, label in zip(*axis.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles.keys(), loc="lower center", ncols=3, frameon=False)
        figure.tight_layout(rect=(0, 0.6 / size[1], 1, 1))
        figure.savefig(
            file_of(path), facecolor="white", metadata={"Date": None, "Description": mark(path)}
        )
        pyplot.close(figure)


def draw_panel(axis: Any, dtype: str, groups: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Draw the bars of one dtype, with a line at the floor of each point."""
    present = [impl for impl in BARS if any(impl in group for group in groups.values())]
    height = 0.8 / len(present)
    for i, impl in enumerate(present):
        name, colour = BARS[impl]
        found = [(row, g[impl]) for row, g in enumerate(groups.values()) if impl in g]
        rows = [row - 0.4 + (i + 0.5) * height for row, _ in found]
        times = [case["time_ms"]["p50"] for _, case in found]
        bars = axis.barh(rows, times, height, label=name, color=colour)
        axis.bar_label(bars, fmt="%.3g", padding=2, fontsize=7)
    for row, group in enumerate(groups.values()):
        floor_ms = next(iter(group.values()))["floor_ms"]
        label = "floor: measured copy and product rates" if row == 0 else None
        axis.plot([floor_ms] * 2, [row - 0.42, row + 0.42], color="black", lw=1, label=label)
    axis.set_yticks(range(len(groups)), list(groups))
    axis.invert_yaxis()
    axis.set_xscale("log")
    axis.margins(x=0.15)
    axis.set_xlabel("ms, median")
    axis.set_title(dtype)
    axis.spines[["top", "right"]].set_visible(False)
