"""Plans of chunks, against a direct reading of their definition."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ulmfit_fast import chunks
from ulmfit_fast.chunks import align_chunks, join_chunks, plan_chunks, stack_chunks

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=6)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(LENGTHS, st.integers(1, 12), st.integers(1, 70))
def test_every_token_runs_once_in_its_row_and_pools_as_if_alone(
    lengths: list[int], bptt: int, max_len: int
) -> None:
    plan = plan_chunks(lengths, max(lengths), bptt, max_len)
    ids = torch.ones(len(lengths), max(lengths), dtype=torch.long)
    for row, n in enumerate(lengths):
        ids[row, :n] = 100 * (row + 1) + torch.arange(n)
    rows = plan.on_device(ids.device)
    aligned = align_chunks(ids, rows, plan.chunks[-1][0].stop, pad_id=1)
    seen: list[list[int]] = [[] for _ in lengths]
    pooled: list[list[int]] = [[] for _ in lengths]
    for chunk, (columns, n_rows) in enumerate(plan.chunks):
        for r in range(n_rows):
            for column in range(columns.start, columns.stop):
                token = int(aligned[r, column])
                position = column - plan.first_kept * bptt
                if token != 1:
                    seen[plan.order[r]].append(token)
                if chunk >= plan.first_kept and plan.start[r] <= position < plan.end[r]:
                    pooled[plan.order[r]].append(token)
        assert (aligned[n_rows:, columns] == 1).all()
    for row, n in enumerate(lengths):
        tokens = [100 * (row + 1) + i for i in range(n)]
        chunks = range(0, n, bptt)
        first = next((i for i in chunks if n - i <= max_len), chunks[-1])
        assert seen[row] == tokens
        assert pooled[row] == tokens[first:]
        assert plan.order[plan.place[row]] == row


def test_rows_at_work_grow_and_the_last_chunk_is_cut_to_what_is_needed() -> None:
    plan = plan_chunks([5, 9, 2], 9, 4, 100)
    assert plan.chunks == [(slice(0, 4), 1), (slice(4, 8), 2), (slice(8, 10), 3)]


@settings(derandomize=True, max_examples=100, deadline=None)
@given(LENGTHS, st.integers(1, 12), st.integers(1, 40))
def test_joined_chunks_are_the_same_columns_in_calls_that_are_not_too_large(
    lengths: list[int], bptt: int, most: int
) -> None:
    plan = plan_chunks(lengths, max(lengths), bptt, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "JOINED_TOKENS", most)
        joined = join_chunks(plan.chunks)

    def rows_of_columns(calls: list[chunks.Chunk]) -> list[tuple[int, int]]:
        return [(column, n) for c, n in calls for column in range(c.start, c.stop)]

    assert rows_of_columns(joined) == rows_of_columns(plan.chunks)
    for columns, n_rows in joined:
        n_columns = columns.stop - columns.start
        assert n_columns * n_rows <= most or n_columns <= bptt
    for (first, n), (second, n_next) in pairwise(joined):
        fits = (min(second.start + bptt, second.stop) - first.start) * n <= most
        assert n != n_next or not fits


def test_stacked_outputs_and_their_gradients_are_those_of_padding_and_cat() -> None:
    shapes = [(3, 1), (3, 2), (2, 4)]
    outputs = [torch.randn(T, B, 5, dtype=torch.float64, requires_grad=True) for T, B in shapes]
    found = stack_chunks(outputs, 4)
    padded = [torch.nn.functional.pad(y, (0, 0, 0, 4 - y.shape[1])) for y in outputs]
    assert torch.equal(found, torch.cat(padded))
    weights = torch.randn_like(found)
    d_found = torch.autograd.grad((found * weights).sum(), outputs)
    d_expected = torch.autograd.grad((torch.cat(padded) * weights).sum(), outputs)
    for d, expected in zip(d_found, d_expected, strict=True):
        assert torch.equal(d, expected)


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([3, 0], r"lengths\[1\]: expected 1..5 tokens, found 0"),
        ([6], r"lengths\[0\]: expected 1..5 tokens, found 6"),
        ([], "at least one document"),
    ],
)
def test_impossible_lengths_are_named(lengths: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_chunks(lengths, 5, 4, 100)
