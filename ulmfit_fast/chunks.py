"""How documents of different lengths run through the encoder in chunks (BPT3C).

Rows are ordered longest first and aligned at their last chunk, so that the rows at work only grow
from chunk to chunk and every row is complete after the last one. bptt 4, lengths 9, 5, 2:

    chunk      0     1     2          rows at work  1, 2, 3
    9 tokens   aaaa  aaaa  a...
    5 tokens         bbbb  b...
    2 tokens               cc..
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

#: Tokens, padding included, of a call that several chunks share: what 64 rows of 72 tokens hold.
JOINED_TOKENS = 64 * 72
#: Columns of the aligned batch, and how many of its rows are at work in them.
Chunk = tuple[slice, int]


class RowTensors(NamedTuple):
    """The rows of a plan on a device; each int64, shape [B]. Meaning as in ChunkPlan."""

    order: Tensor
    place: Tensor
    lengths: Tensor
    shift: Tensor
    start: Tensor
    end: Tensor


@dataclass(frozen=True)
class ChunkPlan:
    """Which rows and columns each chunk takes. Row r below means the r-th longest.

    Attributes:
        order: original index of row r.
        place: row of each original index, the inverse of order.
        lengths: tokens of row r.
        shift: column of row r's first token after alignment.
        start: first pooled position of row r, counted from the first kept chunk.
        end: one past row r's last token, counted likewise.
        chunks: columns and number of rows at work, chunk by chunk.
        first_kept: first chunk whose output some row pools.
        missing: columns that the kept chunks of rows elsewhere have before the first kept one.
    """

    order: list[int]
    place: list[int]
    lengths: list[int]
    shift: list[int]
    start: list[int]
    end: list[int]
    chunks: list[Chunk]
    first_kept: int
    missing: int = 0

    @property
    def old(self) -> list[Chunk]:
        """The chunks before the first kept one."""
        return self.chunks[: self.first_kept]

    @property
    def kept(self) -> list[Chunk]:
        """The first kept chunk and all after it."""
        return self.chunks[self.first_kept :]

    def part(self, rows: slice) -> tuple[ChunkPlan, int]:
        """Return the plan of some rows, in the columns that they have among all.

        Args:
            rows: some neighbours, of those that the plan has.

        Returns:
            plan: of these rows, which it counts from 0; chunks without any are left out.
            lead: columns of the kept ones among those left out: start and end count them.
        """
        first, last, _ = rows.indices(len(self.order))
        kept = [(columns, min(n, last) - first) for columns, n in self.chunks if n > first]
        n_gone = len(self.chunks) - len(kept)
        gone = self.chunks[self.first_kept : n_gone]
        plan = ChunkPlan(
            order=self.order[rows],
            place=list(range(last - first)),
            lengths=self.lengths[rows],
            shift=self.shift[rows],
            start=self.start[rows],
            end=self.end[rows],
            chunks=kept,
            first_kept=max(0, self.first_kept - n_gone),
        )
        return plan, sum(columns.stop - columns.start for columns, _ in gone)

    def on_device(self, device: torch.device) -> RowTensors:
        """Return the lists as tensors on a device, in one copy that a GPU need not wait for."""
        rows = torch.tensor(
            [self.order, self.place, self.lengths, self.shift, self.start, self.end]
        )
        if device.type == "cuda":
            rows = rows.pin_memory().to(device, non_blocking=True)
        return RowTensors(*rows.unbind(0))


def plan_chunks(
    lengths: Sequence[int] | Tensor,
    max_columns: int,
    bptt: int,
    max_len: int,
    all_lengths: Sequence[int] | Tensor | None = None,
) -> ChunkPlan:
    """Plan the chunks of a batch.

    A chunk that begins at token i of a document with n tokens is pooled iff n - i <= max_len, and
    the last one always is: as if the document ran alone.

    Args:
        lengths: tokens of each document, each in 1..max_columns.
        max_columns: columns of the padded batch.
        bptt: tokens of a chunk.
        max_len: how many tokens before its end a document's pooling may begin.
        all_lengths: of a batch that these documents are a part of, the others being elsewhere. As
            many chunks are kept, and the last one is as wide, as if all were here.

    Returns:
        plan: rows ordered longest first, ties in the given order.

    Raises:
        ValueError: a length outside 1..max_columns, or no documents.
    """
    given = _numbers(lengths)
    if not given:
        raise ValueError("lengths: expected at least one document, found none")
    for row, n in enumerate(given):
        if not 1 <= n <= max_columns:
            raise ValueError(f"lengths[{row}]: expected 1..{max_columns} tokens, found {n}")
    order = sorted(range(len(given)), key=lambda row: -given[row])
    place = [0] * len(order)
    for row, original in enumerate(order):
        place[original] = row
    ordered = [given[row] for row in order]
    counts = [-(-n // bptt) for n in ordered]
    total = counts[0]
    pooled = [_n_pooled(n, bptt, max_len) for n in ordered]
    everyone = ordered if all_lengths is None else _numbers(all_lengths)
    n_kept = max(_n_pooled(n, bptt, max_len) for n in everyone)
    first_kept = max(0, total - n_kept)
    ends = [(total - count) * bptt + n for n, count in zip(ordered, counts, strict=True)]
    width = (total - 1) * bptt + max((n - 1) % bptt + 1 for n in everyone)
    chunks = [
        (slice(k * bptt, min((k + 1) * bptt, width)), sum(count >= total - k for count in counts))
        for k in range(total)
    ]
    return ChunkPlan(
        order=order,
        place=place,
        lengths=ordered,
        shift=[(total - count) * bptt for count in counts],
        chunks=chunks,
        first_kept=first_kept,
        start=[(total - n - first_kept) * bptt for n in pooled],
        end=[end - first_kept * bptt for end in ends],
        missing=(n_kept - (total - first_kept)) * bptt,
    )


def _numbers(lengths: Sequence[int] | Tensor) -> list[int]:
    """Return lengths as numbers; of a tensor at once, which takes a hundredth of the time."""
    if isinstance(lengths, Tensor):
        found: list[int] = lengths.long().tolist()
        return found
    return [int(n) for n in lengths]


def _n_pooled(n_tokens: int, bptt: int, max_len: int) -> int:
    """Count the last chunks of a document that are pooled."""
    n_chunks = -(-n_tokens // bptt)
    return n_chunks - max(0, min(n_chunks - 1, -(-(n_tokens - max_len) // bptt)))


def join_chunks(chunks: Sequence[Chunk]) -> list[Chunk]:
    """Join neighbours of the same rows to chunks of at most JOINED_TOKENS; longer ones stay."""
    joined: list[Chunk] = []
    for columns, n_rows in chunks:
        if joined:
            before, n_before = joined[-1]
            if n_before == n_rows and (columns.stop - before.start) * n_rows <= JOINED_TOKENS:
                joined[-1] = (slice(before.start, columns.stop), n_rows)
                continue
        joined.append((columns, n_rows))
    return joined


def align_chunks(ids: Tensor, rows: RowTensors, width: int, pad_id: int) -> Tensor:
    """Order the rows of ids [B, T] and shift each to its first chunk; the rest is padding.

    Args:
        ids: tokens, padded at the end; int64, shape [B, T].
        rows: of the plan, on the device of ids.
        width: columns of all chunks together.
        pad_id: what fills the rest.

    Returns:
        aligned: int64, shape [B, width].
    """
    source = torch.arange(width, device=ids.device) - rows.shift[:, None]
    inside = (source >= 0) & (source < rows.lengths[:, None])
    moved = ids[rows.order].gather(1, source.clamp(0, ids.shape[1] - 1))
    return moved.masked_fill(~inside, pad_id)


def chunks_as_rows(aligned: Tensor, chunks: Sequence[Chunk], pad_id: int) -> Tensor:
    """Return the chunks of an aligned batch side by side, as rows of one batch.

    Args:
        aligned: of align_chunks; int64, shape [B, width].
        chunks: none narrower than the last, which is filled up.
        pad_id: what fills it up.

    Returns:
        ids: the rows of the first chunk, then those of the second, ...; int64, shape [T, R].
    """
    parts = [aligned[:n_rows, columns].t() for columns, n_rows in chunks]
    missing = len(parts[0]) - len(parts[-1])
    parts[-1] = nn.functional.pad(parts[-1], (0, 0, 0, missing), value=pad_id)
    return torch.cat(parts, dim=1)


def stack_chunks(outputs: Sequence[Tensor], n_rows: int) -> Tensor:
    """Return the outputs of chunks one after the other, each with rows of zeros up to n_rows.

    Equivalent to: torch.cat([F.pad(y, (0, 0, 0, n_rows - y.shape[1])) for y in outputs]), with one
    copy of each output forward and none backward.

    Args:
        outputs: of each chunk; shape [T_k, B_k, E], B_k <= n_rows.
        n_rows: B.

    Returns:
        stacked: shape [sum of T_k, B, E].
    """
    stacked: Tensor = _Stack.apply(n_rows, *outputs)  # type: ignore[no-untyped-call]
    return stacked


class _Stack(torch.autograd.Function):
    """See stack_chunks."""

    @staticmethod
    def forward(ctx: Any, n_rows: int, *outputs: Tensor) -> Tensor:
        """Copy the outputs."""
        ctx.shapes = [y.shape[:2] for y in outputs]
        lengths = [T for T, _ in ctx.shapes]
        stacked = outputs[0].new_empty(sum(lengths), n_rows, outputs[0].shape[2])
        for part, y in zip(torch.split(stacked, lengths), outputs, strict=True):
            part[:, : y.shape[1]].copy_(y)
            part[:, y.shape[1] :].zero_()
        return stacked

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return views of the gradient."""
        parts = torch.split(grad, [T for T, _ in ctx.shapes])
        return None, *(part[:, :B] for part, (_, B) in zip(parts, ctx.shapes, strict=True))
