"""Intervals and calibration against naive loops and scikit-learn."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ulmfit_fast.errors import InputError
from ulmfit_fast.interpret.label_errors import label_errors
from ulmfit_fast.interpret.statistics import (
    calibrate,
    class_scores,
    count_confusion,
    cross_entropy,
    f1_intervals,
    wilson_interval,
)

draw = np.random.default_rng(0)


def draw_answers(n: int, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return labels [n] and probabilities [n, C] that are right more often than not."""
    labels = draw.integers(0, n_classes, n)
    logits = draw.normal(size=(n, n_classes))
    logits[np.arange(n), labels] += 1.5
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return labels, probabilities


@given(st.integers(0, 500), st.data())
def test_wilson_interval_holds_its_share(n: int, data: st.DataObject) -> None:
    n_right = data.draw(st.integers(0, n))
    low, high = wilson_interval(n_right, n)
    assert 0 <= low <= high <= 1
    if n:
        assert low - 1e-12 <= n_right / n <= high + 1e-12


def test_confusion_and_scores_are_scikit_learns() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    labels, probabilities = draw_answers(400, 4)
    answers = probabilities.argmax(axis=1)
    confusion = count_confusion(labels, answers, 5)  # a class that never occurs
    np.testing.assert_array_equal(
        confusion, metrics.confusion_matrix(labels, answers, labels=range(5))
    )
    expected = metrics.precision_recall_fscore_support(
        labels, answers, labels=range(5), zero_division=0
    )
    scores = class_scores(confusion, tuple("abcde"))
    found = [[getattr(s, key) for s in scores] for key in ("precision", "recall", "f1", "n")]
    np.testing.assert_allclose(found, expected)
    for score in scores:
        for value, (low, high) in (
            (score.precision, score.precision_interval),
            (score.recall, score.recall_interval),
            (score.f1, score.f1_interval),
        ):
            assert low <= value <= high
    assert scores[4].f1_interval == scores[4].recall_interval == (0.0, 1.0)


def test_f1_intervals_are_those_of_resampled_texts() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    labels, probabilities = draw_answers(200, 3)
    answers = probabilities.argmax(axis=1)
    f1 = []
    for _ in range(1500):
        rows = draw.integers(0, len(labels), len(labels))
        f1.append(metrics.f1_score(labels[rows], answers[rows], average=None, labels=range(3)))
    expected = np.quantile(f1, [0.025, 0.975], axis=0).T
    found = f1_intervals(count_confusion(labels, answers, 3), n_resamples=20_000)
    np.testing.assert_allclose(found, expected, atol=0.012)
    assert np.diff(expected, axis=1).min() > 0.05  # so that the tolerance means something


def test_f1_intervals_are_fast_and_the_same_for_the_same_seed() -> None:
    labels, probabilities = draw_answers(10_000, 200)
    confusion = count_confusion(labels, probabilities.argmax(axis=1), 200)
    start = time.process_time()
    first = f1_intervals(confusion)
    assert time.process_time() - start < 2
    assert first == f1_intervals(confusion)
    assert first != f1_intervals(confusion, seed=1)


def test_f1_interval_of_one_class_answered_only() -> None:
    scores = class_scores(
        count_confusion(np.array([0, 1, 1]), np.zeros(3, np.int64), 2), ("a", "b")
    )
    assert scores[1].f1 == 0
    assert scores[1].f1_interval[0] == 0.0
    assert 0.0 < scores[1].f1_interval[1] < 1.0
    assert scores[0].recall == 1


def test_calibration_is_a_naive_loops() -> None:
    labels, probabilities = draw_answers(300, 3)
    probabilities[0] = [1.0, 0.0, 0.0]  # the last bin holds 1
    found = calibrate(probabilities, labels)
    error, n_counted = 0.0, 0
    for place, one in enumerate(found.bins):
        assert (one.low, one.high) == (place / 10, (place + 1) / 10)
        inside = [
            i for i, p in enumerate(probabilities.max(axis=1))
            if one.low <= p < one.high or (place == 9 and p == 1)
        ]  # fmt: skip
        assert one.n == len(inside)
        if not inside:
            assert np.isnan(one.confidence)
            assert np.isnan(one.accuracy)
            continue
        right = np.mean([probabilities[i].argmax() == labels[i] for i in inside])
        confidence = np.mean([probabilities[i].max() for i in inside])
        assert one.accuracy == pytest.approx(right)
        assert one.confidence == pytest.approx(confidence)
        error += len(inside) / 300 * abs(right - confidence)
        n_counted += one.n
    assert n_counted == 300
    assert found.expected_error == pytest.approx(error)
    assert found.brier == pytest.approx(
        np.square(probabilities - np.eye(3)[labels]).sum(axis=1).mean()
    )


def test_cross_entropy_is_scikit_learns_and_finite_at_zero() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    labels, probabilities = draw_answers(50, 4)
    expected = metrics.log_loss(labels, probabilities, labels=range(4))
    assert cross_entropy(probabilities, labels) == pytest.approx(expected)
    assert 700 < cross_entropy(np.array([[1.0, 0.0]]), np.array([1])) < 710


def test_f1_interval_of_a_class_that_is_always_or_never_found_is_no_point() -> None:
    (always, never, _) = f1_intervals(np.array([[8, 0, 0], [0, 0, 5], [0, 0, 20]]))
    assert always == (wilson_interval(8, 8)[0], 1.0)
    assert never[0] == 0.0
    assert 0.3 < never[1] < 1.0


def test_probabilities_that_are_no_numbers_are_said() -> None:
    labels, probabilities = draw_answers(50, 4)
    for bad in (np.nan, np.inf):
        probabilities[[3, 7], 1] = bad
        for measure in (calibrate, cross_entropy, label_errors):
            with pytest.raises(InputError, match="probabilities of 2 of 50 texts are not numbers"):
                measure(probabilities, labels)
