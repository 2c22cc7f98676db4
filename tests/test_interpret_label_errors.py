"""Label errors against cleanlab, and against errors that were planted."""

from __future__ import annotations

import numpy as np
import pytest

from ulmfit_fast.interpret.label_errors import class_thresholds, label_errors


def draw_noisy(n: int, n_classes: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return probabilities [n, C], labels of which a tenth is wrong, and which are wrong."""
    draw = np.random.default_rng(seed)
    truth = draw.integers(0, n_classes, n)
    logits = draw.normal(size=(n, n_classes)) * 0.8
    logits[np.arange(n), truth] += 2.5
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    wrong = draw.random(n) < 0.1
    labels = np.where(wrong, (truth + 1) % n_classes, truth)
    return probabilities, labels, wrong


@pytest.mark.peer
@pytest.mark.parametrize(("n_classes", "seed"), [(2, 0), (2, 1), (5, 2), (5, 3), (20, 4)])
def test_label_errors_are_cleanlabs(n_classes: int, seed: int) -> None:
    filters = pytest.importorskip("cleanlab.filter")
    probabilities, labels, _ = draw_noisy(600, n_classes, seed)
    expected = filters.find_label_issues(
        labels, probabilities, filter_by="confident_learning", n_jobs=1,
        return_indices_ranked_by="self_confidence",
    )  # fmt: skip
    reaches = probabilities >= class_thresholds(probabilities, labels)
    best = probabilities.argmax(axis=1)
    odd = ~reaches[np.arange(600), best] & (reaches.sum(axis=1) > 1)  # where the two differ
    found = [row for row, _ in label_errors(probabilities, labels)]
    assert [row for row in found if not odd[row]] == [row for row in expected if not odd[row]]
    assert odd.sum() < 0.05 * 600
    assert len(found) > 20


def test_planted_errors_are_found_first() -> None:
    probabilities, labels, wrong = draw_noisy(600, 4, seed=9)
    found = label_errors(probabilities, labels)
    assert np.mean([wrong[row] for row, _ in found[:30]]) > 0.95
    own = [probabilities[row, labels[row]] for row, _ in found]
    assert own == sorted(own)
    assert all(suggested != labels[row] for row, suggested in found)


def test_missing_class_is_never_suggested_and_no_text_has_no_error() -> None:
    probabilities = np.array([[0.2, 0.1, 0.7], [0.6, 0.1, 0.3], [0.1, 0.6, 0.3], [0.0, 0.0, 1.0]])
    labels = np.array([0, 0, 1, 1])
    assert all(suggested != 2 for _, suggested in label_errors(probabilities, labels))
    assert label_errors(np.zeros((0, 3)), np.zeros(0, dtype=np.int64)) == []
