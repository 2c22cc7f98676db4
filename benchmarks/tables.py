"""The tables of the benchmark report, in Markdown: times side by side, and runs in turns."""

from __future__ import annotations

from typing import Any

#: Columns of times, in order; one is there if a record has such a case.
IMPLEMENTATIONS = {
    "ulmfit_fast": "ulmfit_fast",
    "ulmfit_fast_graph": "in a CUDA graph",
    "torch": "PyTorch",
    "torch_chunked": "PyTorch, in chunks",
    "torch_undropped": "PyTorch, no weight drop",
    "fastai": "fastai",
    "reference": "reference",
}


def milliseconds(value: float) -> str:
    """Return a time with three digits, and no exponent: 4.18, 65.9, 1,380."""
    return f"{float(f'{value:.3g}'):,.0f}" if value >= 100 else f"{value:.3g}"


def compare(ours: dict[str, Any] | None, torchs: dict[str, Any] | None) -> str:
    """Return how many times faster we are than PyTorch, or that it cannot be told."""
    if ours is None or torchs is None:
        return ""
    ratio = torchs["time_ms"]["p50"] / ours["time_ms"]["p50"]
    spread = max(max(c["repeat_p50_ms"]) / min(c["repeat_p50_ms"]) for c in (ours, torchs))
    return "equal" if 1 / spread <= ratio <= spread else f"{ratio:.2g}x"


def of_cases(cases: list[dict[str, Any]], whole: bool) -> list[str]:
    """Return a table with a line for each operation, size and dtype; empty without cases.

    Args:
        cases: of one record.
        whole: add the floor's part in our time, for docs.
    """
    if not cases:
        return []
    groups: dict[tuple[str, ...], dict[str, Any]] = {}
    for case in cases:
        sizes = ", ".join(f"{letter} {size}" for letter, size in case["sizes"].items())
        key = (f"`{case['op']}` {case['mode']}", sizes, case["dtype"])
        groups.setdefault(key, {})[case["impl"]] = case
    present = [impl for impl in IMPLEMENTATIONS if any(impl in group for group in groups.values())]
    titles = [f"{IMPLEMENTATIONS[impl]}, ms" for impl in present]
    last = ["against PyTorch", *(["floor / time"] if whole else [])]
    columns = ["operation", "sizes", "dtype", *titles, *last]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for key, group in groups.items():
        times = [milliseconds(group[i]["time_ms"]["p50"]) if i in group else "–" for i in present]
        # In a graph where there is one: what training with graphs would see.
        ours = group.get("ulmfit_fast_graph", group.get("ulmfit_fast"))
        end = [compare(ours, group.get("torch"))]
        if whole:
            end.append("" if ours is None else f"{ours['floor_fraction']:.2g}")
        lines.append("| " + " | ".join([*key, *times, *end]) + " |")
    return lines


def of_turns(record: dict[str, Any], whole: bool) -> list[str]:
    """Return the table of a side-by-side run; empty if nothing was timed.

    Args:
        record: of networks, of optimizer steps, or of texts.
        whole: every case of steps, for docs; else the first.
    """
    if not record["cases"]:
        return []
    if record["cases"][0]["op"] == "text":
        return of_text(record)
    return of_steps(record, whole) if record["cases"][0]["mode"] == "step" else of_networks(record)


def of_text(record: dict[str, Any]) -> list[str]:
    """Return a table with a line for each way from texts to ids and from ids to batches."""
    ours, ratios = ratios_of(record)
    columns = ["work", "implementation", "case", "M tokens/s", "ms", "p20 to p80"]
    columns += [f"speed of {impl}, {how}" for impl, how in ours]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for case in record["cases"]:
        work = {"tokenize": "texts to ids", "batches": "ids to batches"}[case["mode"]]
        rate = milliseconds(case["tokens_per_s"]["p50"] / 1e6)
        cells = [work, f"`{case['impl']}`", case["case"], rate, *times_of(case)]
        peer = case["impl"], case["case"]
        cells += [speed(ratios.get((one, peer))) for one in ours]
        lines.append(f"| {' | '.join(cells)} |")
    text = record["text"]
    how = (
        f"{text['n_characters'] / 1e6:.1f} M characters of {text['name']}, {text['n_different']:,} "
        f"different texts; {record['cases'][0]['time_ms']['n']} rounds in turns, ratios within a "
        "round. Nothing is remembered between calls that tokenize; fastai's stops at tokens."
    )
    return [*lines, "", how]


def of_networks(record: dict[str, Any]) -> list[str]:
    """Return a table with a line for each implementation of a network, and its memory."""
    ours, ratios = ratios_of(record)
    columns = ["same work", "dtype", "ms", "p20 to p80", "held, MiB", "peak, MiB"]
    columns += [f"speed of {impl} {dtype}" for impl, dtype in ours]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for case in record["cases"]:
        cells = [case["what"], case["dtype"], *times_of(case)]
        cells += [f"{case[k]:.0f}" if k in case else "–" for k in ("network_mib", "peak_mib")]
        peer = case["impl"], case["dtype"]
        cells += [speed(ratios.get((one, peer))) for one in ours]
        lines.append(f"| {' | '.join(cells)} |")
    sizes = ", ".join(f"{letter} {size}" for letter, size in record["cases"][0]["sizes"].items())
    n_rounds = record["cases"][0]["time_ms"]["n"]
    how = f"One LSTM layer H -> H, forward and backward, {sizes}; {n_rounds} rounds in turns, "
    return [*lines, "", f"{how}ratios within a round. Held: weights, inputs; peak: above that."]


def of_steps(record: dict[str, Any], whole: bool) -> list[str]:
    """Return a table with a line for each implementation of an optimizer step, and its traffic."""
    _, ratios = ratios_of(record)
    first, machine = record["cases"][0], record["machine"]
    columns = ["parameters", "case", "implementation", "ms", "p20 to p80", "bytes a parameter"]
    columns += ["GB/s", "of the floor", "launches", "speed of ulmfit_fast"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for case in record["cases"]:
        if not whole and case["case"] != first["case"]:
            continue
        n_params, n_launches = case["n_params"], case["launches"]
        held = f" of {millions(case['n_held'])}" if case["n_frozen"] else ""
        cells = [f"{millions(n_params)}{held}", case["case"], f"`{case['impl']}`: {case['what']}"]
        cells += [*times_of(case), f"{case['n_bytes'] / n_params:.0f}", f"{case['gb_per_s']:.3g}"]
        cells += [f"{case['floor_fraction']:.2g}", "–" if n_launches is None else f"{n_launches}"]
        peer = case["impl"], case["case"]
        cells.append(speed(ratios.get((("ulmfit_fast", case["case"]), peer))))
        lines.append(f"| {' | '.join(cells)} |")
    rates = {"read": "read_gb_per_s", "copy": "copy_gb_per_s", "AdamW": "adamw_traffic_gb_per_s"}
    found = [f"{name} {machine[k]:.3g}" for name, k in rates.items() if machine[k] is not None]
    how = (
        f"One step over an AWD-LSTM's {millions(first['n_held'])} float32 parameters in five groups"
        f"; {first['time_ms']['n']} rounds in turns, ratios within a round. Floor: 28 bytes a "
        "parameter at the rate of AdamW's traffic (else of a copy), and 4 at that of reading where "
        f"there is a norm. Rates over 256 MiB arrays, GB/s: {', '.join(found)}."
    )
    return [*lines, "", how]


def ratios_of(
    record: dict[str, Any],
) -> tuple[list[tuple[str, str]], dict[tuple[Any, Any], dict[str, Any]]]:
    """Return those of ours that a run compares, and the ratio of each pair (ours, peer)."""
    ratios = {(tuple(r["ours"]), tuple(r["peer"])): r for r in record["ratios"]}
    return [*dict.fromkeys(ours for ours, _ in ratios)], ratios


def times_of(case: dict[str, Any]) -> list[str]:
    """Return the median of a case, and p20 to p80."""
    p20, p50, p80 = (milliseconds(case["time_ms"][k]) for k in ("p20", "p50", "p80"))
    return [p50, f"{p20} to {p80}"]


def speed(ratio: dict[str, Any] | None) -> str:
    """Return how many times faster we are; empty where that is not compared."""
    if ratio is None:
        return ""
    return "equal" if ratio["equal"] else f"{ratio['p50']:.2f}x"


def millions(n: int) -> str:
    """Return a number of parameters: 44.3 M."""
    return f"{n / 1e6:.1f} M"
