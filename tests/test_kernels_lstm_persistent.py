"""The choice of the persistent kernels, and what kernels/lstm.py does around their launches."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from lstm_calls import Case, draw
from numerics import relative_error
from torch import Tensor
from triton_interpreter import MARKS

from ulmfit_fast import reference
from ulmfit_fast.kernels import lstm, lstm_persistent

pytestmark = MARKS
CASES = [
    Case((5, 3, 4, 6), torch.bfloat16),
    Case((5, 3, 4, 6), torch.float16, lengths="some", reverse=True, wide_c0=True),
    Case((5, 3, 4, 6), torch.bfloat16, lengths="some", drop_p=0.0, bias=False),
]


@given(B=st.integers(1, 5000), H=st.integers(1, 576), resident=st.integers(1, 300))
def test_groups_fit_the_gpu_and_none_is_empty(B: int, H: int, resident: int) -> None:
    for backward in (False, True):
        needed = lstm_persistent.blocks_of_group(2 * H, backward)
        n = lstm_persistent.groups(B, 2 * H, resident, backward)
        rows = lstm_persistent.rows_of_group(B, n)
        assert 1 <= n <= max(1, resident // needed)
        assert (n - 1) * rows < B <= n * rows


def test_the_models_layers_are_laid_out_as_the_kernels_were_designed() -> None:
    def layout(B: int, H: int) -> list[int]:
        return [lstm_persistent.groups(B, H, 132, backward) for backward in (False, True)]

    assert [lstm_persistent.blocks_of_group(1152, b) for b in (False, True)] == [64, 36]
    assert layout(64, 1152) == [2, 3]
    assert layout(16, 1152) == [1, 1]
    assert layout(64, 400) == [4, 4]


def test_sizes_are_those_of_the_kernels() -> None:
    text = (ROOT / "csrc" / "launchers.h").read_text()
    constants = dict(re.findall(r"constexpr int kLstm(\w+) = (\d+);", text))
    assert {name: int(value) for name, value in constants.items()} == {
        "ForwardUnits": lstm_persistent.FORWARD_UNITS,
        "BackwardUnits": lstm_persistent.BACKWARD_UNITS,
        "MaxUnits": lstm_persistent.MAX_UNITS,
        "MaxRows": lstm_persistent.MAX_ROWS,
    }


def test_every_refusal_has_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def why(H: int, B: int = 64, dtype: torch.dtype = torch.bfloat16) -> str | None:
        return lstm_persistent.why_not(torch.empty(4 * H, H, dtype=dtype), B, False)

    assert lstm.why_not_persistent(torch.empty(8, 2), 1, False) == "it is CUDA C++"
    assert why(400) == "the library ulmfit_fast._cuda was not built"
    private = SimpleNamespace(lstm_forward_steps=None, lstm_resident_blocks=lambda w, b: 132)
    monkeypatch.setattr(torch.ops, "ulmfit_fast_cuda", private)
    monkeypatch.setattr(lstm_persistent, "resident_blocks", lambda w, b: 132)
    assert why(1152) is None
    assert why(400, dtype=torch.float32) == "it takes bfloat16 and float16, found float32"
    assert why(401) == "it takes an even H of at most 1152, found 401"
    assert why(1154) == "it takes an even H of at most 1152, found 1154"
    assert why(1152, B=257) == "it takes 256 rows at H 1152 on this GPU, found 257"
    odd = torch.empty(4 * 4 * 4 + 1, dtype=torch.bfloat16)[1:].view(16, 4)
    assert lstm_persistent.why_not(odd, 1, False) == "w_hh does not begin at a multiple of 16 bytes"
    monkeypatch.setattr(lstm_persistent, "resident_blocks", lambda w, b: 40)
    assert why(1152) == "it needs 64 blocks at once, and this GPU holds 40 of them"


def forward_steps(
    w_hh: Tensor, gates: Tensor, y: Tensor, h: Tensor, c: Tensor, cells: Tensor | None,
    lengths: Tensor | None, seed: Tensor | None, drop_p: float, reverse: bool, first: int,
    n_groups: int,
) -> None:  # fmt: skip
    """Do what ulmfit_fast_cuda::lstm_forward_steps does, by the reference."""
    here = None if lengths is None else lengths - first
    identity = torch.eye(gates.shape[2], dtype=gates.dtype)
    rest = (here, seed, drop_p, reverse, True)
    found = reference.lstm_forward(gates, identity, w_hh, None, h, c, *rest)
    for to, result in zip((y, h, c), found, strict=False):
        to.copy_(result)
    if cells is not None:
        cells.copy_(found[3])
        gates.copy_(found[4])


def backward_steps(
    w_hh: Tensor, dy: Tensor, gates: Tensor, cells: Tensor, c0: Tensor, dgates: Tensor,
    dh: Tensor, dc: Tensor, dbias: Tensor, lengths: Tensor | None, seed: Tensor | None,
    drop_p: float, reverse: bool, n_groups: int,
) -> None:  # fmt: skip
    """Do what ulmfit_fast_cuda::lstm_backward_steps does, by the reference."""
    identity = torch.eye(gates.shape[2], dtype=gates.dtype)
    saved = (torch.zeros_like(dh, dtype=dy.dtype), c0, torch.zeros_like(dy), cells, gates)
    rest = (lengths, seed, drop_p, reverse, True, True)
    dx, _, _, db, dh0, dc0 = reference.lstm_backward(
        dy, dh, dc, gates, identity, w_hh, *saved, *rest
    )
    dgates.copy_(dx)
    dbias.zero_()[-1] = db
    dh.copy_(dh0)
    dc.copy_(dc0)


@pytest.fixture
def _persistent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have kernels/lstm.py take the persistent path on the CPU, launches done by the reference."""
    private = SimpleNamespace(lstm_forward_steps=forward_steps, lstm_backward_steps=backward_steps)
    monkeypatch.setattr(torch.ops, "ulmfit_fast_cuda", private)
    monkeypatch.setattr(lstm_persistent, "resident_blocks", lambda w, b: 132)
    monkeypatch.setattr(lstm, "why_not_persistent", lambda w, B, backward: None)


@pytest.mark.usefixtures("_persistent")
@pytest.mark.parametrize("chunk_rows", [2048, 6])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_launches_get_and_give_what_the_ops_do(
    case: Case, chunk_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lstm, "CHUNK_ROWS", chunk_rows)
    call = draw(case)
    for keep in (True, False):
        arguments = call.forward_arguments(keep)
        found, expected = lstm.lstm_forward(*arguments), reference.lstm_forward(*arguments)
        for f, e in zip(found, expected, strict=True):
            assert f.dtype == e.dtype
            assert relative_error(f, e) < 1e-2
    for wanted in ((True, True), (True, False), (False, True), (False, False)):
        arguments = call.backward_arguments(*wanted)
        found, expected = lstm.lstm_backward(*arguments), reference.lstm_backward(*arguments)
        for f, e in zip(found, expected, strict=True):
            assert f.dtype == e.dtype
            assert relative_error(f, e) < 2e-2
