"""The picture of a bench run."""

from __future__ import annotations

from pathlib import Path

from ulmfit_fast.bench.figure import MARK, OTHER, OURS, PEER, drawing
from ulmfit_fast.bench.kinds import OURS as OURS_NAME
from ulmfit_fast.bench.run import Bench

_COLORS = {0: OURS, 1: PEER, 2: OTHER}


def draw_bench(path: Path, found: Bench) -> None:
    """Draw a panel for each kind: a bar of the median time for each dtype and implementation.

    Lines at the bars' ends span the middle 60 % of the rounds; numbers beside torch's bars are
    ratios.

    Args:
        path: .svg, .png or .pdf.
        found: the run.
    """
    timed = [each for each in found.measured if each.times_ms]
    kinds = list(dict.fromkeys(each.kind for each in timed))
    n_bars = [sum(len(e.times_ms) for e in timed if e.kind == kind) for kind in kinds]
    height = 1.2 + sum(0.28 * n + 0.95 for n in n_bars)
    with drawing(path, 8.4, height) as figure:
        facts = found.machine
        where = facts.get("gpu") or f"{facts['cpu']}, threads: {facts['n_threads']}"
        busy = f"; busy, load {facts['load']}" if found.is_busy else ""
        figure.suptitle(
            f"ulmfit_fast {facts['ulmfit_fast']} and torch {facts['torch']}\n{where}{busy}",
            x=0.01, ha="left", fontsize=10,
        )  # fmt: skip
        if not timed:
            figure.text(0.5, 0.4, "nothing was timed", ha="center")
            return
        panels = figure.subplots(len(kinds), 1, squeeze=False, height_ratios=n_bars)[:, 0]
        for panel, kind in zip(panels, kinds, strict=True):
            names, place = [], 0
            of_kind = [each for each in timed if each.kind == kind]
            longest = max(t.p80 for each in of_kind for t in each.times_ms.values())
            for each in of_kind:
                for n, (name, times) in enumerate(each.times_ms.items()):
                    panel.barh(place, times.p50, 0.8, color=_COLORS[n])
                    panel.plot([times.p20, times.p80], [place, place], color=MARK, linewidth=1)
                    shown = f"{times.p50:.3g} ms"
                    if name != OURS_NAME:
                        shown += f", {each.ratios[name].p50:.2f}x"
                    panel.text(max(times.p80, times.p50) + 0.01 * longest, place, shown,
                               va="center", fontsize=8)  # fmt: skip
                    names.append(f"{name}, {each.dtype}")
                    place += 1
            sizes = "; ".join(
                dict.fromkeys(", ".join(f"{k} {v:,}" for k, v in e.size.items()) for e in of_kind)
            )
            panel.set_yticks(range(place), names)
            panel.invert_yaxis()
            panel.set_xlim(0, 1.22 * longest)
            panel.set_title(f"{of_kind[0].title}\n{sizes}", loc="left", fontsize=9)
        panels[-1].set_xlabel("milliseconds, median; less is better")
