"""The LSTM's benchmarks time what they say, refuse a wrong kernel, and lose no case silently."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from conftest import ROOT
from numerics import MUTANTS

IMPLS = ("ulmfit_fast", "torch", "torch_undropped", "reference")


@pytest.fixture(autouse=True)
def _benchmarks_in_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


@pytest.fixture
def networks() -> ModuleType:
    return __import__("lstm_networks")


@pytest.fixture
def timing() -> ModuleType:
    return __import__("timing")


@pytest.fixture
def turns() -> ModuleType:
    return __import__("turns")


def run_pytest(*options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment
    )


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_implementation_passes_the_check(
    networks: ModuleType, impl: str, dtype: torch.dtype
) -> None:
    error = networks.check(impl, networks.Point(5, 4, 17), dtype, "cpu")
    assert 0 < error < 0.1


@pytest.mark.parametrize(
    "name", ["mask not rescaled", "dw_hh not masked", "output scaled by 0.999"]
)
def test_check_refuses_a_wrong_kernel_of_ours(
    networks: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def build(lstm: torch.nn.LSTM, drop_p: float, draw: object) -> tuple[object, list[object]]:
        weights = lstm.weight_ih_l0, lstm.weight_hh_l0, lstm.bias_ih_l0, lstm.bias_hh_l0

        def layer(x: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
            return MUTANTS[name](x, state, weights, drop_p, draw(x.device), None, False)[0]

        return layer, list(weights)

    wrong = networks.Implementation("wrong", build, seeded=True)
    monkeypatch.setitem(networks.IMPLEMENTATIONS, "ulmfit_fast", wrong)
    networks._check_layer.cache_clear()
    with pytest.raises(AssertionError, match="ulmfit_fast "):
        networks.check_or_leave_out("ulmfit_fast", networks.Point(3, 4, 17), torch.float32, "cpu")
    monkeypatch.setitem(networks.IMPLEMENTATIONS, "torch", wrong)
    _, reason = networks.check_or_leave_out("torch", networks.Point(3, 4, 17), torch.float32, "cpu")
    assert reason.startswith("less exact than the criterion allows: torch ")
    networks._check_layer.cache_clear()


@pytest.mark.peer
def test_fastai_passes_the_check(networks: ModuleType) -> None:
    pytest.importorskip("fastai")
    assert networks.check("fastai", networks.Point(3, 4, 17), torch.float32, "cpu") < 1e-5


def test_fastai_is_left_out_where_it_is_not_installed(
    networks: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "find_spec", lambda name: None)
    assert "requirements/peers.txt" in networks.why_left_out("fastai", "cpu")
    assert networks.why_left_out("triton", "cpu") == "needs --device cuda"


def test_triton_is_measured_on_triton(networks: ModuleType) -> None:
    w_hh = torch.empty(8, 2)
    with networks.kernels_of("triton"):
        assert networks.lstm_kernels.why_not_persistent(w_hh, 1, False) == "measured apart"
    with networks.kernels_of("ulmfit_fast"):
        assert networks.lstm_kernels.why_not_persistent(w_hh, 1, False) == "it is CUDA C++"


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("stack", [False, True], ids=["layer", "stack"])
def test_call_returns_the_gradients_of_x_and_of_every_weight(
    networks: ModuleType, impl: str, stack: bool
) -> None:
    point = networks.Point(3, 2, 5, stack=stack)
    gradients = networks.build_call(impl, point, torch.float32, True, "cpu")()
    weights = [
        shape for i, h in point.layers for shape in ([4 * h, i], [4 * h, h], [4 * h], [4 * h])
    ]
    assert [list(g.shape) for g in gradients] == [[3, 2, point.layers[0][0]], *weights]
    assert all(bool(g.any()) for g in gradients)
    y = networks.build_call(impl, point, torch.float32, False, "cpu")()
    assert not y.requires_grad
    assert list(y.shape) == [3, 2, point.layers[-1][1]]


@pytest.mark.parametrize("impl", ["ulmfit_fast", "torch", "reference"])
def test_every_call_draws_a_fresh_mask(networks: ModuleType, impl: str) -> None:
    call = networks.build_call(impl, networks.Point(4, 2, 9), torch.float32, False, "cpu")
    assert not torch.equal(call(), call())


def test_costs_are_counted_from_shapes(networks: ModuleType) -> None:
    layer, stack = networks.Point(2, 3, 5), networks.Point(2, 3, 5, stack=True)
    assert layer.n_flops(backward=False) == 2 * (2 * 3) * (4 * 5) * (5 + 5)
    assert layer.n_flops(backward=True) == 3 * layer.n_flops(backward=False)
    products = 20 * (400 + 5) + 20 * (5 + 5) + 1600 * (5 + 400)
    assert stack.n_flops(backward=False) == 2 * (2 * 3) * products
    # x and y of 30 elements, weights 2 x 20 x 5 and two biases of 20, four states of 15.
    assert layer.n_bytes(torch.float32, backward=False) == 4 * (30 + 30 + 240 + 60)
    # Gates 120 and c 30 written and read; dy, y, x, dx; weights and their gradients; dh0, dc0.
    backward = 4 * (2 * 120 + 2 * 30 + 4 * 30 + 2 * 240 + 60)
    forward = layer.n_bytes(torch.float32, backward=False)
    assert layer.n_bytes(torch.float32, backward=True) == forward + backward


def test_point_that_cannot_fit_is_left_out(
    networks: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "free_bytes", lambda device: 2**20)
    point = networks.Point(70, 64, 1152)
    reason = networks.why_too_large(point, torch.float32, True, "cpu")
    assert re.fullmatch(r"needs about \d\.\d GiB, 0\.0 GiB are free", reason)
    assert networks.why_too_large(networks.Point(1, 1, 1), torch.float32, True, "cpu") is None


def test_summary_gives_quantiles_of_any_number_of_times(timing: ModuleType) -> None:
    assert timing.summary([3.0, 1.0, 2.0, 5.0, 4.0, 6.0]) == {
        "p20": 2.0, "p50": 3.5, "p80": 5.0, "n": 6,
    }  # fmt: skip
    assert timing.summary([7.0]) == {"p20": 7.0, "p50": 7.0, "p80": 7.0, "n": 1}


def test_floor_is_the_slower_of_copy_and_product(timing: ModuleType) -> None:
    bound = timing.floor(2 * 10**6, 10**9, p50_ms=10.0, copy_rate=1e9, gemm_rate=0.25e12)
    assert bound == {"floor_ms": 4.0, "floor_by": "gemm", "floor_fraction": 0.4}
    bound = timing.floor(2 * 10**6, 0, p50_ms=10.0, copy_rate=1e9, gemm_rate=None)
    assert bound == {"floor_ms": 2.0, "floor_by": "copy", "floor_fraction": 0.2}


def test_ratio_is_taken_within_a_round(turns: ModuleType) -> None:
    drifting = [1.0, 2.0, 4.0, 8.0, 16.0]
    found = turns.ratio(drifting, [2 * t for t in drifting])
    assert found == {"p20": 2.0, "p50": 2.0, "p80": 2.0, "of_medians": 2.0, "equal": False}
    assert turns.ratio([2.0, 3.0, 2.0], [3.0, 2.0, 2.0])["equal"]


def test_side_by_side_runs_all_in_turns(turns: ModuleType) -> None:
    order: list[str] = []
    calls = {(name, "float32"): lambda name=name: order.append(name) for name in "ABC"}
    times_ms = turns.measure(calls, 2, "cpu", n_warm=0)
    assert "".join(order) == "ABCABC"
    assert all(len(times) == 2 for times in times_ms.values())


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_weighing_finds_what_a_call_needs() -> None:
    sizes = {"T": 20, "B": 32, "H": 256}
    options = [f"--{letter}={size}" for letter, size in sizes.items()]
    command = [sys.executable, str(ROOT / "benchmarks" / "side_by_side.py"), *options]
    command += ["--weigh", "ulmfit_fast", "float32"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(ran.stdout)
    # Kept for backward: gates, c and y; computed there: dx, gradients of the weights. In MiB.
    rows, weights = 20 * 32, 4 * 256 * (2 * 256 + 2)
    least = 4 * (rows * 7 * 256 + weights) / 2**20
    assert least < found["peak_mib"] < 6 * least
    assert 4 * weights / 2**20 < found["network_mib"] < 20


def test_cases_of_a_point_run_in_turns() -> None:
    ran = run_pytest("benchmarks/bench_lstm.py", "--quick", "--collect-only")
    found = re.findall(r"\[(layer)-T3-B2-H16-forward-(\w+)-(\w+)-repeat(\d)\]", ran.stdout)
    order = [(dtype, impl, int(repeat)) for _, dtype, impl, repeat in found]
    half = len(order) // 2
    assert {dtype for dtype, _, _ in order} == {"float32", "bfloat16"}
    assert {impl for _, impl, _ in order} == set(IMPLS)
    assert [repeat for _, _, repeat in order] == [1] * half + [2] * half
    assert [case[:2] for case in order[:half]] == [case[:2] for case in order[half:]]


def test_full_grid_holds_every_point_of_the_issue() -> None:
    ran = run_pytest("benchmarks/bench_lstm.py", "--grid=full", "--device=cuda", "--collect-only")
    found = set(re.findall(r"\[(\w+)-T(\d+)-B(\d+)-H(\d+)-([a-z+]+)-(\w+)-(\w+)-rep", ran.stdout))
    kinds, modes = ("layer", "stack"), ("forward", "forward+backward")
    dtypes = ("float32", "bfloat16", "float16")
    impls = (*IMPLS, "ulmfit_fast_graph", "triton")
    n_points = len(kinds) * 3 * 4 * 2
    assert len(found) == n_points * len(modes) * len(dtypes) * len(impls)
    assert {case[1:4] for case in found} == {
        (T, B, H)
        for T in ("70", "350", "1400")
        for B in ("1", "16", "64", "128")
        for H in ("400", "1152")
    }


def test_record_holds_floors_and_what_was_left_out(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    options = ("-k", "layer and forward-float32", f"--benchmark-json={file}")
    ran = run_pytest("benchmarks/bench_lstm.py", "--quick", *options, ULMFIT_FAST_REFERENCE="1")
    assert ran.returncode == 0, ran.stdout
    record = json.loads(file.read_text())
    assert [case["impl"] for case in record["cases"]] == list(IMPLS[1:])
    for case in record["cases"]:
        assert case["floor_ms"] > 0
        assert case["floor_fraction"] == pytest.approx(case["floor_ms"] / case["time_ms"]["p50"])
        assert len(case["repeat_p50_ms"]) == 2
        assert case["error"] > 0
    assert record["machine"]["gemm_tflop_per_s"].keys() == {"float32"}
    reasons = {each["reason"] for each in record["left_out"]}
    assert reasons == {"no kernel to measure: ULMFIT_FAST_REFERENCE=1 is set"}
    assert {"-ulmfit_fast-" in each["case"] for each in record["left_out"]} == {True}


def test_nothing_starts_when_time_is_over() -> None:
    ran = run_pytest("benchmarks/bench_lstm.py", "--quick", "--minutes=1e-9")
    assert re.search(r"SKIPPED \[64\] .*: out of time: 1e-09 minutes have passed", ran.stdout)
