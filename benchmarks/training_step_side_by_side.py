"""Time whole training steps, inference and predictions in turns: ours, fastai, plain PyTorch.

    python benchmarks/training_step_side_by_side.py [--device cuda] [--only CASE ...] [--rounds 3]
        [--text wiki.txt.xz] [--imdb train.csv.xz] [--trec train.label.xz]

writes benchmarks/results/training-step-side-by-side--<cpu or gpu>--<yyyymmdd>.json and prints a
line for each implementation. An AWD-LSTM of fastai's sizes (400, 1152, 3 layers) with fastai's
dropouts, AR, TAR and optimizer settings: steps of a language model with a tied softmax, steps of a
classifier with all layers unfrozen, documents a second, and the time of one prediction. All
implementations of a case begin with the same weights and read the same batches in the same order;
before the timing their losses and gradients, without dropout, are compared. They run one after
another, A B C A B C, and ratios are taken within a round. Peak memory is that of a process of its
own. Without files, ids are drawn as frequent as words are, and lengths as IMDb's and TREC's.
"""

from __future__ import annotations

import argparse
import gc
import os
import subprocess
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import end_to_end_parts as parts
import end_to_end_steps as steps
import machine
import torch
import turns
from end_to_end_data import CASES, Case, Files, batches, documents
from end_to_end_steps import Way, Work
from side_by_side import CLEAR_PEAK, resident_mib
from turns import Entry

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own lines about itself
SCHEMA = 1
CASE = "training-step-side-by-side"
OURS = "ulmfit_fast"
#: A step takes seconds on two cores.
ROUNDS, N_WARM = 3, 1
#: Calls in the process that measures memory: the optimizer makes its state in the first.
N_PEAK_CALLS = 2
#: Options that name files of real texts.
FILES = ("text", "imdb", "trec")


def ways(device: str) -> list[Way]:
    """Return every implementation and dtype of a device."""
    return [Way(*way) for way in (steps.GPU_WAYS if device == "cuda" else steps.WAYS)]


def build_works(
    case: Case, device: str, files: Files
) -> tuple[dict[Way, Work], dict[Way, dict[str, float]], list[dict[str, str]]]:
    """Return the work of every implementation and its distance from ours, and what was left out.

    A wrong float32 is not timed, and raises where it is ours. Peers' lower precision is timed as
    it is; the record's error says how exact it is.
    """
    works, errors, left_out = {}, {}, []
    expected = None
    for way in ways(device):
        reason = way.why_left_out(device)
        if way.impl == "reference" and case.documents == "long":
            reason = "minutes a step: a Python operation for each time step of a long document"
        if reason is not None:
            left_out.append({"case": f"{way} {case.name}", "reason": reason})
            continue
        work = way.build(case, device, files)
        outcome = work.outcome()
        expected = expected or outcome
        loss, gradient = steps.distances(outcome, expected)
        errors[way] = {"error": loss, "gradient_error": gradient}
        is_right = steps.is_right(case, way, loss, gradient)
        if not is_right and (way.impl == OURS or way.dtype == "float32"):
            wrong = f"{way} {case.name}: loss {loss:.1e}, gradients {gradient:.1e} from ours"
            if way.impl == OURS:
                raise AssertionError(wrong)
            left_out.append({"case": f"{way} {case.name}", "reason": f"not the same work: {wrong}"})
            continue
        works[way] = work
    return works, errors, left_out


def work_counts(case: Case, files: Files) -> dict[str, float]:
    """Return how many tokens, without padding, and documents a call reads."""
    if case.kind == "predict":
        text, tokenizer = steps.inference.predicted_text(case, files)
        return {"n_tokens": len(tokenizer.encode([text])[0]), "n_docs": 1}
    if case.kind == "inference":
        return {"n_tokens": sum(map(len, documents(case, files)[0])), "n_docs": case.n_docs}
    return {"n_tokens": batches(case, files, 1)[0].n_tokens, "n_docs": case.n_docs}


def case_record(
    case: Case, way: Way, times_ms: list[float], counts: Mapping[str, float]
) -> dict[str, Any]:
    """Return what the record says about the time of one implementation."""
    times = turns.times_record(times_ms)
    each_s = 1e-3 * times["time_ms"]["p50"]
    return {
        "op": case.kind,
        "mode": "end to end",
        "impl": way.impl,
        "what": way.what(case),
        "dtype": way.dtype,
        "sizes": case.sizes(),
        "case": case.name,
        **counts,
        **times,
        "tokens_per_s": counts["n_tokens"] / each_s,
        "docs_per_s": counts["n_docs"] / each_s,
    }


def measure_case(
    case: Case, rounds: int, device: str, files: Files
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, str]]]:
    """Return the records of one case, ours against each, and what was left out."""
    works, errors, left_out = build_works(case, device, files)
    calls = {(str(way), case.name): work for way, work in works.items()}
    times_ms = turns.measure(calls, rounds, device, N_WARM)
    counts, cases = work_counts(case, files), []
    for way, work in works.items():
        record = case_record(case, way, times_ms[str(way), case.name], counts)
        record |= errors[way]
        record |= parts.measure(work, work.label, device) if is_profiled(case, way) else {}
        cases.append(record)
    pairs: list[tuple[Entry, Entry]] = [
        (ours, peer)
        for ours in calls
        for peer in calls
        if ours[0].startswith(OURS) and not peer[0].startswith(OURS)
    ]
    return cases, turns.ratios(pairs, times_ms), left_out


def is_profiled(case: Case, way: Way) -> bool:
    """Say whether operations are counted: not where there are some hundred thousand."""
    return way.impl != "reference" or case.documents != "long"


def weigh(case: Case, way: Way, device: str, files: Files) -> float:
    """Return the most MiB a process of its own held above what it held before the model was made.

    Before, a tiny model loads the libraries.
    """
    tiny = way.build(case.tiny(), device, Files())
    tiny()
    del tiny
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() / 2**20
    else:
        before = resident_mib("VmRSS")
        CLEAR_PEAK.write_text("5")  # VmHWM begins again
    work = way.build(case, device, files)
    for _ in range(N_PEAK_CALLS):
        work()
    machine.synchronize(device)
    peak = torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else resident_mib("VmHWM")
    return round(peak - before, 1)


def weigh_in_child(case: Case, way: Way, options: argparse.Namespace) -> float:
    """Return what weigh finds in a process of its own."""
    command = [sys.executable, __file__, "--weigh", way.impl, way.dtype, "--only", case.name]
    command += ["--device", options.device, *(["--quick"] if options.quick else [])]
    for name in FILES:
        if getattr(options, name) is not None:
            command += [f"--{name}", str(getattr(options, name))]
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(ran.stdout.splitlines()[-1])


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Return the record of a run: every implementation in every case, ours against each."""
    device, files = options.device, files_of(options)
    rounds = turns.QUICK_ROUNDS if options.quick else options.rounds
    found: dict[str, list[dict[str, Any]]] = {"cases": [], "ratios": [], "left_out": []}
    weighable = device == "cuda" or CLEAR_PEAK.exists()
    if not weighable:
        reason = f"this system has no {CLEAR_PEAK}"
        found["left_out"].append({"case": "peak_mib", "reason": reason})
    for case in chosen_cases(options):
        part = measure_case(case, rounds, device, files)
        for name, records in zip(("cases", "ratios", "left_out"), part, strict=True):
            found[name] += records
        gc.collect()  # of fastai's learners, whose callbacks refer to them
        for record in part[0] if weighable and case.kind != "predict" else []:
            if options.quick and found["cases"].index(record) > 0:
                continue  # a child spends seconds on its imports
            way = Way(record["impl"], record["dtype"])
            record["peak_mib"] = weigh_in_child(case, way, options)
    info: dict[str, Any] = machine.describe(device)
    data = {name: "drawn" if getattr(options, name) is None else "file" for name in FILES}
    origin = machine.origin(f"python benchmarks/{CASE.replace('-', '_')}.py")
    return {
        **{"schema": SCHEMA, **origin, "quick": options.quick, "machine": info, "data": data},
        **found,
    }


def files_of(options: argparse.Namespace) -> Files:
    """Return the files that the options name; none for tiny cases."""
    return Files() if options.quick else Files(options.text, options.imdb, options.trec)


def chosen_cases(options: argparse.Namespace) -> list[Case]:
    """Return the cases that --only names, or all; tiny with --quick."""
    chosen = [case for case in CASES if case.name in options.only]
    return [case.tiny() for case in chosen] if options.quick else chosen


def lines(record: dict[str, Any]) -> list[str]:
    """Return what a reader of the terminal wants to know of a record."""
    texts = []
    for case in record["cases"]:
        time_ms, peak = case["time_ms"], case.get("peak_mib")
        memory = "" if peak is None else f"   peak {peak:.0f} MiB"
        spread = f"({time_ms['p20']:.1f} to {time_ms['p80']:.1f})"
        name = f"{case['case']:18} {case['impl']} {case['dtype']}"
        rate = f"{case['tokens_per_s']:9.0f} tokens/s"
        texts.append(f"{name:42} {time_ms['p50']:9.1f} ms {spread:20} {rate}{memory}")
    return texts + turns.lines_of_ratios(record)


def main(arguments: list[str] | None = None) -> int:
    parser = turns.parser("Time whole training steps and predictions in turns.")
    parser.set_defaults(rounds=ROUNDS)
    names = [case.name for case in CASES]
    help_only = f"some of {', '.join(names)}; the file written then names them"
    parser.add_argument(
        "--only", nargs="+", choices=names, default=names, metavar="CASE", help=help_only
    )
    for name, what in zip(FILES, ("text", "csv with label and text", "TREC's lines"), strict=True):
        parser.add_argument(f"--{name}", type=Path, help=f"{what}, .xz or not; else drawn ids")
    parser.add_argument("--weigh", nargs=2, metavar=("IMPL", "DTYPE"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.rounds < 2:
        parser.error("--rounds: at least 2, as the two halves of a case are compared")
    for name in FILES:
        file = getattr(options, name)
        if file is not None and not file.is_file():
            parser.error(f"--{name}: {file} is not a file")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU")
    machine.use_whole_float32()
    warnings.filterwarnings("ignore", module="fast|torch")
    if options.weigh:
        case = chosen_cases(options)[0]
        found = weigh(case, Way(*options.weigh), options.device, files_of(options))
        sys.stdout.write(f"{found}\n")
        return 0
    record = compare(options)
    # A part of the cases must not take the place of all of them.
    part = "" if set(options.only) == set(names) else "-of-" + "-".join(options.only)
    turns.finish(record, lines(record), CASE + part, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
