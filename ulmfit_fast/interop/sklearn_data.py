"""X and y as scikit-learn's users give them: texts, and labels of which some may be missing."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ulmfit_fast.errors import InputError

try:
    from sklearn.exceptions import DataConversionWarning
except ModuleNotFoundError as error:
    raise ImportError(
        'ULMFiTClassifier needs scikit-learn: pip install "ulmfit_fast[sklearn]"'
    ) from error

Labels = npt.NDArray[Any]


def texts_of(X: Any) -> list[str]:
    """Return texts as a list.

    Args:
        X: list, tuple, 1-d array or pandas Series of str.

    Raises:
        InputError: it is something else, is empty, or holds something else than text.
    """
    if isinstance(X, str | bytes):
        raise InputError("X is one text: give a list of texts")
    if hasattr(X, "__array__") and not hasattr(X, "shape"):
        X = np.asarray(X)
    shape = getattr(X, "shape", None)
    if shape is not None and len(shape) != 1:
        raise InputError(
            f"X has shape {tuple(shape)}: give a list of texts, such as one column of a table"
        )
    if not hasattr(X, "__iter__") or isinstance(X, dict | set | frozenset):
        raise InputError(f"X is a {type(X).__name__}: give a list of texts")
    texts = list(X)
    if not texts:
        # The words that scikit-learn's own message has, for those who look for them.
        raise InputError("X has no texts: found 0 sample(s), while a minimum of 1 is required")
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(
                f"X[{row}] is {text!r:.40}, a {type(text).__name__}: every row must be a text (str)"
            )
    return [str(text) for text in texts]  # numpy's str_ becomes str


def is_missing(label: object) -> bool:
    """Say whether a label stands for no label: None, NaN, and pandas' NA and NaT."""
    if label is None or type(label).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(label, float | np.floating) and bool(label != label)


def labels_of(y: Any, n_texts: int) -> tuple[Labels, npt.NDArray[np.bool_]]:
    """Return the labels of the rows that have one, and which rows these are.

    Args:
        y: list, 1-d array or pandas Series; None or NaN for a row without a label.
        n_texts: rows of X.

    Returns:
        labels: of the labelled rows, in the dtype of y; where y is an object array of something
            else than text, in the dtype that its labels have by themselves.
        is_labelled: shape [n_texts].

    Raises:
        InputError: y is not of that kind, or not as long as X, or is no classification target.
    """
    values = as_array(y)
    if len(values) != n_texts:
        raise InputError(
            f"X has {n_texts} texts and y {len(values)} labels: inconsistent numbers of samples; "
            "give one label, or None, for each text"
        )
    is_labelled = np.array([not is_missing(label) for label in values], dtype=bool)
    return check_kind(values[is_labelled]), is_labelled


def as_array(y: Any) -> Labels:
    """Return y as a 1-d array; a column is taken as one, with a warning as in scikit-learn.

    Raises:
        InputError: y is None, or has more columns.
    """
    if y is None:
        raise InputError(
            "ULMFiTClassifier requires y to be passed, but the target y is None; give a list with "
            "None for every row without a label"
        )
    if isinstance(y, list | tuple) and any(is_missing(label) for label in y):
        values = np.empty(len(y), dtype=object)
        values[:] = y
    else:
        values = np.asarray(y)
    if values.ndim == 2 and len(values.T) == 1:
        warnings.warn(
            "A column-vector y was passed when a 1d array was expected. Please change the shape "
            "of y to (n_samples,), for example using ravel().",
            DataConversionWarning,
            stacklevel=4,
        )
        values = values[:, 0]
    if values.ndim != 1:
        raise InputError(f"y should be a 1d array, got an array of shape {values.shape} instead")
    return values


def check_kind(labels: Labels) -> Labels:
    """Return labels whose dtype says what they are.

    Raises:
        InputError: text and numbers together, fractions, or another type.
    """
    if labels.dtype == object:
        is_text = [isinstance(label, str) for label in labels]
        if all(is_text):
            return labels
        if any(is_text):
            odd = labels[is_text.index(False)]
            raise InputError(f"y has text and {odd!r:.40} as labels: give all as text, or none")
        labels = np.asarray(labels.tolist())
    if labels.dtype.kind not in "OUSbiuf" or labels.ndim != 1:
        raise InputError(f"y has labels of type {labels.dtype}: give text or whole numbers")
    if labels.dtype.kind == "f" and bool((labels != np.floor(labels)).any()):
        raise InputError(
            "Unknown label type: y has fractions, which a classifier cannot learn; give classes"
        )
    if labels.dtype.kind == "f" and bool(np.isinf(labels).any()):
        raise InputError("y has an infinite label (inf): give classes")
    return labels


def names_of(classes: Sequence[Any] | Labels) -> list[str]:
    """Return the classes as text, for a model folder."""
    return [label.decode() if isinstance(label, bytes) else str(label) for label in classes]
