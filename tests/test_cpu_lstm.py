"""The compiled CPU kernels: every instruction set, every storage type, to the same criterion."""

from __future__ import annotations

import pytest
import torch
from lstm_calls import SEED, Case, assert_lstm_no_worse, draw, run
from numerics import FLOOR
from torch import Tensor

from ulmfit_fast import _native, functional

pytestmark = pytest.mark.skipif(
    _native.why_missing("lstm_forward", "cpu") is not None,
    reason=f"no compiled CPU kernels: {_native.why_missing('lstm_forward', 'cpu')}",
)
SHAPES = [  # T, B, I, H: around the widths of vectors (4, 8, 16), panels (x 4), tiles and chunks
    (2, 1, 1, 1),
    (3, 2, 7, 5),
    (3, 7, 16, 15),
    (3, 13, 31, 17),
    (2, 97, 9, 33),
    (4, 64, 66, 64),
    (2, 193, 20, 130),
]
CASES = [
    *(Case(shape, dtype) for shape in SHAPES for dtype in FLOOR),
    *(Case((5, 9, 8, 24), dtype, lengths="some", reverse=True) for dtype in FLOOR),
    *(Case((5, 9, 8, 21), dtype, lengths="some", scale=8.0) for dtype in FLOOR),
    *(Case((5, 9, 8, 24), dtype, scale=1e-3, drop_p=0.0) for dtype in FLOOR),
    # So few rows that W_hh is read as it lies.
    *(Case((3, B, 9, H), dtype, drop_p=0.0) for B, H in ((1, 70), (4, 37)) for dtype in FLOOR),
    *(Case((140, 1, 8, 40), dtype, drop_p=0.0, lengths="some") for dtype in FLOOR),
    # A weight of more rows than one block of a product holds.
    Case((2, 3, 4, 700), torch.float32),
    Case((2, 3, 4, 700), torch.bfloat16),
]


@pytest.mark.usefixtures("_instruction_set")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_instruction_set_is_as_accurate_as_pytorch(case: Case) -> None:
    assert_lstm_no_worse(functional.lstm, case)


@pytest.mark.usefixtures("_instruction_set")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_gates_are_accurate_over_their_whole_range(dtype: torch.dtype) -> None:
    # One unit, one step, no recurrence: y = sigmoid(a) tanh(sigmoid(a) tanh(a)) shows both.
    a = torch.cat([torch.linspace(-100, 100, 4001), torch.logspace(-30, 2, 500), torch.zeros(1)])
    x = torch.cat([a, -a]).to(dtype).reshape(1, -1, 1)
    ones, zero = torch.ones(4, 1, dtype=dtype), torch.zeros(x.shape[1], 1, dtype=dtype)
    y, (_, c) = functional.lstm(x, (zero, zero), (ones, ones, None, None))
    wide = x[0].double()
    exact_c = wide.sigmoid() * wide.tanh()
    exact_y = wide.sigmoid() * exact_c.tanh()
    # Of numbers that float32 can hold to its full precision.
    for found, exact in ((y[0], exact_y), (c, exact_c)):
        normal = exact.abs() > torch.finfo(torch.float32).tiny
        error = ((found.double() - exact) / exact)[normal].abs().max()
        assert float(error) < 8 * torch.finfo(dtype).eps


@pytest.mark.usefixtures("_instruction_set")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_is_not_a_number_stays_in_its_row(dtype: torch.dtype) -> None:
    call = draw(Case((4, 7, 6, 20), dtype))
    call.tensors["x"][2, 3, 1] = torch.nan
    y = run(functional.lstm, call)["y"]
    not_a_number = y.isnan().any(dim=2)
    assert not_a_number[2:, 3].all()
    assert int(not_a_number.sum()) == 2


def test_infinite_gates_saturate() -> None:
    x = torch.tensor([[[torch.inf]], [[-torch.inf]]])
    weights = (torch.ones(4, 1), torch.zeros(4, 1), None, None)
    y, (_, c) = functional.lstm(x, None, weights)
    assert y.flatten().tolist() == [torch.tensor(1.0).tanh().item(), 0.0]
    assert c.item() == 0.0


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.usefixtures("_instruction_set")
def test_float32_weights_are_rounded_and_their_gradients_are_not(
    dtype: torch.dtype, reverse: bool
) -> None:
    torch.manual_seed(5)
    T, B, I, H = 5, 3, 12, 40
    x = torch.randn(T, B, I).to(dtype).requires_grad_()
    # The biases are added before they are rounded, so one of them is 0.
    biases = [torch.randn(4 * H) / 6, torch.zeros(4 * H)]
    masters = [torch.randn(4 * H, I) / 6, torch.randn(4 * H, H) / 6, *biases]

    def run(weights: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        leaves = [w.detach().requires_grad_() for w in weights]
        y, _ = functional.lstm(x, None, tuple(leaves), 0.4, SEED, reverse=reverse)
        return y, list(torch.autograd.grad(y.square().sum(), [x, *leaves]))

    y, grads = run(masters)
    y_rounded, grads_rounded = run([w.to(dtype) for w in masters])
    assert torch.equal(y, y_rounded)
    assert [g.dtype for g in grads] == [dtype, *[torch.float32] * 4]
    for grad, rounded in zip(grads, grads_rounded, strict=True):
        assert torch.equal(grad.to(dtype), rounded)
