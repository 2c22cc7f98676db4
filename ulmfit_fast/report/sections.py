"""What the sections about data, choices, speed and surroundings show, as plain values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from ulmfit_fast.interpret.examination import Duplicate, Examination
from ulmfit_fast.report.inputs import Inputs
from ulmfit_fast.report.plots import TITLES, in_thousands
from ulmfit_fast.report.text import counted, duration, excerpt, mebibytes, part_name
from ulmfit_fast.report.verdict import contradicts

MAX_CLASSES = 60
MAX_DUPLICATES = 30
MAX_UNKNOWN = 12
MAX_NOTES = 20


def data_section(inputs: Inputs) -> dict[str, Any]:
    """Return what was read: parts, classes, unknown words, texts that stand twice."""
    found, run = inputs.examination, inputs.run
    facts = run.get("data") or {}
    notes = [*facts.get("notes", ()), *(run.get("remarks") or ())]
    return {
        "summary": _summary(run, facts),
        "notes": [str(note) for note in notes[:MAX_NOTES]],
        "parts": found.overview if found else (),
        "unknown": [
            (part.name, list(part.unknown_words.items())[:MAX_UNKNOWN])
            for part in (found.overview if found else ())
            if part.unknown_words and part.name != "train"
        ],
        **_classes(found, facts),
        **_duplicates(found),
    }


def _summary(run: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    source = run.get("source")
    if run.get("n_texts"):
        sizes = [f"{name} {n:,}" for name, n in run["n_texts"].items()]
        return f"Docstrings of this machine's Python packages: {', '.join(sizes)}."
    if not facts:
        return f"Text of {excerpt(str(source), 200)}." if source else "No text was read."
    columns = ", ".join(f"\u201c{excerpt(str(name), 40)}\u201d" for name in facts["text_columns"])
    sizes = [
        counted(facts["n_train"], "text") + " to train on",
        f"{facts['n_valid']:,} to choose on",
    ]
    if facts.get("n_test"):
        sizes.append(f"{facts['n_test']:,} to test on")
    if facts.get("n_unlabelled"):
        sizes.append(f"{facts['n_unlabelled']:,} without a label for the language model")
    skipped = run.get("n_skipped")
    left_out = f" {counted(skipped, 'row')} could not be used." if skipped else ""
    label = excerpt(str(facts["label_column"]), 40)
    return (
        f"{excerpt(str(source), 200)}: text from {columns}, label from \u201c{label}\u201d. "
        f"{', '.join(sizes)}.{left_out}"
    )


def _classes(found: Examination | None, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the counts of every class in every part that has labels, the largest class first."""
    parts = {part.name: part.classes for part in found.overview if part.classes} if found else {}
    if not parts and facts.get("classes"):
        parts = {"train": facts["classes"]}
    names = list(dict.fromkeys(name for classes in parts.values() for name in classes))
    first = next(iter(parts.values()), {})
    names.sort(key=lambda name: -first.get(name, 0))
    totals = {part: max(1, sum(classes.values())) for part, classes in parts.items()}
    rows = [
        (name, [(classes.get(name, 0), classes.get(name, 0) / totals[part])
                for part, classes in parts.items()])
        for name in names[:MAX_CLASSES]
    ]  # fmt: skip
    more = max(0, len(names) - MAX_CLASSES)
    return {"classes": rows, "class_parts": list(parts), "n_more_classes": more}


def _duplicates(found: Examination | None) -> dict[str, Any]:
    if found is None:
        return {"has_duplicates": False}
    ordered: list[Duplicate] = sorted(found.duplicates, key=lambda d: not contradicts(d))
    counts = [
        (" and ".join(part_name(name.strip()) for name in pair.split(",")), n)
        for pair, n in found.n_duplicates.items()
        if n
    ]
    return {
        "has_duplicates": True,
        "duplicates": ordered[:MAX_DUPLICATES],
        "duplicate_counts": counts,
        "n_against": sum(map(contradicts, found.duplicates)),
    }


def choices_section(run: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what a run did where the user left it open, with the reasons it gave."""
    why, config = run.get("why") or {}, run.get("config") or {}
    chosen = [
        ("Start", run.get("base") or "from scratch", why.get("base", "")),
        ("Size of the model", run.get("size"), why.get("size", "")),
        ("Recipe", config.get("recipe"), why.get("recipe", "")),
        ("Tokens", run.get("tokenizer"), why.get("tokenizer", "")),
        ("Device", run.get("device"), why.get("device", "")),
        ("Precision", run.get("precision"), why.get("precision", "")),
        ("Seed", config.get("seed"), ""),
    ]
    rows = [(what, str(value), why) for what, value, why in chosen if value is not None]
    if not config.get("recipe"):  # a demo has three
        return None
    ran = {stage.get("stage") for stage in run.get("stages") or []}
    stages = []
    for name in ("pretrain", "language_model", "classifier"):
        settings = config.get(name) or {}
        if name in ran and "epochs" in settings:
            dropouts = ", ".join(f"{k} {v:.3g}" for k, v in settings.get("dropouts", {}).items())
            stages.append({**settings, "title": TITLES[name], "dropouts": dropouts})
    shown = {"recipe", "seed", "pretrain", "language_model", "classifier"}
    others = [(name, _plain(value)) for name, value in config.items() if name not in shown]
    return {"rows": rows, "stages": stages, "others": others}


def _plain(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def speed_section(inputs: Inputs) -> dict[str, Any]:
    """Return time and tokens a second of every stage, and the memory the run needed."""
    told = {stage.name: stage for stage in inputs.history.stages}
    rows = []
    for result in inputs.run.get("stages") or []:
        name, seconds, n = result.get("stage", ""), result.get("seconds"), result.get("n_tokens")
        points = told[name].points if name in told else []
        steps = [p.tokens_per_s for p in points if math.isfinite(p.tokens_per_s)]
        rows.append({
            "title": TITLES.get(name, name),
            "time": duration(seconds) if seconds else "\u2013",
            "n_tokens": f"{n:,}" if n else "\u2013",
            "mean": in_thousands(n / seconds) if n and seconds else "\u2013",
            "median": in_thousands(median(steps)) if steps else "\u2013",
        })  # fmt: skip
    titles = {"host_bytes": "Most memory of the process", "gpu_bytes": "Most memory of the GPU"}
    peaks = inputs.run.get("peak_memory") or {}
    memory = [(titles[key], mebibytes(peaks[key])) for key in titles if peaks.get(key)]
    return {"rows": rows, "memory": memory}


def reproduce_section(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return command, seed, versions and machine."""
    seed = (run.get("config") or {}).get("seed", run.get("seed"))
    names = {
        "system": "System", "processor": "Processor", "gpus": "GPUs", "cuda": "CUDA of torch",
        "cpu_kernels": "Compiled CPU kernels",
    }  # fmt: skip
    versions = [(str(name), str(value)) for name, value in (run.get("versions") or {}).items()]
    machine = run.get("environment") or {}
    facts = [(title, _listed(machine[key])) for key, title in names.items() if key in machine]
    if run.get("n_threads"):
        facts.append(("Threads", str(run["n_threads"])))
    says = f"Seed {seed}. " if seed is not None else ""
    says += (
        "The same command with the same files, versions, number of threads and kind of processor "
        "gives the same figures; on other machines late digits may differ."
    )
    return {"command": run.get("command"), "says": says, "facts": [*versions, *facts]}


def _listed(value: object) -> str:
    values: Sequence[object] = value if isinstance(value, list) else [value]
    return ", ".join(str(item) for item in values if item not in (None, "")) or "none"
