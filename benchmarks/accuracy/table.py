"""docs/accuracy.md between its markers, from the records; --check fails where it is not current."""

from __future__ import annotations

import itertools
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import machine

from . import intervals, published
from .plans import VARIANTS
from .record import all_records, say

PAGE = machine.ROOT / "docs" / "accuracy.md"
BEGIN, END = "<!-- accuracy:begin -->", "<!-- accuracy:end -->"
MISSING = "not yet measured"
PRESETS = ("paper", "fast", "tiny")
TITLES = {"trec": "TREC-6", "imdb": "IMDb", "ag": "AG News"}
CLASSIFICATION = {
    "ulmfit-both": "ULMFiT, both directions",
    "ulmfit": "ULMFiT, one direction",
    "no-pretraining": "ULMFiT, language model from the target texts alone",
    "from-scratch": "its classifier from random weights, no language model",
    "fastai": "fastai, language model from the target texts alone",
    "tfidf": "TF-IDF, logistic regression",
    "ngrams": "bag of hashed n-grams (fastText's model)",
    "sentences": "sentence embeddings, logistic regression",
}
Records = list[dict[str, Any]]


def pick(records: Records, task: str | Iterable[str], **fields: Any) -> Records:
    """Return the records of one task or of several whose fields have these values."""
    names = {task} if isinstance(task, str) else set(task)
    return [
        record
        for record in records
        if record["task"] in names and all(record[k] == v for k, v in fields.items())
    ]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return a table of Markdown."""
    rule = ["---"] * len(head)
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]


def error_of(records: Records) -> str:
    """Return an error in percent: Wilson's interval of one run, mean and Student's of several."""
    if not records:
        return MISSING
    errors = [100 * record["metrics"]["error"] for record in records]
    if len(errors) == 1:
        low, high = (100 * bound for bound in records[0]["metrics"]["interval"])
        return f"{errors[0]:.2f} ({low:.2f} to {high:.2f})"
    low, high = intervals.of_mean(errors)
    return f"{statistics.fmean(errors):.2f} ± {(high - low) / 2:.2f}, {len(errors)} seeds"


def language_models(records: Records) -> list[str]:
    """Return the table of perplexities on WikiText-2 and PTB."""
    rows = []
    for corpus, (valid, test) in published.PERPLEXITY.items():
        for recipe in ("nt-asgd", "adam", "adam-average"):
            there = f"{valid} / {test}" if recipe == "nt-asgd" else ""
            cells = []
            for preset in PRESETS:
                here = pick(
                    records, "language-model", dataset=corpus, variant=recipe, preset=preset
                )
                pairs = [
                    f"{found['valid_perplexity']:.1f} / {found['test_perplexity']:.1f}"
                    for found in (record["metrics"] for record in here)
                ]
                cells.append("; ".join(pairs) or MISSING)
            rows.append([corpus, recipe, there, *cells])
    head = ["corpus", "optimizer", "published, validation / test", *PRESETS]
    return ["### Language models: perplexity a word", "", *table(head, rows)]


def general(records: Records) -> list[str]:
    """Return the table of general-domain models on WikiText-2."""
    found = pick(records, ("pretrain", "base"))
    rows = []
    for record in found:
        metrics = record["metrics"]
        texts = [
            f"{metrics[part][name]:.1f}"
            for part in ("valid", "test")
            for name in ("word_perplexity", "word_perplexity_without_unk")
        ]
        name = f"{record['variant']}, {record['preset']}"
        rows.append([name, f"{metrics['n_parameters'] / 1e6:.1f} M", *texts])
    head = ["model", "parameters", "validation", "without `<unk>`", "test", "without `<unk>`"]
    title = ["### General-domain language models: perplexity a WikiText-2 word", ""]
    return [*title, *(table(head, rows) if rows else [MISSING])]


def classification(records: Records, name: str) -> list[str]:
    """Return the table of test errors of a data set."""
    rows = []
    for variant, title in CLASSIFICATION.items():
        there = ""
        if variant == "ulmfit-both":
            there = f"{published.TEST_ERROR[name]:.2f}"
        elif variant == "ulmfit" and name in published.TEST_ERROR_ONE_DIRECTION:
            there = f"{published.TEST_ERROR_ONE_DIRECTION[name]:.2f}"
        cells = [
            error_of(
                pick(records, (name, "baselines"), dataset=name, variant=variant, preset=preset)
            )
            for preset in PRESETS
        ]
        rows.append([title, there, *cells])
    head = ["test error, %", "published", *PRESETS]
    note = published.DIFFERENT.get(name)
    counts = {
        (r["preset"], r["settings"]["parts"]["train"]["n"])
        for r in pick(records, (name, "baselines"), dataset=name)
        if "parts" in r["settings"] and r["preset"] in PRESETS
    }
    said = [f"{preset}: {n:,} rows to train on" for preset, n in sorted(counts)]
    remarks = [f"Published: {note}."] if note else []
    remarks += [f"Here: {'; '.join(said)}."] if said else []
    lines = [f"### {TITLES[name]}", "", *table(head, rows)]
    return [*lines, "", " ".join(remarks)] if remarks else lines


def ablations(records: Records, name: str) -> list[str]:
    """Return the ablations of a data set, and where their order is not the paper's."""
    lines = [f"### Ablations on {TITLES[name]}", ""]
    columns: dict[str, dict[str, Records]] = defaultdict(dict)
    for variant, preset in itertools.product(VARIANTS, PRESETS):
        columns[preset][variant] = pick(
            records, "ablations", dataset=name, variant=variant, preset=preset
        )
    rows = [
        [
            str(VARIANTS[variant].table), variant, f"{published.ABLATIONS[variant][name]:.2f}",
            *(error_of(columns[preset][variant]) for preset in PRESETS),
        ]
        for variant in sorted(VARIANTS, key=lambda v: VARIANTS[v].table)
    ]  # fmt: skip
    lines += table(["table", "variant, error in %", "published", *PRESETS], rows)
    for preset in PRESETS:
        if text := order_of({v: r for v, r in columns[preset].items() if r}, name):
            lines += ["", f"{preset}: {text}"]
    return lines


def order_of(measured: dict[str, Records], name: str) -> str:
    """Say how many pairs of variants have the paper's order, and which clearly have not.

    Clearly: with two seeds or more, their intervals do not touch. Empty with fewer than two.
    """
    means = {v: statistics.fmean(r["metrics"]["error"] for r in rs) for v, rs in measured.items()}
    agree, n, against = 0, 0, []
    for one, other in itertools.combinations(means, 2):
        here, there = means[one] - means[other], difference(one, other, name)
        if there == 0:
            continue
        n += 1
        agree += here * there > 0
        if here * there < 0 and are_apart(measured[one], measured[other]):
            worse = one if here > 0 else other
            against.append(f"{worse} is worse than {other if worse == one else one}")
    if not n:
        return ""
    text = f"{agree} of {n} pairs of variants are in the paper's order"
    return f"{text}; clearly against it: {', '.join(against)}." if against else f"{text}."


def difference(one: str, other: str, name: str) -> float:
    """Return the published error of a variant over that of another."""
    return published.ABLATIONS[one][name] - published.ABLATIONS[other][name]


def are_apart(one: Records, other: Records) -> bool:
    """Say whether the intervals over the seeds of two variants do not touch."""
    if min(len(one), len(other)) < 2:
        return False
    (low, high), (other_low, other_high) = (
        intervals.of_mean([r["metrics"]["error"] for r in records]) for records in (one, other)
    )
    return high < other_low or other_high < low


def low_shot(records: Records, name: str) -> list[str]:
    """Return the table of errors against the number of labels."""
    found = [r for r in pick(records, "low-shot", dataset=name) if r["preset"] in PRESETS]
    lines = [f"### Few labels: {TITLES[name]}", ""]
    if not found:
        return [*lines, MISSING]
    kinds = ("from-scratch", "supervised", "semi-supervised")
    for preset in PRESETS:
        of_preset = [r for r in found if r["preset"] == preset]
        shots = sorted({r["settings"]["labels"] for r in of_preset})
        rows = [[f"{n:,}", *(error_of(at(of_preset, kind, n)) for kind in kinds)] for n in shots]
        if rows:
            lines += [f"Preset {preset}, error in %:", "", *table(["labels", *kinds], rows), ""]
    return lines[:-1]


def at(records: Records, kind: str, shots: int) -> Records:
    """Return the records of a point of a curve."""
    return [
        r for r in records if r["settings"]["kind"] == kind and r["settings"]["labels"] == shots
    ]


def origins(records: Records) -> list[str]:
    """Return where the records come from: machines, dates and commits."""
    groups: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for record in records:
        of = record["machine"]
        where = of.get("gpu") or f"{of['cpu']}, {of['threads']} threads"
        commit = (record["commit"] or "unknown")[:10] + (" with changes" if record["dirty"] else "")
        load = 0.0 if of.get("gpu") else of.get("load_at_start", 0.0)
        groups[record["task"], where, record["date"], commit].append(load)
    lines = [
        f"- {task}: {len(loads)} record{'s' if len(loads) > 1 else ''}, {where}; {date}; "
        f"commit {commit}{busy(loads)}"
        for (task, where, date, commit), loads in sorted(groups.items())
    ]
    return ["### Where they come from", "", *lines] if lines else []


def busy(loads: Sequence[float]) -> str:
    """Say that times are not to be compared, where other work ran beside."""
    if max(loads) <= machine.BUSY_LOAD:
        return ""
    return f"; **busy machine, load up to {max(loads):.1f}**: its times say little"


def text_of(results: Path) -> str:
    """Return everything between the markers."""
    records = [r for r in all_records(results) if not r["preset"].endswith("-quick")]
    parts = [language_models(records), general(records)]
    parts += [classification(records, name) for name in TITLES]
    parts += [ablations(records, name) for name in ("trec", "imdb")]
    parts += [low_shot(records, name) for name in ("trec", "imdb")]
    parts += [figures(), origins(records)]
    return "\n\n".join("\n".join(lines) for lines in parts if lines) + "\n"


def figures() -> list[str]:
    """Return the plots that are there."""
    found = sorted((PAGE.parent / "assets").glob("accuracy-*.svg"))
    return [f"![{file.stem.replace('-', ' ')}](assets/{file.name})" for file in found]


def main(results: Path, *, check: bool, page: Path = PAGE) -> int:
    """Write the page, or compare it; return the exit status."""
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        say(f"{page.name}: no {BEGIN} ... {END} to write between")
        return 2
    text = f"{before}{BEGIN}\n{text_of(results)}{END}{after}"
    if check:
        if text != page.read_text():
            say(f"{page.name}: not that of the records; run python -m benchmarks.accuracy table")
        return int(text != page.read_text())
    page.write_text(text)
    sys.stdout.write(f"{page.name}\n")
    return 0
