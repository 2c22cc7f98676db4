"""Fixed parts of a training set. Equal texts stay on one side, so nothing is measured on itself."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from .data import Labelled

#: Decides every split of this folder; the seeds of the runs do not.
SPLIT_SEED = 20180118


def split(rows: Labelled, *shares: float, seed: int = SPLIT_SEED) -> list[Labelled]:
    """Return parts with about these shares of every class, then the rest.

    Args:
        rows: what is split.
        shares: of each part, adding up to less than 1.
        seed: decides which rows go where.
    """
    parts: list[list[int]] = [[] for _ in range(len(shares) + 1)]
    for groups in by_class(rows, seed).values():
        n, bounds = sum(map(len, groups)), np.cumsum(shares)
        done = 0
        for group in groups:
            place = int(np.searchsorted(bounds, (done + 0.5) / n, side="right"))
            parts[place] += group
            done += len(group)
    return [rows.take(sorted(part)) for part in parts]


def draw(rows: Labelled, n: int, seed: int) -> Labelled:
    """Draw n rows, every class in its share and at least once; equal texts count once.

    All are returned where there are fewer different texts than that.
    """
    classes = by_class(rows, seed)
    n_all = sum(map(len, classes.values()))
    exact = {name: n * len(groups) / n_all for name, groups in classes.items()}
    wanted = {name: max(1, int(share)) for name, share in exact.items()}
    # The largest remainders get what is left.
    order = sorted(classes, key=lambda name: (wanted[name] - exact[name], name))
    for name in order[: max(0, n - sum(wanted.values()))]:
        wanted[name] += 1
    found = [group[0] for name, groups in classes.items() for group in groups[: wanted[name]]]
    return rows.take(sorted(found))


def by_class(rows: Labelled, seed: int) -> dict[str, list[list[int]]]:
    """Return the row numbers of every class, those of equal texts together, in a drawn order.

    Equal texts of several classes go with the class that has them first.
    """
    of_text: dict[str, list[int]] = defaultdict(list)
    for row, text in enumerate(rows.texts):
        of_text[text].append(row)
    classes: dict[str, list[list[int]]] = defaultdict(list)
    for group in of_text.values():
        classes[rows.labels[group[0]]].append(group)
    generator = np.random.default_rng(seed)
    return {
        name: [classes[name][i] for i in generator.permutation(len(classes[name]))]
        for name in sorted(classes)
    }
