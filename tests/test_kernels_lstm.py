"""The Triton LSTM in Triton's interpreter: accurate, the reference's masks, no step allocates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lstm_calls import SEED, Call, Case, assert_lstm_no_worse, draw, lay_out
from lstm_chunk_calls import chunk_case, draw_chunks, forward_arguments
from numerics import assert_no_worse
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from triton_interpreter import MARKS

from ulmfit_fast import reference
from ulmfit_fast.kernels import lstm

pytestmark = MARKS
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
SHAPE = (3, 4, 5, 16)  # so many units that one draw is enough to compare
SHAPES = [(3, 2, 5, 7), (2, 5, 6, 15), (2, 4, 6, 16), (2, 4, 6, 17), (3, 2, 3, 41)]
VARIANTS: list[dict[str, Any]] = [
    {"scale": 1e-3},
    {"scale": 8.0},
    {"drop_p": 0.0, "bias": False},
    {"drop_p": 0.9, "reverse": True},
    {"lengths": (3, 0, 2, 1)},
    {"lengths": (1, 3, 2, 0), "reverse": True, "layout": "strided"},
]
HALVES = (torch.bfloat16, torch.float16)
CASES = [
    *(Case(shape, dtype) for shape in SHAPES for dtype in DTYPES),
    Case((1, 1, 1, 1)),
    *(Case(SHAPE, dtype, **variant) for variant in VARIANTS for dtype in DTYPES[:2]),
    *(Case(SHAPE, dtype, wide_c0=True, lengths="some") for dtype in HALVES),
]
FORWARD = ("y", "h_n", "c_n", "c", "gates")
BACKWARD = ("dx", "dw_ih", "dw_hh", "dbias", "dh0", "dc0")


class _TritonLSTM(torch.autograd.Function):
    """Calls the launchers on CPU tensors, as the dispatcher does on a GPU."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
        x, w_ih, w_hh, _, h0, c0, lengths, seed, *ctx.flags = arguments
        y, h_n, c_n, c, gates = lstm.lstm_forward(*arguments, True)
        ctx.save_for_backward(x, w_ih, w_hh, h0, c0, y, c, gates, lengths, seed)
        return y, h_n, c_n

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        results = lstm.lstm_backward(*grads, *ctx.saved_tensors, *ctx.flags, True, True)
        dx, dw_ih, dw_hh, dbias, dh0, dc0 = results
        assert all(t.is_contiguous() for t in results)
        has_bias = ctx.needs_input_grad[3]
        return dx, dw_ih, dw_hh, dbias if has_bias else None, dh0, dc0, None, None, None, None


def triton_lstm(x: Tensor, state: Any, weights: Any, *rest: Any) -> tuple[Tensor, Any]:
    """Run the launchers with the arguments of functional.lstm."""
    w_ih, w_hh, b_ih, b_hh = weights
    drop_p, seed, lengths, reverse = rest
    bias = None if b_ih is None else b_ih + b_hh
    y, h_n, c_n = _TritonLSTM.apply(x, w_ih, w_hh, bias, *state, lengths, seed, drop_p, reverse)
    return y, (h_n, c_n)


@pytest.mark.parametrize("dtype", DTYPES)
def test_chunks_run_one_after_the_other(dtype: torch.dtype) -> None:
    rows = (1, 2, 3)
    call = draw_chunks(chunk_case(rows, (3, 5, 16), dtype))
    arguments, wide = (forward_arguments(c, rows) for c in (call, call.to(torch.float64)))
    found = reference.by_chunks(lstm.lstm_forward, *arguments)
    plain, exact = reference.lstm_chunks_forward(*arguments), reference.lstm_chunks_forward(*wide)
    names = ("y", "h_n", "c_n", "h_starts", "c_starts", "c", "gates")
    for name, f, p, e in zip(names, found, plain, exact, strict=True):
        assert (f.dtype, f.shape, f.is_contiguous()) == (p.dtype, p.shape, True), name
        assert_no_worse(name, f, p, e, dtype)


def run_ops(call: Call) -> dict[str, Tensor]:
    """Return every result of both launchers, by name."""
    forward = lstm.lstm_forward(*call.forward_arguments())
    backward = lstm.lstm_backward(*call.backward_arguments())
    return dict(zip((*FORWARD, *BACKWARD), (*forward, *backward), strict=True))


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lstm, "BLOCK_H", 16)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_triton_lstm_is_as_accurate_as_pytorch(case: Case) -> None:
    assert_lstm_no_worse(triton_lstm, case)


@settings(derandomize=True, deadline=None, max_examples=10)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(3, 4), st.integers(1, 4), st.integers(11, 20)),
    drop_p=st.sampled_from((0.0, 0.5, 0.99)),
    lengths=st.none() | st.lists(st.integers(-1, 7), min_size=4, max_size=4),
    flags=st.tuples(st.booleans(), st.booleans()),
)
def test_triton_lstm_is_accurate_for_any_sizes_and_lengths(
    shape: tuple[int, int, int, int],
    drop_p: float,
    lengths: list[int] | None,
    flags: tuple[bool, bool],
) -> None:
    # On a GPU nobody looks at lengths: values beyond 0..T mean the nearest of the two.
    cut = None if lengths is None else tuple(lengths[: shape[1]])
    reverse, bias = flags
    case = Case(shape, drop_p=drop_p, lengths=cut, reverse=reverse, bias=bias)
    assert_lstm_no_worse(triton_lstm, case)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reverse", [False, True])
def test_triton_lstm_saves_the_cell_state_and_the_gates(dtype: torch.dtype, reverse: bool) -> None:
    call = draw(Case((6, 4, 5, 17), dtype, lengths=(6, 0, 3, 1), reverse=reverse))
    found = lstm.lstm_forward(*call.forward_arguments())
    plain = reference.lstm_forward(*call.forward_arguments())
    exact = reference.lstm_forward(*call.to(torch.float64).forward_arguments())
    for name, *three in zip(FORWARD, found, plain, exact, strict=True):
        assert found[0].is_contiguous()
        assert three[0].dtype == three[1].dtype, name
        assert_no_worse(name, *three, dtype)
    dead = torch.arange(6).unsqueeze(1) >= call.lengths
    assert found[0][dead].count_nonzero() == found[4][dead].count_nonzero() == 0


def _another_mask(original: Callable[..., Tensor], *arguments: Any) -> Tensor:
    return original(*arguments[:-1], arguments[-1] + 1)


def _stale_sums(original: Callable[..., None], a: Tensor, b: Tensor, out: Tensor) -> None:
    before = out.nan_to_num(0.0)
    original(a, b, out)
    out.add_(before)


def _sums_in_bfloat16(original: Callable[..., None], a: Tensor, b: Tensor, out: Tensor) -> None:
    original(a, b, out)
    out.copy_(out.bfloat16())


def _no_initial_state(original: Callable[..., Tensor], h0: Tensor, *rest: Any) -> Tensor:
    return original(torch.zeros_like(h0), *rest)


@pytest.mark.parametrize(
    ("function", "mutant"),
    [
        ("drop", _another_mask),
        ("multiply", _stale_sums),
        ("multiply", _sums_in_bfloat16),
        ("states_before", _no_initial_state),
    ],
)
def test_criterion_rejects_a_wrong_launcher(
    monkeypatch: pytest.MonkeyPatch, function: str, mutant: Any
) -> None:
    original = getattr(lstm, function)
    monkeypatch.setattr(lstm, function, lambda *a: mutant(original, *a))
    with pytest.raises(AssertionError, match="allowed"):
        assert_lstm_no_worse(triton_lstm, Case(SHAPE))


def test_triton_lstm_draws_one_mask_for_forward_and_backward() -> None:
    call = draw(Case(SHAPE))
    found = run_ops(call)
    w_hh = call.tensors["w_hh"]
    kept = reference.keep_mask(w_hh.shape, call.drop_p, SEED)
    assert torch.equal(found["dw_hh"] != 0, kept)
    # What was dropped plays no part, forward or backward.
    call.tensors["w_hh"] = torch.where(kept, w_hh, 7.0)
    again = run_ops(call)
    assert all(torch.equal(found[name], again[name]) for name in found)


@pytest.mark.parametrize("reverse", [False, True])
def test_triton_lstm_without_save_runs_in_chunks(
    monkeypatch: pytest.MonkeyPatch, reverse: bool
) -> None:
    call = draw(Case((5, 3, 5, 7), lengths=(2, 5, 4), reverse=reverse))
    saved = lstm.lstm_forward(*call.forward_arguments())
    project, rows = lstm.project, []
    monkeypatch.setattr(lstm, "CHUNK_ROWS", 2 * 3)
    monkeypatch.setattr(lstm, "project", lambda *a: (rows.append(len(a[0])), project(*a)))
    found = lstm.lstm_forward(*call.forward_arguments(save=False))
    assert rows == [2, 2, 1]
    for name, *pair in zip(FORWARD[:3], found, saved, strict=False):
        assert torch.allclose(*pair, rtol=1e-6, atol=1e-6), name  # another order of sums
    assert [list(t.shape) for t in found[3:]] == [[0], [0]]


@pytest.mark.parametrize(("need_dx", "need_dw"), [(True, False), (False, True), (False, False)])
def test_triton_lstm_computes_the_wanted_gradients_only(need_dx: bool, need_dw: bool) -> None:
    call = draw(Case(SHAPE))
    whole = lstm.lstm_backward(*call.backward_arguments())
    found = lstm.lstm_backward(*call.backward_arguments(need_dx, need_dw))
    wanted = [need_dx, need_dw, need_dw, need_dw, True, True]
    for tensor, expected, want in zip(found, whole, wanted, strict=True):
        assert torch.equal(tensor, expected) if want else list(tensor.shape) == [0]


@pytest.mark.parametrize("layout", ["transposed", "strided"])
def test_triton_lstm_takes_any_strides_and_changes_no_argument(layout: str) -> None:
    call = draw(Case(SHAPE, lengths="some"))

    def strange(argument: Any) -> Any:
        if not isinstance(argument, Tensor):
            return argument
        is_float = argument.is_floating_point()
        return lay_out(argument, layout) if is_float else argument.repeat_interleave(2)[::2]

    for launcher, arguments in (
        (lstm.lstm_forward, call.forward_arguments()),
        (lstm.lstm_backward, call.backward_arguments()),
    ):
        odd = [strange(a) for a in arguments]
        assert not odd[0].is_contiguous()
        before = [a.clone() if isinstance(a, Tensor) else a for a in arguments]
        expected, found = launcher(*arguments), launcher(*odd)
        assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
        for three in zip(arguments, odd, before, strict=True):
            assert not isinstance(three[0], Tensor) or torch.equal(three[0], three[2])
            assert not isinstance(three[0], Tensor) or torch.equal(three[1], three[2])
        tensors = [t for t in (*expected, *arguments) if isinstance(t, Tensor)]
        places = [t.untyped_storage().data_ptr() for t in tensors]
        assert len(set(places)) == len(places), "two results or arguments share memory"


class _Allocations(TorchDispatchMode):
    """Counts the calls that make a tensor: neither a view nor written into an argument."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not any(result.alias_info for result in func._schema.returns):
            self.calls[str(func)] += 1
        return func(*args, **(kwargs or {}))


def test_triton_lstm_allocates_nothing_for_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    from ulmfit_fast.kernels import lstm_cell

    class NoLaunch:  # the interpreter allocates tensors of its own
        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
            return lambda *arguments, **options: None

    for name in ("_drop_kernel", "_lstm_forward_kernel", "_lstm_backward_kernel"):
        monkeypatch.setattr(lstm_cell, name, NoLaunch())
    counts = []
    for T in (3, 50):
        call = draw(Case((T, 3, 5, 7), lengths=(3, 1, 2)))
        forward, backward = call.forward_arguments(), call.backward_arguments()
        with _Allocations() as allocations:
            lstm.lstm_forward(*forward)
            lstm.lstm_backward(*backward)
        counts.append(allocations.calls)
    assert counts[0] == counts[1]
    assert counts[0]["aten.new_empty.default"] > 0


def test_triton_lstm_refuses_what_it_cannot_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    call = draw(Case(SHAPE))
    whole = [a.int() if isinstance(a, Tensor) else a for a in call.forward_arguments()]
    with pytest.raises(NotImplementedError, match=r"lstm_forward: the Triton kernels .*int32"):
        lstm.lstm_forward(*whole)
    no_seed = list(call.forward_arguments())
    no_seed[7] = None
    with pytest.raises(ValueError, match=r"seed: a tensor is needed where drop_p is 0\.5"):
        lstm.lstm_forward(*no_seed)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    x = SimpleNamespace(dtype=torch.bfloat16, is_cuda=True, device="cuda")
    with pytest.raises(RuntimeError, match=r"needs .* 8\.0 or newer, found 7\.5 \(Tesla T4\)"):
        lstm.check_support("lstm_forward", x)
    x.dtype = torch.float16
    lstm.check_support("lstm_forward", x)
