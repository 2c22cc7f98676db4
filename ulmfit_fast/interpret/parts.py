"""What each part of the data holds, and what stands in two of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from ulmfit_fast.interpret.examination import Duplicate, PartOverview
from ulmfit_fast.text.tokenizer import Tokenizer

#: Parts in the order in which they are shown.
PARTS = ("train", "valid", "test", "unlabelled")
N_BINS = 20
N_UNKNOWN_WORDS = 20


@dataclass(frozen=True)
class Part:
    """Texts of one part of the data.

    Attributes:
        texts: documents.
        labels: a class name for each; empty where none has one.
    """

    texts: Sequence[str]
    labels: Sequence[str] = ()


def excerpt(text: str, n_characters: int) -> str:
    """Return the beginning of a text."""
    return text if len(text) <= n_characters else text[: n_characters - 1] + "…"


def length_edges(lengths: Sequence[npt.NDArray[np.int64]]) -> tuple[int, ...]:
    """Return bounds of bins of length that all parts share: equal ones, then all that is longer.

    Nineteen bins hold 99 of 100 texts, and the last one the others.
    """
    together = np.concatenate([np.zeros(1, dtype=np.int64), *lengths])
    width = int(np.quantile(together, 0.99)) // (N_BINS - 1) + 1
    edges = [k * width for k in range(N_BINS)]
    return (*edges, max(int(together.max()) + 1, N_BINS * width))


def part_overview(
    name: str,
    part: Part,
    lengths: npt.NDArray[np.int64],
    edges: tuple[int, ...],
    tokenizer: Tokenizer,
    most_tokens: int,
) -> PartOverview:
    """Describe a part.

    Args:
        name: of the part.
        part: its texts.
        lengths: tokens of each text.
        edges: of length_edges.
        tokenizer: of the classifier.
        most_tokens: at a text's end that the classifier pools.
    """
    n_words, unknown = tokenizer.count_unknown(part.texts)
    commonest = sorted(unknown.items(), key=lambda entry: (-entry[1], entry[0]))
    counts = Counter(part.labels)
    return PartOverview(
        name=name,
        n=len(part.texts),
        classes={label: counts[label] for label in sorted(counts)},
        length_edges=edges,
        length_counts=tuple(np.histogram(lengths, bins=np.array(edges))[0].tolist()),
        median_tokens=float(np.median(lengths)) if len(lengths) else 0.0,
        longest_tokens=int(lengths.max(initial=0)),
        n_cut=int((lengths > most_tokens).sum()),
        unknown_share=sum(unknown.values()) / n_words if n_words else 0.0,
        unknown_words=dict(commonest[:N_UNKNOWN_WORDS]),
    )


def find_duplicates(
    parts: Mapping[str, Part], *, n_shown: int, n_characters: int
) -> tuple[tuple[Duplicate, ...], dict[str, int]]:
    """Find texts that stand in two parts, white space and case aside.

    Args:
        parts: by name.
        n_shown: most duplicates to return.
        n_characters: of each text.

    Returns:
        duplicates: those whose labels contradict each other first, then in the order of parts and
            rows; the first place is a text's first in its part.
        n_duplicates: texts of the second part that stand in the first, by pair of parts.
    """
    names = [name for name in PARTS if name in parts]
    keys = {name: [" ".join(t.split()).casefold() for t in parts[name].texts] for name in names}
    found, counts = [], {}
    for first, second in combinations(names, 2):
        places: dict[str, int] = {}
        for row, key in enumerate(keys[first]):
            places.setdefault(key, row)
        rows = [(places[key], row) for row, key in enumerate(keys[second]) if key in places]
        counts[f"{first}, {second}"] = len(rows)
        found += [
            Duplicate(
                part=first, row=row, other_part=second, other_row=other,
                text=excerpt(parts[first].texts[row], n_characters),
                labels=(_label(parts[first], row), _label(parts[second], other)),
            )
            for row, other in rows
        ]  # fmt: skip
    found.sort(key=lambda d: not (all(d.labels) and d.labels[0] != d.labels[1]))  # stable
    return tuple(found[:n_shown]), counts


def _label(part: Part, row: int) -> str:
    """Return the label of a row, or "" of a part without labels."""
    return part.labels[row] if part.labels else ""
