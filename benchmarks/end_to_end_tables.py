"""The tables of whole steps: times and rates, memory, launches, and the parts of a step."""

from __future__ import annotations

from typing import Any

import tables

OURS = ("ulmfit_fast", "float32"), ("ulmfit_fast", "bfloat16")
#: What the README compares ours with, in both dtypes of ours.
PEER = "fastai float32"
HOW = (
    "AWD-LSTM 400, 1152, 3 layers, with fastai's dropouts, AR, TAR and Adam; classifiers with all "
    "layers unfrozen. The same weights at the start, the same batches in the same order; {rounds} "
    "rounds in turns, ratios within a round. bfloat16 is torch.autocast around the forward pass "
    "and the loss. Batches are made beforehand; fastai's Learner.one_batch has its events and "
    "callbacks, but no Recorder and no progress bar. Text: {data}. Peak: MiB above what the "
    "process held before the model was made."
)


def of_end_to_end(record: dict[str, Any], whole: bool) -> list[str]:
    """Return the table of whole steps.

    Args:
        record: of training_step_side_by_side.
        whole: every implementation with its memory and its parts, for docs; else a line a case.
    """
    rounds, data = record["cases"][0]["time_ms"]["n"], record["data"]
    drawn = ", ".join(f"{name} {origin}" for name, origin in data.items())
    how = HOW.format(rounds=rounds, data=drawn)
    if not whole:
        return [*one_line_a_case(record), "", how]
    inexact = [case for case in record["cases"] if case["gradient_error"] > 0.5]
    notes = [
        f"**{case['impl']} {case['dtype']}, {case['case']}: its gradients are wrong here** "
        f"(up to {case['gradient_error']:.1g} of a parameter's gradient from float32)."
        for case in inexact
    ]
    parts = of_parts(record["cases"])
    return [*every_implementation(record), "", " ".join([how, *notes]), "", *parts]


def of_scripts(record: dict[str, Any]) -> list[str]:
    """Return the table of a fastai script with other imports: a line for each, and for each dtype.

    Args:
        record: of fastai_import.
    """
    _, ratios = tables.ratios_of(record)
    peers = list(dict.fromkeys(r["peer"][0] for r in record["ratios"]))
    columns = ["one step of a fastai script", "script", "dtype", "ms", "p20 to p80"]
    columns += ["gradient error", *(f"against {peer}" for peer in peers)]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for case in record["cases"]:
        cells = [work_of(case), case["impl"], case["dtype"], *tables.times_of(case)]
        cells.append(f"{case['gradient_error']:.1g}")
        ours = f"{case['impl']} {case['dtype']}", case["case"]
        cells += [tables.speed(ratios.get((ours, (peer, case["case"])))) for peer in peers]
        lines.append(f"| {' | '.join(cells)} |")
    how = (
        f"Learner.one_batch of fastai 2.8 with its own AWD_LSTM and Adam, or with ours; "
        f"{record['cases'][0]['time_ms']['n']} rounds in turns, ratios within a round. bfloat16 is "
        "torch.autocast for both, which fastai's own to_bf16 does not turn on on a CPU. Text: "
        f"{record['data']}. Gradient error: the largest of a parameter, from fastai in float32; "
        "near 1 the gradients are wrong."
    )
    return [*lines, "", how]


def work_of(case: dict[str, Any]) -> str:
    """Return what one call of a case does: classifier, 32 documents of 8,640 tokens."""
    sizes = case["sizes"]
    if case["op"] == "language model":
        return f"language model step, V {sizes['V']}, {sizes['B']} x {sizes['T']} tokens"
    if case["op"] == "predict":
        return f"prediction of one text, {case['n_tokens']} tokens"
    name = "classifier step" if case["op"] == "classifier" else "inference"
    return f"{name}, {case['n_docs']} documents, {case['n_tokens']:,} tokens"


def grouped(cases: list[dict[str, Any]]) -> dict[str, dict[tuple[str, str], dict[str, Any]]]:
    """Return case name -> (implementation, dtype) -> record."""
    groups: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}
    for case in cases:
        groups.setdefault(case["case"], {})[case["impl"], case["dtype"]] = case
    return groups


def one_line_a_case(record: dict[str, Any]) -> list[str]:
    """Return the README's table."""
    ways = list(dict.fromkeys((case["impl"], case["dtype"]) for case in record["cases"]))
    _, ratios = tables.ratios_of(record)
    short = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
    columns = ["one call", *(f"{impl} {short[dtype]}, ms" for impl, dtype in ways)]
    columns += [f"speed of {short[dtype]} against {PEER}" for _, dtype in OURS]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, found in grouped(record["cases"]).items():
        cells = [work_of(next(iter(found.values())))]
        for way in ways:
            known = found.get(way)
            cells.append("–" if known is None else tables.milliseconds(known["time_ms"]["p50"]))
        for impl, dtype in OURS:
            pair = (f"{impl} {dtype}", name), (PEER, name)
            cells.append(tables.speed(ratios.get(pair)))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def every_implementation(record: dict[str, Any]) -> list[str]:
    """Return a table with a line for each implementation of each case."""
    _, ratios = tables.ratios_of(record)
    columns = ["one call", "implementation", "dtype", "ms", "p20 to p80", "tokens/s", "documents/s"]
    columns += ["peak, MiB", "operations", "kernels", "gradient error"]
    columns += [f"speed of ulmfit_fast {dtype}" for _, dtype in OURS]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for case in record["cases"]:
        docs = f"{case['docs_per_s']:.3g}" if case["n_docs"] else "–"
        cells = [work_of(case), f"`{case['impl']}`: {case['what']}", case["dtype"]]
        cells += [*tables.times_of(case), f"{float(format(case['tokens_per_s'], '.3g')):,.0f}"]
        cells += [docs, f"{case['peak_mib']:,.0f}" if "peak_mib" in case else "–"]
        cells += ["–" if case.get(k) is None else f"{case[k]:,}" for k in ("operations", "kernels")]
        cells.append(f"{case['gradient_error']:.1g}")
        for impl, dtype in OURS:
            peer = f"{case['impl']} {case['dtype']}", case["case"]
            cells.append(tables.speed(ratios.get(((f"{impl} {dtype}", case["case"]), peer))))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def of_parts(cases: list[dict[str, Any]]) -> list[str]:
    """Return the table of where the time of a call goes; empty where nothing was profiled."""
    shown = [case for case in cases if case.get("parts_ms") and case["impl"] != "reference"]
    if not shown:
        return []
    names = list(dict.fromkeys(part for case in shown for part in case["parts_ms"]))
    names = [*(name for name in names if name != "rest"), "rest"]
    on_gpu = any(case["busy"] is not None for case in shown)
    columns = ["one call, ms", "implementation", "dtype", *names, *(["GPU busy"] if on_gpu else [])]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for case in shown:
        times = [case["parts_ms"].get(name) for name in names]
        cells = [work_of(case), case["impl"], case["dtype"]]
        cells += ["" if t is None else tables.milliseconds(t) for t in times]
        cells += [f"{case['busy']:.0%}"] if on_gpu else []
        lines.append(f"| {' | '.join(cells)} |")
    how = "Parts: forward and backward together, one call under the profiler, which slows it; "
    return [*lines, "", how + "LSTM has its casts and weight drop, softmax its product."]
