"""The loss's benchmark times the same work of all, and refuses a wrong kernel."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import ModuleType

import pytest
import torch
from conftest import ROOT
from test_benchmarks_lstm import run_pytest
from torch import Tensor


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    module = __import__("losses")
    monkeypatch.setattr(module, "CHECKED", (40, 300))
    return module


@pytest.mark.parametrize("impl", ["ulmfit_fast", "torch", "torch_chunked"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_implementation_passes_the_check(
    losses: ModuleType, impl: str, dtype: torch.dtype
) -> None:
    if impl == "torch_chunked" and losses.why_left_out(impl, "cpu") is not None:
        pytest.skip("this torch has no F.linear_cross_entropy")
    error, reason = losses.check(impl, dtype, "cpu")
    assert reason is None
    assert 0 < error < 0.1


def test_check_refuses_a_wrong_kernel_of_ours_and_leaves_out_that_of_a_peer(
    losses: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(hidden: Tensor, *rest: Tensor) -> Tensor:
        return losses.plain(hidden * 1.001, *rest)

    for impl in ("ulmfit_fast", "torch_chunked"):
        monkeypatch.setitem(losses.IMPLEMENTATIONS, impl, ("wrong", wrong))
    with pytest.raises(AssertionError, match="ulmfit_fast loss"):
        losses.check("ulmfit_fast", torch.float32, "cpu")
    error, reason = losses.check("torch_chunked", torch.float32, "cpu")
    assert error == math.inf
    assert reason.startswith("less exact than the criterion allows: torch_chunked ")


def test_what_is_timed_is_the_loss_and_all_gradients(losses: ModuleType) -> None:
    call = losses.draw(losses.Point(6, 50), torch.bfloat16, "cpu")
    loss, dx, dw, db = losses.build_call("torch", call)()
    assert (loss.dtype, dx.dtype, dw.dtype) == (torch.float32, torch.bfloat16, torch.float32)
    assert (list(dx.shape), list(dw.shape), list(db.shape)) == ([6, 400], [50, 400], [50])


def test_record_holds_floors_and_memory(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    options = ("-k", "float32-torch-", f"--benchmark-json={file}")
    ran = run_pytest("benchmarks/bench_loss.py", "--quick", *options)
    assert ran.returncode == 0, ran.stdout
    (case,) = json.loads(file.read_text())["cases"]
    assert case["op"] == "linear_cross_entropy"
    assert case["sizes"] == {"N": 12, "E": 400, "V": 50}
    assert case["floor_fraction"] == pytest.approx(case["floor_ms"] / case["time_ms"]["p50"])
    assert case["n_flops"] == 6 * 12 * 400 * 50
    assert case["peak_mib"] is None or case["peak_mib"] >= 0
