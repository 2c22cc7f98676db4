"""`ulmfit-fast bench`: how fast this machine trains, beside torch."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from ulmfit_fast.bench.clock import Spread
from ulmfit_fast.bench.figure import check_plot
from ulmfit_fast.bench.kinds import OURS, Kind
from ulmfit_fast.bench.run import KINDS, Bench, Measured, run_bench
from ulmfit_fast.commands import text_plot
from ulmfit_fast.commands.terminal import Terminal, count
from ulmfit_fast.commands.waiting import showing_progress
from ulmfit_fast.errors import InputError, TrainingError
from ulmfit_fast.training.device import choose_device

#: Columns of a line without its bar: dtype, implementation, time and ratio.
TEXT_WIDTH, LONGEST_BAR, SHORTEST_BAR = 70, 24, 6


@dataclass(frozen=True)
class BenchOptions:
    """Options of `bench`.

    Attributes:
        device: None takes a GPU where torch sees one.
        seconds: that it should take, about.
        threads: of the CPU; None leaves torch's number.
        only: names of kinds; empty measures all.
        plot: picture to write.
    """

    device: str | None = None
    seconds: float = 60.0
    threads: int | None = None
    only: tuple[str, ...] = ()
    plot: Path | None = None


def bench(options: BenchOptions, terminal: Terminal) -> None:
    """Time the parts of training against torch's, and show how many times as long torch takes.

    Raises:
        InputError: an option cannot be used.
        TrainingError: a result of ours is wrong; it was not timed.
    """
    check_plot(options.plot)
    device = choose_device(options.device)
    kinds = _chosen(options.only)
    n_threads = torch.get_num_threads()
    torch.set_num_threads(options.threads or n_threads)
    try:
        with showing_progress(terminal) as progress:
            found = run_bench(device, seconds=options.seconds, kinds=kinds, progress=progress)
    finally:
        torch.set_num_threads(n_threads)
    _say_machine(found, terminal)
    for group in _by_kind(found.measured):
        _say_kind(group, terminal)
    _say_end(found, terminal)
    if options.plot is not None:
        from ulmfit_fast.bench.speed_plot import draw_bench

        draw_bench(options.plot, found)
        terminal.say(f"picture   {options.plot}")
    terminal.result(asdict(found))
    if found.wrong:
        names = ", ".join(f"{each.kind} {each.dtype}" for each in found.wrong)
        raise TrainingError(
            f"wrong results: {names}; they are further from float64 than torch's. Please report "
            "this with the output of ulmfit-fast info"
        )


def _chosen(names: Sequence[str]) -> list[Kind]:
    """Return the kinds of some names, in their order.

    Raises:
        InputError: no kind has a name.
    """
    known = {kind.name: kind for kind in KINDS}
    for name in names:
        if name not in known:
            raise InputError(f"--only {name}: give {', '.join(known)}")
    return [kind for kind in KINDS if not names or kind.name in names]


def _by_kind(measured: Sequence[Measured]) -> list[list[Measured]]:
    """Return neighbours of one kind together."""
    groups: list[list[Measured]] = []
    for each in measured:
        if groups and groups[-1][0].kind == each.kind:
            groups[-1].append(each)
        else:
            groups.append([each])
    return groups


def _say_machine(found: Bench, terminal: Terminal) -> None:
    facts = found.machine
    where = facts.get("gpu") or f"{facts['cpu']}, {count(facts['n_threads'], 'thread')}"
    terminal.say(f"machine   {where}; torch {facts['torch']}")
    if "reference" in facts["kernels"].values():
        terminal.say("kernels   none compiled: ulmfit_fast runs in plain PyTorch (see doctor)")
    if found.is_busy:
        cores = count(facts["n_cores"], "core")
        advice = "" if facts["n_threads"] == 1 else "; --threads 1 suffers less"
        terminal.warn(
            f"the machine is busy (load {facts['load']} on {cores}): times are longer than they "
            f"could be, ratios less sure{advice}"
        )


def _say_kind(group: Sequence[Measured], terminal: Terminal) -> None:
    """Write a title, and for each dtype a line for each implementation."""
    terminal.say()
    terminal.say(group[0].title)
    largest = max((t.p50 for each in group for t in each.times_ms.values()), default=1.0)
    columns = shutil.get_terminal_size((80, 24)).columns
    room, is_narrow = columns - TEXT_WIDTH, columns < TEXT_WIDTH
    n_bar = min(room, LONGEST_BAR) if room >= SHORTEST_BAR else 0
    for each in group:
        size = ", ".join(f"{name} {value:,}" for name, value in each.size.items())
        if not each.check.is_right:
            error = f"error {each.check.error:.1e}, allowed {each.check.allowed:.1e}"
            terminal.say(f"  {each.dtype}: WRONG, not timed ({error})")
            continue
        terminal.say(f"  {each.dtype}, {size}")
        for name, times in each.times_ms.items():
            bar = ""
            if n_bar:
                drawn = text_plot.bar(times.p50, largest, n_bar, blocks=text_plot.has_blocks())
                bar = f"  {drawn:{n_bar}s}"
            compared = "" if name == OURS else f"  {format_ratio(each.ratios[name])}"
            begin = f"    {name:27s}"
            if is_narrow:  # two lines, rather than one that is broken
                terminal.say(f"    {name}")
                begin = "    "
            terminal.say(f"{begin} {format_ms(times.p50):>9s}{bar}{compared}".rstrip())


def _say_end(found: Bench, terminal: Terminal) -> None:
    terminal.say()
    for line in found.left_out:
        terminal.say(f"left out  {line}")
    terminal.say("ratios    torch's time over ulmfit_fast's in a round: median (middle 60 %)")
    worst = max((e.check.error / e.check.allowed for e in found.measured), default=0.0)
    terminal.say(
        f"checked   against float64 first; the worst has {100 * worst:.0f} % of the allowed error"
    )
    terminal.say(f"took      {found.seconds:.0f} s")


def format_ratio(spread: Spread) -> str:
    """Write a ratio with its spread, and whether it tells nothing."""
    shown = f"{spread.p50:.2f}x ({spread.p20:.2f} to {spread.p80:.2f})"
    return f"{shown} even" if spread.p20 <= 1 <= spread.p80 else shown


def format_ms(value: float) -> str:
    """Write milliseconds with three digits."""
    if value < 1:
        return f"{1000 * value:.3g} µs"
    return f"{value:.3g} ms" if value < 1000 else f"{value / 1000:.3g} s"
