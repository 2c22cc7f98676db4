"""Texts whose label is likely wrong, by confident learning.

The same texts as of cleanlab's `find_label_issues(filter_by="confident_learning")`, in the order of
its `return_indices_ranked_by="self_confidence"`, without its dependencies. They differ on one kind
of text, as the tests show: the most probable class misses its threshold, two others reach theirs.
cleanlab takes the most probable one all the same; here it is, as in the paper, one of the two.

Source: Northcutt, Jiang, Chuang 2021, JAIR 70, 1373-1411, arXiv:1911.00068.
"""

from __future__ import annotations

import numpy as np

from ulmfit_fast.interpret.statistics import Counts, Floats, check_probabilities

# Equal probabilities whose mean is a threshold must reach it, whatever the rounding.
_ROUNDING = 1e-6


def class_thresholds(probabilities: Floats, labels: Counts) -> Floats:
    """Return the mean probability of each class among the texts labelled with it; shape [C].

    A class without texts gets 2: nothing is taken for it.
    """
    n_classes = probabilities.shape[1]
    own = probabilities[np.arange(len(labels)), labels]
    counts = np.bincount(labels, minlength=n_classes)
    sums = np.bincount(labels, weights=own, minlength=n_classes)
    return np.where(counts > 0, sums / np.maximum(counts, 1), 2.0)


def label_errors(probabilities: Floats, labels: Counts) -> list[tuple[int, int]]:
    """Find texts that are confidently of another class than their label.

    A text counts as of a class if its probability reaches the class's threshold; of several, as of
    the most probable. Off the diagonal of these counts (the confident joint) are the errors, those
    aside whose label is the answer all the same.

    Args:
        probabilities: of every class; shape [n, C]. Best made by a model that has not seen the
            labels: one that has learnt them by heart finds fewer.
        labels: class of each text; shape [n].

    Returns:
        errors: (row, suggested class), the least probable label first, ties in the order of rows.

    Raises:
        InputError: a probability is not a number.
    """
    if not len(labels):
        return []
    check_probabilities(probabilities)
    reaches = probabilities >= class_thresholds(probabilities, labels) - _ROUNDING
    suggested = np.where(reaches, probabilities, -1.0).argmax(axis=1)
    own = probabilities[np.arange(len(labels)), labels]
    is_other = probabilities.max(axis=1) > own + _ROUNDING
    rows = np.flatnonzero(reaches.any(axis=1) & (suggested != labels) & is_other)
    order = np.argsort(own[rows], kind="stable")
    return [(int(row), int(suggested[row])) for row in rows[order]]
