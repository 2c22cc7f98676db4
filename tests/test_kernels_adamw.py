"""The optimizer's Triton kernels, run by the interpreter: as exact as the compiled CPU kernels."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from adamw_calls import MOVED, Case, after, assert_right, draw, flat
from triton_interpreter import MARKS

from ulmfit_fast.kernels import layerwise_adamw, mask

pytestmark = [
    *MARKS,
    # Squares of the largest gradients, and 0 / 0 beyond the last element.
    pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning"),
]
CASES = [
    Case(),
    Case(((1,), (8191,), (8192,), (8193,), (5, 7), (0,), (16_500,)), first_step=3),
    Case(first_step=9, layout="unaligned", shadow=True, average=0.0),
    Case(first_step=9, layout="transposed", shadow=True, average=0.1),
    Case(first_step=99_999, max_grad_norm=None),
    Case(max_grad_norm=None, skip_nonfinite=False, grad_scale=1024.0),
    Case(max_grad_norm=1e-3, grad_scale=1024.0, first_step=1),
    Case(scale=-1.0, first_step=2),
    Case(scale=1e19, first_step=1),
    Case(scale=1e-25, first_step=1),
    Case(found_inf=0.0, grad_scale=2.0),
    Case(((0,),)),
    Case(((3,),) * 40, first_step=2),
]


@pytest.fixture(autouse=True)
def _only_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layerwise_adamw, "cuda_kernel", None)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_triton_adamw_is_as_accurate_as_pytorch(case: Case) -> None:
    assert_right(layerwise_adamw.layerwise_adamw_, case)


@pytest.mark.parametrize(
    "refusal",
    [{"poison": math.inf}, {"poison": math.nan}, {"found_inf": 1.0}],
    ids=str,
)
def test_triton_adamw_changes_nothing_where_a_gradient_is_not_finite(
    refusal: dict[str, Any],
) -> None:
    case = Case(((3, 2), (8193,), (7,)), first_step=2, shadow=True, average=0.0, **refusal)
    before = draw(case)
    found = after(layerwise_adamw.layerwise_adamw_, before)
    for name in (*MOVED, "steps", "shadows", "n_averaged"):
        assert torch.equal(flat(found[name]), flat(before[name])), name
    assert int(found["skipped_steps"]) == 6
    assert int(found["ticket"]) == 0


def test_table_places_every_tensor_and_its_tiles() -> None:
    addresses = [[10 * column + row for row in range(3)] for column in range(8)]
    sizes = [layerwise_adamw.TILE + 1, 0, 5]
    rows, n_tiles = layerwise_adamw.table_rows(addresses, sizes, [2, 0, 1])
    assert n_tiles == 3
    table = [rows[i : i + 11] for i in range(0, len(rows), 11)]
    assert [row[:8] for row in table] == [[10 * c + r for c in range(8)] for r in range(3)]
    assert [row[8:] for row in table] == [[sizes[0], 0, 2], [0, 2, 0], [5, 2, 1]]


@pytest.mark.parametrize("value", [0.1, math.inf, 1e-300])
def test_float64_arguments_keep_their_bits(value: float) -> None:
    bits = torch.tensor([mask.double_bits(value)])
    assert float(bits.view(torch.float64)) == value
