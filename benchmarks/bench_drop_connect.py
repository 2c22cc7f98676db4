"""drop_connect at the size of an AWD-LSTM's recurrent weight, against what it replaces."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from conftest import Case

from ulmfit_fast import _native, functional, reference

H = 1152
DROP_P = 0.5
# Inputs rotate through this many bytes, beyond any cache.
ROTATED_BYTES = 2**28

IMPLEMENTATIONS: dict[str, tuple[str, Callable[..., torch.Tensor]]] = {
    "ulmfit_fast": ("functional.drop_connect(weight, 0.5, seed)", functional.drop_connect),
    "torch": ("F.dropout(weight, 0.5)", lambda weight, drop_p, seed: F.dropout(weight, drop_p)),
    "reference": ("reference.drop_connect(weight, 0.5, seed)", reference.drop_connect),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_drop_connect(
    measure: Callable[[Case, Callable[[], object]], None],
    device: str,
    impl: str,
    dtype: torch.dtype,
) -> None:
    reason = _native.why_missing("drop_connect", device)
    if impl == "ulmfit_fast" and reason is not None:
        pytest.skip(f"no compiled kernel to measure: {reason}")
    what, call = IMPLEMENTATIONS[impl]
    n_bytes = 4 * H * H * dtype.itemsize
    weights = [
        torch.randn(4 * H, H, device=device).to(dtype) for _ in range(ROTATED_BYTES // n_bytes)
    ]
    seed = torch.tensor([7], device=device)
    error = None
    if impl != "torch":
        expected = reference.drop_connect(weights[0], DROP_P, seed)
        assert torch.equal(call(weights[0], DROP_P, seed), expected), "wrong: not timed"
        error = 0.0
    case = Case("drop_connect", "forward", impl, what, dtype, {"H": H}, 2 * n_bytes, error)
    rotation = itertools.cycle(weights)
    measure(case, lambda: call(next(rotation), DROP_P, seed))
