"""scikit-learn's own checks on a classifier of texts: their tables of numbers become texts."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ulmfit_fast import TrainConfig

LETTERS = "abcdefghijklmnopqrst"


class TableOfTexts(np.ndarray):
    """Texts, one for each row of a table; who asks for columns gets them of the table.

    The checks make labels of X[:, 0], and expect an error for X.T.
    """

    table: npt.NDArray[np.float64]

    def __array_finalize__(self, source: Any) -> None:
        self.table = getattr(source, "table", None)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, tuple) and key[1:] != (Ellipsis,):  # (rows, ...) asks for rows
            return self.table[key]
        return super().__getitem__(key)

    @property
    def T(self) -> Any:  # type: ignore[override]
        return self.table.T


def as_texts(table: Any) -> TableOfTexts:
    """Return a text for each row: a word for each column, which says its number to the half."""
    table = np.asarray(table, dtype=float)
    table = table[:, None] if table.ndim == 1 else table
    places = np.clip(np.round(2 * table) + 10, 0, len(LETTERS) - 1).astype(int)
    rows = [" ".join(f"w{j}{LETTERS[place]}" for j, place in enumerate(row)) for row in places]
    texts = np.array(rows, dtype=object).view(TableOfTexts)
    texts.table = table
    return texts


def enforce_texts(estimator: Any, X: Any, X_test: Any = None, kernel: Any = None) -> Any:
    """Stand in for estimator_checks._enforce_estimator_tags_X, which leaves strings out."""
    return as_texts(X) if X_test is None else (as_texts(X), as_texts(X_test))


def small_lm_config() -> TrainConfig:
    config = TrainConfig.preset("fastai", min_freq=1, precision="fp32")
    return config.with_stage("pretrain", epochs=1, batch_size=8)
