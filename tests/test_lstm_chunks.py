"""functional.lstm_chunks: the layer over chunks of documents, one after the other."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lstm_calls import SEED
from lstm_chunk_calls import (
    assert_chunks_no_worse,
    chunk_case,
    draw_chunks,
    forward_arguments,
    one_after_the_other,
    run_chunks,
)
from numerics import FLOOR
from torch import Tensor

from ulmfit_fast import WeightDroppedLSTM, functional, reference

SIZES = (4, 9, 17)  # T, I, H
ROWS = [(3,), (1, 1, 2), (2, 2), (1, 3, 7), (1, 1, 1, 1, 18)]
CASES = [
    *(chunk_case(rows, SIZES, dtype) for rows in ROWS for dtype in FLOOR),
    *(chunk_case((1, 2, 5), SIZES, dtype, drop_p=0.0, bias=False) for dtype in FLOOR),
    *(chunk_case((1, 2, 5), SIZES, dtype, layout="strided") for dtype in FLOOR),
    *(chunk_case((1, 2), SIZES, torch.float32, through=(n,)) for n in ("y", "h_n", "c_n")),
    chunk_case((2, 3), SIZES, torch.bfloat16, wide_c0=True),
    chunk_case((1, 1, 40), (3, 64, 96), torch.bfloat16),
]


@pytest.mark.usefixtures("_instruction_set")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_instruction_set_is_as_accurate_as_pytorch(case: Any) -> None:
    assert_chunks_no_worse(functional.lstm_chunks, case)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(
    joining=st.lists(st.integers(0, 3), min_size=1, max_size=5),
    sizes=st.tuples(*(st.integers(1, n) for n in (5, 12, 20))),
    dtype=st.sampled_from(tuple(FLOOR)),
    drop_p=st.sampled_from([0.0, 0.5, 0.9]),
)
def test_chunks_of_any_rows_are_as_accurate_as_pytorch(
    joining: list[int], sizes: tuple[int, int, int], dtype: torch.dtype, drop_p: float
) -> None:
    rows = tuple(1 + sum(joining[: k + 1]) for k in range(len(joining)))
    case = chunk_case(rows, sizes, dtype, drop_p=drop_p)
    assert_chunks_no_worse(functional.lstm_chunks, case, n_draws=8)


def drop_the_state(x: Tensor, state: Any, weights: Any, rows: Any, *rest: Any) -> Any:
    """Begin every chunk from its rows' initial state."""
    y, _ = one_after_the_other(x, state, weights, rows, *rest)
    begin = sum(rows[:-1])
    last, final = reference.lstm(x[:, begin:], state, weights, *rest)
    return torch.cat([y[:, :begin], last], dim=1), final


def pass_the_gradient(x: Tensor, state: Any, weights: Any, rows: Any, *rest: Any) -> Any:
    """Let gradients through from chunk to chunk."""
    begun, ys = 0, []
    h, c = (s[:0] for s in state)
    for chunk, n in zip(torch.split(x, list(rows), dim=1), rows, strict=True):
        h, c = torch.cat([h, state[0][begun:n]]), torch.cat([c, state[1][begun:n]])
        y, (h, c) = reference.lstm(chunk, (h, c), weights, *rest)
        ys.append(y)
        begun = n
    return torch.cat(ys, dim=1), (h, c)


@pytest.mark.parametrize("mutant", [drop_the_state, pass_the_gradient])
def test_criterion_finds_mistakes_at_the_borders_of_chunks(mutant: Any) -> None:
    with pytest.raises(AssertionError):
        assert_chunks_no_worse(mutant, chunk_case((1, 2, 5), SIZES, torch.float32))


@pytest.mark.usefixtures("_instruction_set")
@pytest.mark.parametrize("dtype", FLOOR, ids=str)
@pytest.mark.parametrize("drop_p", [0.0, 0.5])
def test_op_saves_what_the_reference_saves(dtype: torch.dtype, drop_p: float) -> None:
    rows = (1, 2, 5)
    call = draw_chunks(chunk_case(rows, SIZES, dtype, drop_p=drop_p))
    found = torch.ops.ulmfit_fast.lstm_chunks_forward(*forward_arguments(call, rows))
    expected = reference.lstm_chunks_forward(*forward_arguments(call, rows))
    names = ("y", "h_n", "c_n", "h_starts", "c_starts", "c", "gates")
    for name, a, b in zip(names, found, expected, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape), name
        assert torch.allclose(a.double(), b.double(), atol=8 * torch.finfo(dtype).eps), name
        assert a.is_contiguous(), name
    y, h_n, c_n, h_starts, c_starts, c, _ = found
    # Of 1, 2 and 5 rows: 0 | 1 2 | 3 4 5 6 7; row 0 goes on as 1 and 3, row 2 as 4.
    assert torch.equal(h_starts[[1, 3, 4]], y[-1, [0, 1, 2]])
    assert torch.equal(c_starts[[1, 3, 4]], c[-1, [0, 1, 2]])
    assert torch.equal(h_starts[[0, 2, 5, 6, 7]], call.tensors["h0"])
    assert torch.equal(h_n, y[-1, 3:])
    assert torch.equal(c_n, c[-1, 3:].to(c_n.dtype))


def test_without_gradients_nothing_is_saved_and_the_results_are_the_same() -> None:
    rows = (1, 2, 5)
    call = draw_chunks(chunk_case(rows, SIZES, torch.float32))
    saved = torch.ops.ulmfit_fast.lstm_chunks_forward(*forward_arguments(call, rows))
    found = torch.ops.ulmfit_fast.lstm_chunks_forward(*forward_arguments(call, rows, save=False))
    for a, b in zip(found[:3], saved[:3], strict=True):
        assert torch.equal(a, b)
    assert [t.numel() for t in found[3:]] == [0, 0, 0, 0]


def test_result_does_not_depend_on_the_memory_it_is_given() -> None:
    rows = (1, 2, 5)
    call = draw_chunks(chunk_case(rows, SIZES, torch.bfloat16))
    expected = run_chunks(functional.lstm_chunks, call, rows)
    if hasattr(torch.ops.ulmfit_fast_cpu, "fill_scratch"):
        torch.ops.ulmfit_fast_cpu.fill_scratch(255)
    found = run_chunks(functional.lstm_chunks, call, rows)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_one_chunk_is_a_call_of_lstm() -> None:
    call = draw_chunks(chunk_case((3,), SIZES, torch.float32))
    x, state, weights, drop_p, seed, *_ = call.arguments()
    y, final = functional.lstm(x, state, weights, drop_p, seed)
    found, found_final = functional.lstm_chunks(x, state, weights, [3], drop_p, seed)
    for a, b in zip((found, *found_final), (y, *final), strict=True):
        assert torch.equal(a, b)
    no_state, _ = functional.lstm_chunks(x, None, weights, [3], drop_p, seed)
    zeros = torch.zeros_like(state[0]), torch.zeros_like(state[0])
    assert torch.equal(no_state, functional.lstm(x, zeros, weights, drop_p, seed)[0])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "rows: expected numbers from 1 up, none falling, found []"),
        ([0, 8], "rows: expected numbers from 1 up, none falling, found [0, 8]"),
        ([5, 3], "rows: expected numbers from 1 up, none falling, found [5, 3]"),
        ([1, 5], "rows: expected a sum of 8 as x has, found 6"),
    ],
)
def test_rows_that_do_not_fit_are_named(rows: list[int], message: str) -> None:
    x, _, weights, *_ = draw_chunks(chunk_case((1, 2, 5), SIZES, torch.float32)).arguments()
    with pytest.raises(ValueError, match=re.escape(message)):
        functional.lstm_chunks(x, None, weights, rows)


def test_state_of_other_rows_is_named() -> None:
    x, _, weights, *_ = draw_chunks(chunk_case((1, 2, 5), SIZES, torch.float32)).arguments()
    state = torch.zeros(8, 17), torch.zeros(8, 17)
    with pytest.raises(ValueError, match=re.escape("h0: expected shape [5, 17], found [8, 17]")):
        functional.lstm_chunks(x, state, weights, [1, 2, 5])


def test_module_runs_chunks_through_all_its_layers() -> None:
    torch.manual_seed(3)
    module = WeightDroppedLSTM(9, 17, num_layers=2, drop_p=0.4).eval()
    x, rows = torch.randn(4, 8, 9), [1, 2, 5]
    y, (h_n, c_n) = module(x, chunk_rows=rows)
    below = x
    for layer, weights in enumerate(module.all_weights):
        below, (h, c) = functional.lstm_chunks(below, None, tuple(weights), rows)
        assert torch.equal(h_n[layer], h)
        assert torch.equal(c_n[layer], c)
    assert torch.equal(y, below)
    with torch.autocast("cpu", torch.bfloat16):
        rounded, (_, c_n) = module(x, chunk_rows=rows)
    assert (rounded.dtype, c_n.dtype, c_n.shape) == (torch.bfloat16, torch.float32, (2, 5, 17))
    assert torch.allclose(rounded.float(), y, atol=0.02)


@pytest.mark.parametrize(
    ("module", "x", "lengths"),
    [
        (WeightDroppedLSTM(3, 4, bidirectional=True), torch.zeros(2, 3, 3), None),
        (WeightDroppedLSTM(3, 4), torch.zeros(2, 3), None),
        (WeightDroppedLSTM(3, 4), torch.zeros(2, 3, 3), torch.tensor([1, 2, 2])),
    ],
    ids=["bidirectional", "one sequence", "lengths"],
)
def test_module_says_what_has_no_chunks(module: Any, x: Tensor, lengths: Any) -> None:
    with pytest.raises(ValueError, match="chunk_rows"):
        module(x, lengths=lengths, chunk_rows=[1, 2])


def test_layer_compiles_into_one_graph() -> None:
    call = draw_chunks(chunk_case((1, 2, 5), SIZES, torch.float32))
    x, state, weights, drop_p, seed, *_ = call.arguments()
    compiled = torch.compile(functional.lstm_chunks, fullgraph=True, backend="aot_eager")
    found, _ = compiled(x, state, weights, [1, 2, 5], drop_p, seed)
    assert torch.equal(found, functional.lstm_chunks(x, state, weights, [1, 2, 5], drop_p, SEED)[0])
