"""What a table of texts is like, in a few figures."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from .finding import Tables


@dataclass(frozen=True)
class Summary:
    """Figures of the tables of a run.

    Attributes:
        n_rows: texts of each source.
        classes: training rows of each class, in the order of their names.
        n_unlabelled: training texts without a label.
        words: words between spaces of the shortest training text, at 5, 50 and 95 percent, and of
            the longest.
        scripts: training texts of each script, the most frequent first.
    """

    n_rows: dict[str, int]
    classes: dict[str, int]
    n_unlabelled: int
    words: tuple[int, int, int, int, int]
    scripts: dict[str, int]


def summarize(tables: Tables) -> Summary:
    """Count rows, classes, words and scripts."""
    table = tables.train
    n_words = sorted(tables.words.n_words)
    last = len(n_words) - 1
    low, middle, high = (n_words[round(q * last)] for q in (0.05, 0.5, 0.95))
    scripts = Counter(script or "none" for script, _ in tables.scripts)
    return Summary(
        {table.source: len(table.texts) for table in tables.all},
        dict(sorted(Counter(tables.labels).items())),
        len(table.texts) - len(tables.labelled),
        (n_words[0], low, middle, high, n_words[-1]),
        dict(scripts.most_common()),
    )
