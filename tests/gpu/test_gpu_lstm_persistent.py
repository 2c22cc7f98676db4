"""The persistent kernels on a GPU: chosen where they fit, the same bits for ever, no hang."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from cuda_host_runs import HostCall, HostCase, assert_right, draw
from torch import Tensor

from ulmfit_fast.kernels import lstm, lstm_persistent

pytestmark = pytest.mark.gpu
BF16, FP16 = torch.bfloat16, torch.float16
CASES = [
    *(HostCase(T, B, H, ragged=T > 1) for H in (64, 400, 1150, 1152) for B in (1, 7, 33, 64)
      for T in (1, 2, 5)),
    HostCase(5, 64, 1152, FP16, ragged=True, reverse=True),
    HostCase(5, 128, 1152, drop_p=0.0),
    HostCase(20, 70, 400, FP16),
    HostCase(70, 64, 1152),
]  # fmt: skip


def run(call: HostCall, device: torch.device, seed: Tensor | None = None) -> dict[str, Tensor]:
    """Run both persistent kernels, as kernels/lstm.py launches them."""
    case, H = call.case, call.case.H
    w_hh = call.w_hh.to(device)
    for backward in (False, True):
        assert lstm.why_not_persistent(w_hh, case.B, backward) is None
    lengths = call.lengths.to(device) if case.ragged else None
    if seed is None:
        seed = torch.tensor([call.seed], device=device)
    groups = [lstm_persistent.n_groups(w_hh, case.B, backward) for backward in (False, True)]
    gates, h, c0 = call.gates.to(device).clone(), call.h0.to(device).clone(), call.c0.to(device)
    y, c = gates.new_full((case.T, case.B, H), torch.nan), c0.float().clone()
    cells = torch.full_like(y, torch.nan, dtype=torch.float32)
    ops = torch.ops.ulmfit_fast_cuda
    rest = (lengths, seed, case.drop_p, case.reverse)
    ops.lstm_forward_steps(w_hh, gates, y, h, c, cells, *rest, 0, groups[0])
    dgates, dbias = torch.full_like(gates, torch.nan), c.new_full((groups[1], 4 * H), torch.nan)
    dh, dc = call.dh_n.to(device).float(), call.dc_n.to(device).float()
    dy = call.dy.to(device)
    ops.lstm_backward_steps(
        w_hh, dy, gates, cells, c0.float(), dgates, dh, dc, dbias, *rest, groups[1]
    )
    found = {"y": y, "gates": gates, "cells": cells, "h_n": h, "c_n": c, "dgates": dgates}
    return found | {"dh0": dh, "dc0": dc, "dbias": dbias.sum(0)}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gpu_persistent_kernels_are_as_accurate_as_pytorch(
    device: torch.device, case: HostCase
) -> None:
    call = draw(case)
    assert_right(call, {name: t.cpu() for name, t in run(call, device).items()})


def test_gpu_persistent_kernels_take_the_models_layers_and_say_why_not_others(
    device: torch.device,
) -> None:
    def why(H: int, dtype: torch.dtype = BF16) -> str | None:
        w_hh = torch.empty(4 * H, H, dtype=dtype, device=device)
        return lstm.why_not_persistent(w_hh, 64, False)

    assert [why(H) for H in (400, 1150, 1152)] == [None] * 3
    assert why(1154) == "it takes an even H of at most 1152, found 1154"
    assert why(33) == "it takes an even H of at most 1152, found 33"
    assert why(400, torch.float32) == "it takes bfloat16 and float16, found float32"


@pytest.mark.parametrize("H", [400, 1152])
def test_gpu_persistent_kernels_give_the_same_bits_a_hundred_times(
    device: torch.device, H: int
) -> None:
    call = draw(HostCase(10, 64, H, ragged=True))
    first = run(call, device)
    for _ in range(99):
        again = run(call, device)
        assert all(torch.equal(again[name], first[name]) for name in first)


def test_gpu_persistent_kernels_never_hang(device: torch.device) -> None:
    calls = [draw(HostCase(3, B, H)) for H, B in ((1152, 64), (400, 16), (64, 7))]
    w = [call.w_hh.to(device) for call in calls]
    states = [[torch.zeros(c.case.B, c.case.H, device=device) for _ in range(2)] for c in calls]
    for launch in range(10_000):
        which = launch % len(calls)
        case = calls[which].case
        gates = torch.zeros(case.T, case.B, 4 * case.H, dtype=BF16, device=device)
        y, h = gates[:, :, : case.H].contiguous(), states[which][0].to(BF16)
        groups = lstm_persistent.n_groups(w[which], case.B, False)
        torch.ops.ulmfit_fast_cuda.lstm_forward_steps(
            w[which], gates, y, h, states[which][1], None, None, None, 0.0, False, 0, groups
        )
    torch.cuda.synchronize()


def test_gpu_graph_replays_of_the_persistent_kernels_draw_fresh_masks(
    device: torch.device,
) -> None:
    call = draw(HostCase(4, 33, 1152))
    seed = torch.tensor([1], device=device)
    run(call, device, seed)
    graph = torch.cuda.CUDAGraph()
    side = torch.cuda.Stream()
    inputs = replace(call, **{k: getattr(call, k).to(device) for k in (
        "gates", "w_hh", "h0", "c0", "lengths", "dy", "dh_n", "dc_n")})  # fmt: skip
    with torch.cuda.graph(graph, stream=side):
        seed.add_(1)
        captured = run(inputs, device, seed)
    seed.fill_(0)
    for replay in range(1, 1001):
        graph.replay()
        if replay in (1, 2, 1000):
            expected = run(call, device, torch.tensor([replay], device=device))
            assert all(torch.equal(captured[name], expected[name]) for name in expected)


@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "synccheck", "initcheck"])
def test_gpu_persistent_kernels_are_clean_under_compute_sanitizer(
    device: torch.device, tool: str
) -> None:
    if shutil.which("compute-sanitizer") is None:
        pytest.skip("no compute-sanitizer")
    command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", sys.executable]
    environment_paths = f"{ROOT}:{Path(__file__).parents[1]}"
    program = (
        f"import sys; sys.path[:0] = {environment_paths.split(':')!r}\n"
        "import torch\nfrom gpu.test_gpu_lstm_persistent import run\n"
        "from cuda_host_runs import HostCase, draw\n"
        "run(draw(HostCase(2, 7, 64, ragged=True)), torch.device('cuda'))\n"
        "torch.cuda.synchronize()\n"
    )
    ran = subprocess.run([*command, "-c", program], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-1000:]
