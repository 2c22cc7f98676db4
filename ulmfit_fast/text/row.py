"""The documents of a corpus end to end in some order, read without laying them out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

# Documents whose lengths are added up at a time when positions are looked for.
_DOCUMENTS_AT_A_TIME = 1 << 18

Order = npt.NDArray[np.int32] | npt.NDArray[np.int64]


def document_numbers(n: int) -> Order:
    """Return 0, 1, ..., n - 1 in the smallest type that holds them."""
    if n < 2**31:
        return np.arange(n, dtype=np.int32)
    return np.arange(n, dtype=np.int64)


class Reader:
    """Reads the row of documents from one place on; knows the document it is in.

    Args:
        ids: of the corpus.
        offsets: of the corpus, [n_docs + 1].
        order: the documents as they stand in the row.
        document: place in the order of the document to begin in.
        skip: tokens of it that come before.
    """

    def __init__(
        self,
        ids: npt.NDArray[np.int32],
        offsets: npt.NDArray[np.int64],
        order: Order,
        document: int,
        skip: int,
    ) -> None:
        # Views of a plain array are made several times faster than those of a memmap.
        self._ids, self._offsets = np.asarray(ids), np.asarray(offsets)
        self._order, self._document, self._skip = order, document, skip
        self._documents_a_token = len(order) / max(1, int(offsets[-1]))

    def read(self, out: npt.NDArray[np.int32]) -> None:
        """Fill out with the tokens that come next; there must be as many."""
        filled = 0
        while filled < len(out):
            wanted = len(out) - filled
            first = self._document
            at_a_time = 2 + int(wanted * self._documents_a_token)
            documents = self._order[first : first + at_a_time]
            starts, stops = self._offsets[documents], self._offsets[documents + 1]
            starts[0] += self._skip
            ends = np.cumsum(stops - starts)
            last = int(np.searchsorted(ends, wanted))  # the first that reaches what is wanted
            if last < len(ends):
                left = int(ends[last]) - wanted
                starts, stops = starts[: last + 1], stops[: last + 1]
                stops[last] -= left
                self._document = first + last
                self._skip = int(stops[last] - self._offsets[documents[last]])
                n = wanted
            else:
                self._document, self._skip, n = first + len(documents), 0, int(ends[-1])
            pieces = zip(starts.tolist(), stops.tolist(), strict=True)
            ids = self._ids
            np.concatenate([ids[a:b] for a, b in pieces], out=out[filled : filled + n])
            filled += n


def readers_at(
    ids: npt.NDArray[np.int32],
    offsets: npt.NDArray[np.int64],
    order: Order,
    positions: Sequence[int],
) -> list[Reader]:
    """Return a reader for each of some ascending positions in the row of documents."""
    readers: list[Reader] = []
    base = 0
    for first in range(0, len(order), _DOCUMENTS_AT_A_TIME):
        documents = order[first : first + _DOCUMENTS_AT_A_TIME]
        starts = offsets[documents]
        ends = base + np.cumsum(offsets[documents + 1] - starts)
        while len(readers) < len(positions) and positions[len(readers)] < ends[-1]:
            position = positions[len(readers)]
            i = int(np.searchsorted(ends, position, side="right"))
            before = int(ends[i - 1]) if i else base
            readers.append(Reader(ids, offsets, order, first + i, position - before))
        base = int(ends[-1])
    return readers
