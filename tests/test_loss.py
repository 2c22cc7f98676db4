"""linear_cross_entropy: held to float64, its edges, and what it refuses."""

from __future__ import annotations

import loss_calls
import pytest
import torch
from loss_calls import Case

from ulmfit_fast import functional, reference

#: Rows and classes around the blocks of the kernels, and the smallest.
CASES = [
    *(Case(shape) for shape in ((1, 1, 1), (1, 5, 2), (7, 3, 1), (33, 17, 65), (130, 40, 513))),
    *(Case((70, 24, 1030), dtype) for dtype in (torch.bfloat16, torch.float16, torch.float64)),
    Case((70, 24, 1030), torch.bfloat16, masters=True),
    Case((70, 23, 1031), torch.bfloat16, masters=True, layout="strided"),
    Case((70, 24, 1030), torch.float16, masters=True, layout="transposed"),
    Case((70, 24, 1030), layout="strided"),
    Case((70, 24, 1030), layout="transposed"),
    Case((70, 24, 1030), bias=False),
    Case((70, 24, 1030), label_smoothing=0.1),
    Case((70, 24, 1030), torch.bfloat16, label_smoothing=0.3, masters=True),
    *(Case((70, 24, 1030), reduction=reduction) for reduction in ("sum", "none")),
    Case((70, 24, 1030), torch.bfloat16, reduction="none", label_smoothing=0.2),
    Case((70, 24, 1030), scale=30.0),
    Case((70, 24, 1030), torch.bfloat16, scale=30.0),
    Case((70, 24, 1030), ignored=0.0),
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.usefixtures("_instruction_set")
def test_loss_and_gradients_are_no_worse_than_plain_pytorch(case: Case) -> None:
    loss_calls.check(functional.linear_cross_entropy, case)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_reference_passes_the_same_test(case: Case) -> None:
    loss_calls.check(reference.linear_cross_entropy, case)
