"""A confusion matrix for a page: the classes worth showing, and the texts of every cell."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ulmfit_fast.interpret.examination import Answer, Examination
from ulmfit_fast.report.text import excerpt, part_name

MAX_CLASSES = 14
# Characters of all texts in the matrix together, and of one.
TEXT_BUDGET = 600_000
EXCERPT = 240
MOST_ROWS = 150
N_LEVELS = 8


@dataclass(frozen=True)
class Cell:
    """A cell of the matrix.

    Attributes:
        n: texts in it.
        level: share of its row, 0 to N_LEVELS.
        key: of its texts, "row-column" in the numbering of all classes; "" where none are kept.
        is_right: whether the answer is the true class.
    """

    n: int
    level: int
    key: str
    is_right: bool


@dataclass(frozen=True)
class Row:
    """A true class.

    Attributes:
        name: of the class.
        index: of the class.
        n: its texts.
        cells: one for each class shown.
        n_other: answers of classes that are not shown.
    """

    name: str
    index: int
    n: int
    cells: list[Cell]
    n_other: int


@dataclass(frozen=True)
class Matrix:
    """What a page shows.

    Attributes:
        names: of the classes shown.
        rows: of the classes shown.
        n_classes: of all.
    """

    names: list[str]
    rows: list[Row]
    n_classes: int

    @property
    def has_other(self) -> bool:
        """Whether classes are left out."""
        return len(self.names) < self.n_classes


def matrix(
    labels: Sequence[str],
    confusion: Sequence[Sequence[int]],
    shown: Sequence[int],
    *,
    has_texts: bool,
) -> Matrix:
    """Arrange the counts of the classes shown."""
    rows = []
    for true in shown:
        n = sum(confusion[true])
        cells = []
        for answer in shown:
            count = confusion[true][answer]
            level = max(1, round(N_LEVELS * count / n)) if count else 0
            key = f"{true}-{answer}" if count and has_texts else ""
            cells.append(Cell(count, level, key, true == answer))
        rows.append(Row(labels[true], true, n, cells, n - sum(cell.n for cell in cells)))
    return Matrix([labels[index] for index in shown], rows, len(labels))


def texts_of_cells(found: Examination, shown: Sequence[int]) -> dict[str, Any]:
    """Return the texts of every cell shown, for the page's script.

    Wrong answers come the surest first, right ones the least sure first.

    Returns:
        values: labels, and for each cell n, and rows of (number, probability, text), as many as
            TEXT_BUDGET allows.
    """
    by_cell: dict[tuple[int, int], list[Answer]] = defaultdict(list)
    visible = set(shown)
    for answer in found.answers:
        if answer.label in visible and answer.answer in visible:
            by_cell[answer.label, answer.answer].append(answer)
    per_cell = min(MOST_ROWS, max(2, TEXT_BUDGET // EXCERPT // max(1, len(by_cell))))
    cells = {}
    for (true, said), answers in sorted(by_cell.items()):
        sign = 1 if true == said else -1
        answers.sort(key=lambda answer, sign=sign: sign * answer.probability)  # type: ignore[misc]
        rows = [
            (answer.row + 1, round(answer.probability, 4), excerpt(answer.text, EXCERPT))
            for answer in answers[:per_cell]
        ]
        cells[f"{true}-{said}"] = {"n": len(answers), "rows": rows}
    names = {str(index): excerpt(found.labels[index], 80) for index in shown}
    return {"labels": names, "part": part_name(found.part), "cells": cells}
