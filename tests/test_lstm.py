"""functional.lstm and its op: as exact as plain PyTorch, and the same bits every time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lstm_calls import (
    OUTPUTS,
    SEED,
    Call,
    Case,
    assert_lstm_no_worse,
    draw,
    run,
)
from numerics import FLOOR, assert_no_worse
from torch import Tensor

from ulmfit_fast import functional, reference

DTYPES = tuple(FLOOR)
HALVES = (torch.bfloat16, torch.float16)
SHAPES = [  # T, B, I, H: one, odd, around the tiles of vectors (16) and of rows (6, 8)
    (1, 1, 1, 1),
    (3, 2, 7, 5),
    (5, 5, 3, 15),
    (4, 6, 17, 16),
    (6, 7, 9, 17),
    (2, 8, 40, 31),
    (3, 9, 8, 32),
    (7, 11, 33, 33),
    (5, 12, 20, 47),
    (3, 13, 48, 48),
    (2, 16, 5, 49),
    (4, 17, 64, 63),
    (3, 5, 30, 64),
    (2, 24, 65, 65),
    (20, 12, 100, 130),
]
SHAPE = (6, 7, 10, 17)
VARIANTS = [
    {"drop_p": 0.0},
    {"bias": False},
    {"reverse": True},
    {"lengths": "some"},
    {"lengths": "some", "reverse": True},
    {"lengths": (6, 6, 6, 6, 6, 6, 6)},
    {"lengths": (1, 1, 1, 1, 1, 1, 1), "reverse": True},
    {"layout": "transposed"},
    {"layout": "strided"},
    {"layout": "strided", "lengths": "some", "reverse": True, "bias": False, "drop_p": 0.0},
    *({"through": (name,), "lengths": "some"} for name in OUTPUTS),
    *({"through": (name,), "reverse": True} for name in OUTPUTS),
]
CASES = [
    *(Case(shape, dtype) for shape in SHAPES for dtype in DTYPES),
    *(Case(shape, t, scale=s) for shape in SHAPES[::2] for t in DTYPES for s in (1e-3, 8.0)),
    *(Case(SHAPE, dtype, **variant) for variant in VARIANTS for dtype in DTYPES),
    *(Case(SHAPE, dtype, wide_c0=True, lengths="some") for dtype in HALVES),
    *(Case((12, 64, 400, 400), dtype) for dtype in DTYPES),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_lstm_is_as_accurate_as_pytorch(case: Case) -> None:
    assert_lstm_no_worse(functional.lstm, case)


@settings(derandomize=True, deadline=None, max_examples=120)
@given(
    shape=st.tuples(*(st.integers(1, n) for n in (5, 9, 20, 20))),
    dtype=st.sampled_from(DTYPES),
    scale=st.sampled_from([1e-3, 1.0, 8.0]),
    drop_p=st.sampled_from([0.0, 0.1, 0.5, 0.9]),
    lengths=st.sampled_from([None, "some"]),
    flags=st.tuples(*[st.booleans()] * 3),
    layout=st.sampled_from(["contiguous", "transposed", "strided"]),
)
def test_lstm_is_as_accurate_as_pytorch_in_any_combination(
    shape: tuple[int, int, int, int],
    dtype: torch.dtype,
    scale: float,
    drop_p: float,
    lengths: str | None,
    flags: tuple[bool, bool, bool],
    layout: str,
) -> None:
    reverse, bias, wide_c0 = flags
    case = Case(shape, dtype, scale, drop_p, lengths, reverse, bias, wide_c0, layout)
    assert_lstm_no_worse(functional.lstm, case)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [None, (6, 1, 0, 3, 6, 2, 5)], ids=["whole", "lengths"])
def test_lstm_forward_saves_the_cell_state_and_the_gates(
    dtype: torch.dtype, reverse: bool, lengths: tuple[int, ...] | None
) -> None:
    call = draw(Case(SHAPE, dtype, lengths=lengths, reverse=reverse))
    found = torch.ops.ulmfit_fast.lstm_forward(*call.forward_arguments())
    plain = reference.lstm_forward(*call.forward_arguments())
    exact = reference.lstm_forward(*call.to(torch.float64).forward_arguments())
    wide = reference.accumulation_dtype(dtype)
    assert [t.dtype for t in found] == [dtype, dtype, dtype, wide, dtype]
    for name, *three in zip((*OUTPUTS, "c", "gates"), found, plain, exact, strict=True):
        assert_no_worse(name, *three, dtype)
    if lengths is not None:
        dead = torch.arange(SHAPE[0]).unsqueeze(1) >= torch.tensor(lengths)
        y, _, _, _, gates = found
        assert y[dead].count_nonzero() == 0
        assert gates[dead].count_nonzero() == 0


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_cell_state_is_not_rounded_to_16_bits(dtype: torch.dtype) -> None:
    call = draw(Case(SHAPE, dtype, wide_c0=True))
    _, _, c_n, c, _ = torch.ops.ulmfit_fast.lstm_forward(*call.forward_arguments())
    assert torch.equal(c_n, c[-1])
    rounded = c.to(dtype).float()
    assert int((c != rounded).sum()) > 0.9 * c.numel()  # one in 2**13 to 2**16 is by chance


@pytest.mark.parametrize("reverse", [False, True])
def test_lstm_forward_and_backward_leave_the_state_of_a_row_without_steps(reverse: bool) -> None:
    call = draw(Case(SHAPE, lengths=(0, 6, 0, 1, 0, 3, 0), reverse=reverse))
    y, h_n, c_n, _, _ = torch.ops.ulmfit_fast.lstm_forward(*call.forward_arguments())
    empty = call.lengths == 0
    assert y[:, empty].count_nonzero() == 0
    assert torch.equal(h_n[empty], call.tensors["h0"][empty])
    assert torch.equal(c_n[empty], call.tensors["c0"][empty])
    dx, *_, dh0, dc0 = torch.ops.ulmfit_fast.lstm_backward(*call.backward_arguments())
    assert dx[:, empty].count_nonzero() == 0
    assert torch.equal(dh0[empty], call.cotangents["h_n"][empty])
    assert torch.equal(dc0[empty], call.cotangents["c_n"][empty])


@pytest.mark.parametrize("reverse", [False, True])
def test_what_lies_beyond_a_row_does_not_matter(reverse: bool) -> None:
    call = draw(Case(SHAPE, lengths="some", reverse=reverse))
    expected = run(functional.lstm, call)
    beyond = torch.arange(SHAPE[0])[:, None] >= call.lengths
    call.tensors["x"][beyond] = torch.inf
    found = run(functional.lstm, call)
    for name in ("y", "h_n", "c_n", "dx", "dh0", "dc0", "dw_hh"):
        assert torch.equal(found[name], expected[name]), name


@pytest.mark.parametrize("reverse", [False, True])
def test_lengths_outside_the_sequence_mean_the_nearest(reverse: bool) -> None:
    # Compiled code does not look at the values, so the op meets them.
    wild = draw(Case(SHAPE, lengths=(7, -1, 2**40, -(2**40), 3, 6, 0), reverse=reverse))
    tame = draw(Case(SHAPE, lengths=(6, 0, 6, 0, 3, 6, 0), reverse=reverse))
    for op, arguments in (
        (torch.ops.ulmfit_fast.lstm_forward, Call.forward_arguments),
        (torch.ops.ulmfit_fast.lstm_backward, Call.backward_arguments),
    ):
        for found, expected in zip(op(*arguments(wild)), op(*arguments(tame)), strict=True):
            assert torch.equal(found, expected)


@pytest.mark.parametrize("wide_c0", [False, True])
def test_state_keeps_its_dtypes_and_none_means_zeros(wide_c0: bool) -> None:
    call = draw(Case(SHAPE, torch.bfloat16, wide_c0=wide_c0))
    x, (h0, c0), *rest = call.arguments()
    y, (h_n, c_n) = functional.lstm(x, (h0, c0), *rest)
    assert (y.dtype, h_n.dtype, c_n.dtype) == (x.dtype, x.dtype, c0.dtype)
    zeros = torch.zeros_like(h0), torch.zeros_like(h0)
    found_y, found = functional.lstm(x, None, *rest)
    expected_y, expected = functional.lstm(x, zeros, *rest)
    for a, b in zip((found_y, *found), (expected_y, *expected), strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


def test_seed_is_not_read_where_nothing_is_dropped() -> None:
    x, state, weights, *_ = draw(Case(SHAPE)).arguments()
    without, _ = functional.lstm(x, state, weights)
    assert torch.equal(functional.lstm(x, state, weights, 0.0, SEED)[0], without)


def test_mask_is_that_of_drop_connect_and_follows_the_seed() -> None:
    x, state, (w_ih, w_hh, *biases), drop_p, *_ = draw(Case(SHAPE)).arguments()
    y, _ = functional.lstm(x, state, (w_ih, w_hh, *biases), drop_p, SEED)
    dropped = (w_ih, functional.drop_connect(w_hh, drop_p, SEED), *biases)
    assert torch.equal(functional.lstm(x, state, dropped)[0], y)
    other, _ = functional.lstm(x, state, (w_ih, w_hh, *biases), drop_p, SEED + 1)
    assert not torch.equal(other, y)


def assert_contiguous_and_apart(outputs: list[Tensor], inputs: list[Tensor]) -> None:
    assert all(t.is_contiguous() for t in outputs)
    places = [t.untyped_storage().data_ptr() for t in outputs if t.numel()]
    assert len(set(places)) == len(places)
    assert not set(places) & {t.untyped_storage().data_ptr() for t in inputs}


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "strided"])
@pytest.mark.parametrize("lengths", [None, (0, 0)], ids=["whole", "no steps"])
@pytest.mark.parametrize("T", [1, 3])
@pytest.mark.parametrize("save", [False, True])
def test_results_are_contiguous_and_no_aliases(
    layout: str, lengths: tuple[int, ...] | None, T: int, save: bool
) -> None:
    call = draw(Case((T, 2, 4, 3), layout=layout, lengths=lengths))
    for op, arguments in (
        (torch.ops.ulmfit_fast.lstm_forward, call.forward_arguments(save)),
        (torch.ops.ulmfit_fast.lstm_backward, call.backward_arguments(save, save)),
    ):
        inputs = [a for a in arguments if isinstance(a, Tensor)]
        assert_contiguous_and_apart(list(op(*arguments)), inputs)


def dirty_the_heap(call: Call) -> None:
    """Leave NaN in the memory that the next call is likely to be given, by whatever allocator."""
    T, B, _, H = (*call.tensors["x"].shape, call.tensors["w_hh"].shape[1])
    sizes = [B * H, 4 * B * H, T * B * H, 4 * T * B * H, 4 * H * H, *range(1, 4096, 64)]
    filled = [torch.full((size,), torch.nan) for size in sizes]
    filled.clear()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_lstm_gives_the_same_bits_every_time(dtype: torch.dtype) -> None:
    call = draw(Case((20, 12, 100, 130), dtype, lengths="some"))
    first = run(functional.lstm, call)
    for n_threads in (3, 2, 1):  # the suite runs on one
        torch.set_num_threads(n_threads)
        dirty_the_heap(call)
        again = run(functional.lstm, call)
        differ = [name for name, result in first.items() if not torch.equal(again[name], result)]
        assert not differ, f"{n_threads} threads"
