"""The verdict says what the figures say, and says it of every weakness that is there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from examinations import class_scores, draw_examination, run_values

from ulmfit_fast.interpret.examination import Calibration, CalibrationBin, Examination
from ulmfit_fast.report.inputs import Inputs
from ulmfit_fast.report.verdict import Verdict, verdict


def judged(found: Examination | None, **run: object) -> Verdict:
    return verdict(Inputs(Path(), {**run_values(), **run}, examination=found))


def good() -> Examination:
    found = draw_examination(2_000, ("a", "b", "c"), share_right=0.97)
    bins = (CalibrationBin(0.9, 1.0, 2_000, 0.98, 0.98),)
    return replace(
        found, calibration=Calibration(bins, 0.001, 0.1), duplicates=(), n_duplicates={},
        suspects=(), accuracy_interval=(0.97, 0.99), accuracy=0.98,
        classes=tuple(class_scores(name, 650, 667, 660) for name in found.labels),
        confusion=((650, 6, 6), (6, 650, 6), (6, 6, 650)),
    )  # fmt: skip


def texts(made: Verdict, kind: str) -> list[str]:
    return [finding.text for finding in made.findings if finding.kind == kind]


def test_a_good_classifier_has_no_weakness():
    made = judged(good())
    assert (
        made.headline
        == "Right for 98.0\u00a0% of 2,000 test texts (95\u00a0% interval 97.0 to 99.0\u00a0%)."
    )
    assert made.comparison.endswith(
        "would be right for 33.4\u00a0%: the classifier is better than that."
    )
    assert texts(made, "weak") == []
    assert len(texts(made, "good")) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n_duplicates": {"train, test": 3}}, "3 test texts stand in the training texts too"),
        ({"duplicates": draw_examination(40, ("a", "b")).duplicates}, "labels that contradict"),
        ({"confusion": ((662, 0, 0), (0, 600, 62), (0, 0, 662))}, "“b” taken for “c”, 62 of 62"),
        ({"confusion": ((662, 0, 0), (600, 0, 62), (0, 0, 662))}, "Never answered: “b”."),
        (
            {"calibration": Calibration((CalibrationBin(0.9, 1, 9, 0.95, 0.7),), 0.25, 0.4)},
            "Answers are too sure: their probability is 95\u00a0% on average, and 70\u00a0%",
        ),
        (
            {"calibration": Calibration((CalibrationBin(0.4, 0.5, 9, 0.5, 0.7),), 0.2, 0.4)},
            "Answers are too modest",
        ),
        (
            {"classes": (class_scores("a", 100, 667, 300), *good().classes[1:])},
            "Weakest class: “a”",
        ),
    ],
)
def test_every_weakness_is_said(change: dict, words: str):
    weak = texts(judged(replace(good(), **change)), "weak")
    assert any(words in text for text in weak), weak


@pytest.mark.parametrize(
    ("interval", "accuracy", "end"),
    [
        ((0.4, 0.5), 0.45, "better than that."),
        ((0.3, 0.5), 0.4, "too few to show it."),
        ((0.2, 0.4), 0.3, "Do not use it yet."),
        ((0.1, 0.3), 0.2, "worse than that. Do not use it."),
    ],
)
def test_accuracy_is_compared_with_the_largest_class(
    interval: tuple[float, float], accuracy: float, end: str
):
    made = judged(replace(good(), accuracy_interval=interval, accuracy=accuracy))
    assert made.comparison.endswith(end)


def test_validation_and_few_texts_are_noted():
    made = judged(replace(good(), part="valid", accuracy_interval=(0.7, 0.9)))
    assert "validation texts" in made.headline
    notes = texts(made, "note")
    assert any("chose the best epoch" in text for text in notes)
    assert any("20 points wide" in text for text in notes)


def test_without_an_examination_the_evaluation_of_the_run_speaks():
    result = {"accuracy": 0.75, "n": 4, "loss": 0.5, "error_interval_95": [0.05, 0.7],
              "per_class": {"a": {"n": 3}, "b": {"n": 1}}}  # fmt: skip
    made = judged(None, test=result)
    assert (
        made.headline
        == "Right for 75.0\u00a0% of 4 test texts (95\u00a0% interval 30.0 to 95.0\u00a0%)."
    )
    assert "“a”, would be right for 75.0\u00a0%" in made.comparison
    assert judged(None, valid=result).headline.count("validation") == 1
    assert judged(None).headline == "This run measured nothing."
