"""What a run came to, in plain words: a headline, key figures, and what deserves a look."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ulmfit_fast.interpret.examination import Duplicate, Examination
from ulmfit_fast.report.inputs import Inputs
from ulmfit_fast.report.text import counted, duration, excerpt, interval, number, part_name, percent
from ulmfit_fast.training.history import History

# From these on something is said; judgement, not measurement.
WEAK_F1 = 0.7
WEAK_BELOW_MEAN = 0.1
MUCH_CONFUSED = 0.15  # share of all mistakes
OFTEN = 0.05  # share of the texts of a class
CALIBRATION_OFF = 0.05
MANY_UNKNOWN = 0.05
MANY_CUT = 0.05
WIDE_INTERVAL = 0.1


@dataclass(frozen=True)
class Finding:
    """One thing that is said about a run.

    Attributes:
        kind: "good", "weak" or "note".
        text: one sentence or two.
        section: id of the section that shows more; "" for none.
    """

    kind: Literal["good", "weak", "note"]
    text: str
    section: str = ""


@dataclass(frozen=True)
class Figure:
    """A number that is shown large.

    Attributes:
        title: what it is.
        value: the number.
        detail: what belongs to it.
    """

    title: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class Verdict:
    """The beginning of a report.

    Attributes:
        headline: the result in one sentence.
        comparison: against what is trivial; "" where nothing can be compared.
        figures: key figures.
        findings: the weak first.
    """

    headline: str
    comparison: str = ""
    figures: list[Figure] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def verdict(inputs: Inputs) -> Verdict:
    """Judge a run by its examination, else by its evaluations, else by its language model."""
    examination, run = inputs.examination, inputs.run
    if examination is not None and examination.n:
        return _of_examination(examination, inputs)
    for part, name in (("test", "test"), ("valid", "validation")):
        result = run.get(part)
        if isinstance(result, dict) and result.get("n"):
            return _of_evaluation(result, name, inputs)
    return _of_language_model(inputs)


def _of_examination(found: Examination, inputs: Inputs) -> Verdict:
    part = part_name(found.part)
    largest = max(found.classes, key=lambda scores: scores.n)
    headline = _headline(found.accuracy, found.n, part, found.accuracy_interval)
    mean_f1 = sum(scores.f1 for scores in found.classes) / len(found.classes)
    figures = [
        Figure("Accuracy", percent(found.accuracy), interval(found.accuracy_interval)),
        Figure("Largest class", percent(largest.n / found.n), excerpt(largest.name, 40)),
        Figure("Mean F1", percent(mean_f1), counted(len(found.labels), "class", "classes")),
        Figure("Calibration error", percent(found.calibration.expected_error),
               "mean gap of probability and truth"),
        Figure("Loss", number(found.loss, 3), "nats a text"),
        *_time_figure(inputs.run),
    ]  # fmt: skip
    findings = sorted(
        [*_examination_findings(found, mean_f1), *_training_findings(inputs.history)],
        key=lambda finding: ("weak", "note", "good").index(finding.kind),
    )
    share = largest.n / found.n
    comparison = _comparison(largest.name, share, found.accuracy, found.accuracy_interval)
    return Verdict(headline, comparison, figures, findings)


def _headline(accuracy: float, n: int, part: str, bounds: tuple[float, float]) -> str:
    return (
        f"Right for {percent(accuracy)} of {counted(n, f'{part} text')} "
        f"(95\u00a0% interval {interval(bounds)})."
    )


def _comparison(name: str, share: float, accuracy: float, bounds: tuple[float, float]) -> str:
    always = (
        f"Always answering the largest class, \u201c{excerpt(name, 40)}\u201d, would be right for "
        f"{percent(share)}: "
    )
    if bounds[0] > share:
        return always + "the classifier is better than that."
    if bounds[1] < share:
        return always + "the classifier is worse than that. Do not use it."
    if accuracy > share:
        return always + "the classifier may be better, but these texts are too few to show it."
    return always + "the classifier is not shown to be better. Do not use it yet."


def _examination_findings(found: Examination, mean_f1: float) -> Iterator[Finding]:
    part = part_name(found.part)
    if found.part == "valid":
        yield Finding("note", "Measured on the texts that chose the best epoch, so a little too "
                      "good: give --test for an honest figure.")  # fmt: skip
    low, high = found.accuracy_interval
    if high - low > WIDE_INTERVAL:
        wide = f"{100 * (high - low):.0f} points wide"
        yield Finding("note", f"With {counted(found.n, 'text')} the interval is {wide}: test on "
                      "more to know better.")  # fmt: skip
    yield from _class_findings(found, mean_f1)
    yield from _calibration_findings(found)
    yield from _data_findings(found, part)
    if found.suspects:
        n = counted(len(found.suspects), "label")
        yield Finding("note", f"The model doubts {n} of the data: read them before training "
                      "again.", "suspects")  # fmt: skip


def _class_findings(found: Examination, mean_f1: float) -> Iterator[Finding]:
    seen = [scores for scores in found.classes if scores.n]
    answered = [sum(row[c] for row in found.confusion) for c in range(len(found.labels))]
    never = [
        found.labels[c]
        for c, n in enumerate(answered)
        if n == 0 and sum(found.confusion[c]) > 0
    ]  # fmt: skip
    if never:
        names = ", ".join(f"\u201c{excerpt(name, 30)}\u201d" for name in never[:3])
        more = f" and {len(never) - 3} more" if len(never) > 3 else ""
        yield Finding("weak", f"Never answered: {names}{more}.", "classes")
    weakest = min(seen, key=lambda scores: scores.f1, default=None)
    if weakest is not None and (
        weakest.f1 < WEAK_F1 or weakest.f1 < mean_f1 - WEAK_BELOW_MEAN
    ):  # fmt: skip
        yield Finding("weak", f"Weakest class: \u201c{excerpt(weakest.name, 40)}\u201d, F1 "
                      f"{percent(weakest.f1)}; {percent(weakest.recall, 0)} of its "
                      f"{counted(weakest.n, 'text')} are found.", "classes")  # fmt: skip
    cells = [
        (n, true, answer)
        for true, row in enumerate(found.confusion)
        for answer, n in enumerate(row)
        if true != answer and n
    ]
    n_wrong = sum(n for n, _, _ in cells)
    if cells and len(found.labels) > 2:
        n, true, answer = max(cells, key=lambda cell: cell[0])
        by_chance = 1 / (len(found.labels) * (len(found.labels) - 1))
        is_frequent = n > max(MUCH_CONFUSED, 2 * by_chance) * n_wrong
        if is_frequent and n > OFTEN * sum(found.confusion[true]) and n > 1:
            yield Finding("weak", f"Most frequent mistake: \u201c{excerpt(found.labels[true], 40)}"
                          f"\u201d taken for \u201c{excerpt(found.labels[answer], 40)}\u201d, "
                          f"{n:,} of {counted(n_wrong, 'mistake')}.", "confusion")  # fmt: skip


def _calibration_findings(found: Examination) -> Iterator[Finding]:
    bins = [b for b in found.calibration.bins if b.n]
    n = sum(b.n for b in bins)
    if not n:
        return
    sure = sum(b.n * b.confidence for b in bins) / n
    right = sum(b.n * b.accuracy for b in bins) / n
    error = found.calibration.expected_error
    if error <= CALIBRATION_OFF:
        yield Finding("good", f"Probabilities can be believed: they are off by {100 * error:.1f} "
                      "points on average.", "calibration")  # fmt: skip
    elif abs(sure - right) < CALIBRATION_OFF / 2:
        yield Finding("weak", f"Probabilities are off by {100 * error:.1f} points on average, too "
                      "high for some answers and too low for others.", "calibration")  # fmt: skip
    else:
        how = "too sure" if sure > right else "too modest"
        yield Finding("weak", f"Answers are {how}: their probability is {percent(sure, 0)} on "
                      f"average, and {percent(right, 0)} are right.", "calibration")  # fmt: skip


def _data_findings(found: Examination, part: str) -> Iterator[Finding]:
    n_shared = sum(
        n for pair, n in found.n_duplicates.items() if {"train", found.part} <= _parts(pair)
    )
    if n_shared:
        are = "stand" if n_shared > 1 else "stands"
        yield Finding("weak", f"{counted(n_shared, f'{part} text')} {are} in the training texts "
                      "too: the figures flatter the classifier.", "data")  # fmt: skip
    n_against = sum(contradicts(d) for d in found.duplicates)
    if n_against:
        stand = "stand" if n_against > 1 else "stands"
        yield Finding("weak", f"{counted(n_against, 'text')} {stand} twice in the data, with "
                      "labels that contradict each other.", "data")  # fmt: skip
    for overview in found.overview:
        if overview.name != found.part:
            continue
        if overview.unknown_share > MANY_UNKNOWN:
            yield Finding("note", f"The vocabulary does not have {percent(overview.unknown_share)} "
                          f"of the words of the {part} texts.", "data")  # fmt: skip
        if overview.n and overview.n_cut > MANY_CUT * overview.n:
            yield Finding("note", f"{counted(overview.n_cut, 'text')} of the {part} part are "
                          "longer than the classifier reads: their ends count.",
                          "data")  # fmt: skip


def contradicts(duplicate: Duplicate) -> bool:
    """Say whether a text that stands twice has two labels."""
    first, second = duplicate.labels
    return bool(first and second and first != second)


def _parts(pair: str) -> set[str]:
    return {name.strip() for name in pair.split(",")}


def _training_findings(history: History) -> Iterator[Finding]:
    for stage in history.stages:
        losses = [epoch.metrics.get("valid_loss") for epoch in stage.epochs]
        known = [loss for loss in losses if loss is not None]
        if stage.name != "classifier" or len(known) != len(losses) or len(known) < 3:
            continue
        best = known.index(min(known))
        if best < len(known) - 1 and known[-1] > 1.1 * known[best]:
            yield Finding("note", "The classifier's validation loss was lowest after epoch "
                          f"{best + 1} of {len(known)} and rose after: fewer epochs, or more "
                          "texts.", "curves")  # fmt: skip


def _of_evaluation(result: Mapping[str, Any], part: str, inputs: Inputs) -> Verdict:
    accuracy, n = float(result["accuracy"]), int(result["n"])
    low, high = result.get("error_interval_95") or (1 - accuracy, 1 - accuracy)
    bounds = (1 - high, 1 - low)
    figures = [Figure("Accuracy", percent(accuracy), interval(bounds))]
    comparison = ""
    sizes = {name: scores["n"] for name, scores in (result.get("per_class") or {}).items()}
    if sizes:
        name = max(sizes, key=lambda key: sizes[key])
        comparison = _comparison(name, sizes[name] / n, accuracy, bounds)
        figures.append(Figure("Largest class", percent(sizes[name] / n), excerpt(name, 40)))
    if "loss" in result:
        figures.append(Figure("Loss", number(result["loss"], 3), "nats a text"))
    findings = list(_training_findings(inputs.history))
    headline = _headline(accuracy, n, part, bounds)
    return Verdict(headline, comparison, [*figures, *_time_figure(inputs.run)], findings)


def _of_language_model(inputs: Inputs) -> Verdict:
    perplexities = []
    for stage in inputs.run.get("stages") or []:
        perplexity = (stage.get("best") or {}).get("perplexity")
        if perplexity is not None:
            perplexities.append(number(perplexity, 3))
    figures = [Figure("Perplexity", value, "on held-out texts") for value in perplexities]
    figures += _time_figure(inputs.run)
    if not perplexities:
        return Verdict("This run measured nothing.", "", figures)
    return Verdict(
        f"The language model has a perplexity of {perplexities[-1]} on held-out texts.",
        "Lower is better: it is as unsure of the next word as if it had to choose among so many. "
        "Compare it with models of the same vocabulary only.",
        figures,
    )


def _time_figure(run: Mapping[str, Any]) -> list[Figure]:
    seconds = run.get("seconds")
    if not seconds:
        return []
    return [Figure("Training", duration(float(seconds)), f"on {run.get('device', 'this machine')}")]
