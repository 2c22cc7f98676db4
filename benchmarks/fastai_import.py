"""A fastai script as it is against the same with one changed import: time and loss curves.

    python benchmarks/fastai_import.py [--rounds 3] [--text wiki.txt.xz] [--only lm-60k ...]
    python benchmarks/fastai_import.py --curves [--steps 200] [--seeds 5]

The first times Learner.one_batch of fastai 2.8: with its own AWD_LSTM and Adam, with those of
ulmfit_fast.interop.fastai, and with fuse_loss beside them. Steps run in turns and have the same
weights and batches; before the timing losses and gradients, without dropout, are compared. The
record is benchmarks/results/fastai-import-side-by-side--<cpu or gpu>--<yyyymmdd>.json.

The second trains a small language model with each, with dropouts, from several seeds; the curves
go to benchmarks/results/accuracy/fastai-import-curves--cpu--<yyyymmdd>.json.
"""

from __future__ import annotations

import json
import statistics
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import end_to_end_steps as steps
import machine
import torch
import turns
from end_to_end_data import CASES, Case, Files, batches
from end_to_end_steps import FastaiTraining

SCHEMA = 1
CASE = "fastai-import-side-by-side"
CURVES = "fastai-import-curves"
THEIRS, OURS, FUSED = "fastai", "one import", "one import, fuse_loss"
DTYPES = ("float32", "bfloat16")
#: A step takes seconds on two cores.
ROUNDS, N_WARM = 3, 1
#: Steps that a smoothed loss is the mean of.
WINDOW = 20
#: The language model of the curves.
SMALL = replace(CASES[0], name="small", V=2000, E=48, H=96, B=16, T=35)


def build(kind: str, case: Case, dtype: str, device: str, files: Files) -> FastaiTraining:
    """Return the steps of a learner of one kind."""
    if kind == THEIRS:
        return FastaiTraining(case, dtype, device, files)
    from ulmfit_fast.interop.fastai import AWD_LSTM, LayerwiseAdamW, fuse_loss

    work = FastaiTraining(case, dtype, device, files, arch=AWD_LSTM, opt_func=LayerwiseAdamW)
    if kind == FUSED:
        fuse_loss(work.learn)
    return work


def compare(options: Any) -> dict[str, Any]:
    """Return the record of a run over the chosen cases."""
    files = Files() if options.quick else Files(options.text, None, None)
    rounds = turns.QUICK_ROUNDS if options.quick else options.rounds
    found: dict[str, list[Any]] = {"cases": [], "ratios": [], "left_out": []}
    for case in CASES:
        if case.name not in options.only:
            continue
        case = case.tiny() if options.quick else case
        kinds = (THEIRS, OURS, FUSED) if case.kind == "language model" else (THEIRS, OURS)
        works = {
            (f"{kind} {dtype}", case.name): build(kind, case, dtype, options.device, files)
            for kind in kinds
            for dtype in DTYPES
        }
        expected = works[f"{THEIRS} float32", case.name].outcome()
        errors = {e: steps.distances(work.outcome(), expected) for e, work in works.items()}
        for (what, _), distances in errors.items():
            plain = steps.Way(THEIRS, "float32")
            if what.endswith("float32") and not steps.is_right(case, plain, *distances):
                raise AssertionError(f"{what}: loss and gradients {distances} from theirs")
        times_ms = turns.measure(works, rounds, options.device, N_WARM)
        n_tokens = batches(case, files, 1)[0].n_tokens
        for entry, times in times_ms.items():
            record = turns.times_record(times)
            loss, gradient = errors[entry]
            found["cases"].append(
                {
                    "op": case.kind,
                    "mode": "script",
                    "impl": entry[0].rpartition(" ")[0],
                    "dtype": entry[0].rpartition(" ")[2],
                    "sizes": case.sizes(),
                    "case": case.name,
                    "n_tokens": n_tokens,
                    "n_docs": case.n_docs,
                    **record,
                    "tokens_per_s": 1e3 * n_tokens / record["time_ms"]["p50"],
                    "error": loss,
                    "gradient_error": gradient,
                }
            )
        pairs = [(a, b) for a in works for b in works if THEIRS in b[0] and THEIRS not in a[0]]
        found["ratios"] += turns.ratios(pairs, times_ms)
    origin = machine.origin("python benchmarks/fastai_import.py")
    data = "drawn" if files.lm is None else "file"
    about = {"quick": options.quick, "data": data, "machine": machine.describe(options.device)}
    return {"schema": SCHEMA, **origin, **about, **found}


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Have every mask of a run from one seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def curve(kind: str, seed: int, n_steps: int) -> list[float]:
    """Return the smoothed losses of a run with dropouts; the weights at the start are the same."""
    work = build(kind, SMALL, "float32", "cpu", Files())
    losses = []
    with seeded(seed):
        for _ in range(n_steps):
            work()
            losses.append(float(work.learn.loss))
    return [statistics.mean(losses[max(0, i - WINDOW) : i + 1]) for i in range(n_steps)]


def curves(n_steps: int, n_seeds: int) -> dict[str, Any]:
    """Return the curves of both over several seeds, and how far apart they are at the end."""
    found = {
        kind: [curve(kind, seed, n_steps) for seed in range(n_seeds)] for kind in (THEIRS, OURS)
    }
    last = {kind: [run[-1] for run in runs] for kind, runs in found.items()}
    means = {kind: statistics.mean(losses) for kind, losses in last.items()}
    spread = {kind: statistics.stdev(losses) for kind, losses in last.items()}
    return {
        "schema": SCHEMA,
        **machine.origin("python benchmarks/fastai_import.py --curves"),
        "machine": machine.describe("cpu"),
        "sizes": SMALL.sizes(),
        "n_steps": n_steps,
        "window": WINDOW,
        "last": last,
        "mean": means,
        "standard_deviation": spread,
        "difference": means[OURS] - means[THEIRS],
        "curves": {k: [[round(x, 5) for x in run[::5]] for run in v] for k, v in found.items()},
    }


def lines(record: Mapping[str, Any]) -> list[str]:
    """Return what a reader of the terminal wants to know of a record."""
    texts = []
    for case in record["cases"]:
        time_ms = case["time_ms"]
        spread = f"({time_ms['p20']:.1f} to {time_ms['p80']:.1f})"
        name = f"{case['case']} {case['impl']} {case['dtype']}"
        texts.append(f"{name:44} {time_ms['p50']:9.1f} ms {spread}")
    return texts + turns.lines_of_ratios(record)


def main(arguments: list[str] | None = None) -> int:
    parser = turns.parser("Time a fastai script with one changed import, or compare its curves.")
    parser.set_defaults(rounds=ROUNDS)
    names = [case.name for case in CASES if case.trains]
    parser.add_argument("--only", nargs="+", choices=names, default=["lm-60k"], metavar="CASE")
    parser.add_argument("--text", type=Path, help="text, .xz or not; else drawn ids")
    parser.add_argument("--curves", action="store_true")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args(arguments)
    machine.use_whole_float32()
    warnings.filterwarnings("ignore")
    if not options.curves:
        record = compare(options)
        turns.finish(record, lines(record), CASE, options)
        return 0
    record = curves(options.steps, options.seeds)
    said = ", ".join(f"{kind} {mean:.4f}" for kind, mean in record["mean"].items())
    spread = ", ".join(f"{s:.4f}" for s in record["standard_deviation"].values())
    sys.stdout.write(f"last losses: {said}; standard deviations of seeds {spread}\n")
    if not options.quick:
        today = datetime.now(UTC).strftime("%Y%m%d")
        folder = options.results / "accuracy"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{CURVES}--cpu--{today}.json").write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
