"""linear_cross_entropy's launchers in Triton's interpreter: accurate, deterministic, no logits."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import loss_calls
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_calls import IGNORED, Call, Case, draw
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from triton_interpreter import MARKS

from ulmfit_fast import reference
from ulmfit_fast.kernels import linear_cross_entropy as launcher

pytestmark = MARKS
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
SHAPE = (70, 24, 300)
#: Tiles, splits and slabs small enough that every shape has edges of each.
SMALL = {
    "FORWARD_TILE": {"BLOCK_M": 32, "BLOCK_N": 32},
    "BACKWARD_TILE": {"BLOCK_M": 32, "BLOCK_N": 32},
    "LOADED_TILE": {"BLOCK_M": 16, "BLOCK_N": 32},
    **{"SPLIT": 64, "FORWARD_SLAB": 128, "SLAB": 96, "SLAB_ROWS": 64, "MAX_SLABS": 2},
    **{"WHOLE_COLUMNS": 32, "ROWS_OF_SUM": 32, "COMBINED_K": 16, "BLOCK_ROWS": 32},
}
CASES = [
    *(Case(shape) for shape in ((1, 1, 1), (1, 5, 2), (7, 3, 1), (33, 17, 65), (32, 16, 192))),
    *(Case(SHAPE, dtype) for dtype in DTYPES[1:]),
    Case(SHAPE, torch.bfloat16, masters=True),
    Case((33, 23, 301), torch.bfloat16, masters=True, layout="strided"),
    Case(SHAPE, torch.float16, masters=True, layout="transposed"),
    *(Case(SHAPE, layout=layout) for layout in ("strided", "transposed")),
    Case(SHAPE, bias=False),
    Case(SHAPE, torch.bfloat16, bias=False, masters=True),
    *(Case(SHAPE, dtype, label_smoothing=0.1) for dtype in DTYPES),
    *(Case(SHAPE, dtype, reduction="sum") for dtype in DTYPES[:2]),
    Case(SHAPE, torch.bfloat16, reduction="none", label_smoothing=0.2),
    Case(SHAPE, torch.float64, reduction="none", label_smoothing=1.0),
    # At 30 an lse of about 100 is rounded by 4e-6, as much as is allowed of the gradients.
    *(Case(SHAPE, dtype, scale=10.0) for dtype in DTYPES[:2]),
    Case(SHAPE, ignored=0.0),
]


class _TritonLoss(torch.autograd.Function):
    """Calls the launchers on CPU tensors, as the dispatcher does on a GPU."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        *tensors, _, _, _ = arguments
        loss, lse, *nothing = launcher.linear_cross_entropy_forward(*arguments, False, False)
        assert all(list(t.shape) == [0] for t in nothing)
        ctx.save_for_backward(*tensors, lse)
        ctx.settings = arguments[4:]
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        results = launcher.linear_cross_entropy_backward(
            grad, *ctx.saved_tensors, *ctx.settings, True, True
        )
        assert all(t.is_contiguous() for t in results)
        dx, dw, db = results
        return dx, dw, db if ctx.needs_input_grad[2] else None, *[None] * 4


def triton_loss(*arguments: Any) -> Tensor:
    """Run the launchers with the arguments of functional.linear_cross_entropy."""
    loss: Tensor = _TritonLoss.apply(*arguments)
    return loss


def run_ops(call: Call) -> list[Tensor]:
    """Return the loss, lse and the gradients."""
    loss, lse, *_ = launcher.linear_cross_entropy_forward(*call.forward_arguments())
    rest = call.forward_arguments(True, True)
    arguments = (call.cotangent, *rest[:4], lse, *rest[4:])
    return [loss, lse, *launcher.linear_cross_entropy_backward(*arguments)]


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SMALL.items():
        size = {**value, "BLOCK_K": 16} if isinstance(value, dict) else value
        monkeypatch.setattr(launcher, name, size)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_triton_loss_is_as_accurate_as_pytorch(case: Case) -> None:
    loss_calls.check(triton_loss, case)


@settings(derandomize=True, deadline=None, max_examples=12)
@given(
    shape=st.tuples(st.integers(1, 70), st.integers(1, 40), st.integers(2, 200)),
    dtype=st.sampled_from(DTYPES),
    masters=st.booleans(),
    layout=st.sampled_from(("contiguous", "transposed", "strided")),
    smoothing=st.sampled_from((0.0, 0.3)),
    reduction=st.sampled_from(("mean", "sum", "none")),
)
def test_triton_loss_is_accurate_for_any_sizes_and_strides(
    shape: tuple[int, int, int],
    dtype: torch.dtype,
    masters: bool,
    layout: str,
    smoothing: float,
    reduction: str,
) -> None:
    masters = masters and dtype in launcher.FUSED_DTYPES
    case = Case(shape, dtype, label_smoothing=smoothing, masters=masters, layout=layout)
    # Without ignored rows: the loss of a single small row would be compared with luck.
    loss_calls.check(triton_loss, replace(case, ignored=0.0, reduction=reduction))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_triton_loss_saves_lse_of_every_row(dtype: torch.dtype) -> None:
    call = draw(Case(SHAPE, dtype))
    lse = launcher.linear_cross_entropy_forward(*call.forward_arguments())[1]
    exact = call.to(torch.float64)
    logits = exact.hidden @ exact.weight.t() + exact.bias
    assert lse.dtype == reference.accumulation_dtype(dtype)
    # Products of 16 bits are summed in float32 and never rounded to 16.
    assert torch.allclose(lse.double(), logits.logsumexp(1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("case", [Case(SHAPE), Case(SHAPE, torch.bfloat16, masters=True)], ids=str)
@pytest.mark.parametrize("needs", [(True, True), (True, False), (False, True)])
def test_gradient_at_once_is_that_of_the_backward_op(case: Case, needs: tuple[bool, bool]) -> None:
    call = replace(draw(case), cotangent=torch.tensor(1.0))
    *_, dx, dw, db = run_ops(call)
    found = launcher.linear_cross_entropy_forward(*call.forward_arguments(*needs))[2:]
    wanted = (needs[0], needs[1], needs[1])
    for tensor, expected, want in zip(found, (dx, dw, db), wanted, strict=True):
        assert torch.equal(tensor, expected) if want else list(tensor.shape) == [0]


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_mean_of_no_rows_is_nan_with_gradients_of_zero(dtype: torch.dtype) -> None:
    loss, lse, *gradients = run_ops(draw(Case((20, 8, 70), dtype, ignored=1.0)))
    assert math.isnan(float(loss))
    assert bool(lse.isfinite().all())
    assert not any(bool(g.count_nonzero()) for g in gradients)


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("wrong", [-1, 70, 71, 2**40, -(2**62)])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_target_that_is_no_class_makes_the_loss_nan(
    dtype: torch.dtype, wrong: int, reduction: str
) -> None:
    call = draw(Case((20, 8, 70), dtype, ignored=0.0, reduction=reduction))
    call.targets[3], call.targets[4] = wrong, IGNORED
    loss, lse, dx, *_ = run_ops(call)
    row = torch.arange(20)
    assert torch.equal(loss.isnan(), row == 3 if reduction == "none" else torch.tensor(True))
    assert bool(lse.isfinite().all())
    # The gradient says so too, where a step that skips what is not finite looks.
    assert torch.equal(dx.isnan().any(dim=1), row == 3)


def test_no_rows_have_no_gradient() -> None:
    for reduction, expected in (("mean", math.nan), ("sum", 0.0)):
        call = draw(Case((0, 8, 70), reduction=reduction))
        loss, lse, dx, dw, db = run_ops(call)
        assert float(loss) == expected or math.isnan(expected) == math.isnan(float(loss))
        assert (list(lse.shape), list(dx.shape)) == ([0], [0, 8])
        assert not dw.count_nonzero()
        assert not db.count_nonzero()


def test_classes_that_the_bias_forbids_have_no_share() -> None:
    call = draw(Case((20, 8, 200), ignored=0.0))
    call.targets.clamp_(min=128)
    call.bias[:128] = -torch.inf  # whole tiles of them
    loss, lse, _, dw, _ = run_ops(call)
    part = replace(call, weight=call.weight[128:], bias=call.bias[128:], targets=call.targets - 128)
    expected = run_ops(part)
    assert torch.allclose(lse, expected[1])
    assert torch.allclose(loss, expected[0])
    assert torch.allclose(dw[128:], expected[3], atol=1e-6)
    assert not dw[:128].count_nonzero()


class _Sizes(TorchDispatchMode):
    """Notes how many elements the largest tensor has that an operation makes."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        # The interpreter moves bytes.
        if isinstance(result, Tensor) and result.is_floating_point():
            self.largest = max(self.largest, result.numel())
        return result


@pytest.mark.parametrize("masters", [False, True])
def test_logits_never_exist_as_a_whole(masters: bool) -> None:
    call = draw(Case((130, 2, 400), torch.bfloat16, masters=masters))
    with _Sizes() as sizes:
        run_ops(call)
    assert sizes.largest <= 130 * 96  # a slab


def _only_the_last_slab(original: Callable[..., None], *arguments: Any) -> None:
    launcher.multiply(*arguments)


def _bias_of_the_first_slab(original: Callable[..., Any], *arguments: Any) -> Any:
    return original(*arguments[:-1], 0)


def _half_of_the_smoothing(original: Callable[[float], int], value: float) -> int:
    return original(value if value > 0.5 else value / 2)


@pytest.mark.parametrize(
    ("function", "mutant"),
    [
        ("add_product", _only_the_last_slab),
        ("operands", _bias_of_the_first_slab),
        ("float_argument", _half_of_the_smoothing),
    ],
)
def test_criterion_rejects_a_wrong_launcher(
    monkeypatch: pytest.MonkeyPatch, function: str, mutant: Any
) -> None:
    original = getattr(launcher, function)
    monkeypatch.setattr(launcher, function, lambda *a: mutant(original, *a))
    with pytest.raises(AssertionError, match="allowed"):
        loss_calls.check(triton_loss, Case(SHAPE, label_smoothing=0.1))


def test_dtype_that_the_kernels_do_not_know_is_refused() -> None:
    call = draw(Case((3, 4, 5)))
    call = replace(call, hidden=call.hidden.to(torch.float8_e5m2))
    with pytest.raises(NotImplementedError, match="linear_cross_entropy_forward"):
        launcher.linear_cross_entropy_forward(*call.forward_arguments())
