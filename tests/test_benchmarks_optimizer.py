"""The optimizer's benchmarks time the same step everywhere, and count what it costs."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import ROOT

IMPLS = (
    *("ulmfit_fast", "torch_loop", "torch_foreach", "torch_default", "torch_fused"),
    "torch_fused_scaled",
)
TINY = {"V": 30, "E": 8, "H": 12}


@pytest.fixture(autouse=True)
def _benchmarks_in_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


@pytest.fixture
def steps() -> ModuleType:
    return __import__("optimizer_steps")


@pytest.fixture
def script() -> ModuleType:
    return __import__("optimizer_side_by_side")


@pytest.fixture
def bandwidth() -> ModuleType:
    return __import__("bandwidth")


@pytest.fixture
def replace(
    steps: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, Callable[..., Any]], None]:
    """Return what exchanges the step of an implementation."""

    def exchange(impl: str, build: Callable[..., Any]) -> None:
        other = dataclasses.replace(steps.IMPLEMENTATIONS[impl], build=build)
        monkeypatch.setitem(steps.IMPLEMENTATIONS, impl, other)

    return exchange


def test_points_have_the_parameters_of_the_issue(steps: ModuleType, script: ModuleType) -> None:
    assert [len(shapes) for shapes in script.POINTS[0].shapes] == [1, 4, 4, 4, 1]
    assert [(str(p), p.n_params, p.n_held) for p in script.POINTS] == [
        ("V 60000 clip", 44_333_280, 44_333_280),
        ("V 60000 no clip", 44_333_280, 44_333_280),
        ("V 10000 clip", 24_283_280, 24_283_280),
        ("V 10000 no clip", 24_283_280, 24_283_280),
        ("V 60000 clip, 3 groups frozen", 2_546_400, 44_333_280),
    ]


def test_bytes_are_counted_from_passes_over_memory(steps: ModuleType) -> None:
    point = steps.Point(**TINY)
    unclipped = dataclasses.replace(point, clips=False)
    found = {
        impl: [each.n_bytes(p) / point.n_params for p in (point, unclipped)]
        for impl, each in steps.IMPLEMENTATIONS.items()
    }
    assert found == {
        "ulmfit_fast": [32, 28],
        "ulmfit_fast_graph": [32, 28],
        "torch_loop": [92, 80],
        "torch_foreach": [92, 80],
        "torch_default": [92, 80],
        "torch_fused": [40, 28],
        "torch_fused_scaled": [36, 28],
        "fastai": [100, 88],
        "apex": [40, 28],
    }


def test_every_group_has_its_own_rate(steps: ModuleType) -> None:
    network = steps.Network(steps.Point(**TINY), "cpu")
    rows = steps.settings_of(network.groups)
    assert [row["lr"] for row in rows] == [4e-3 / 2.6**k for k in (4, 3, 2, 1, 0)]
    shared = {(row["betas"], row["eps"], row["weight_decay"]) for row in rows}
    assert shared == {((0.7, 0.99), 1e-8, 0.01)}


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("n_frozen", [0, 3])
def test_every_implementation_passes_the_check(steps: ModuleType, impl: str, n_frozen: int) -> None:
    network = steps.Network(steps.Point(**TINY, n_frozen=n_frozen), "cpu")
    _, error = steps.build_checked(impl, network)
    assert 0 < error < steps.ALLOWED_ERROR
    frozen = [p for group in network.groups[:n_frozen] for p in group]
    firsts = network.first_params[: len(frozen)]
    assert all(torch.equal(p, first) for p, first in zip(frozen, firsts, strict=True))


@pytest.mark.peer
def test_fastai_passes_the_check(steps: ModuleType) -> None:
    pytest.importorskip("fastai")
    network = steps.Network(steps.Point(**TINY), "cpu")
    assert 0 < steps.build_checked("fastai", network)[1] < steps.ALLOWED_ERROR


@pytest.mark.parametrize("wrong", ["no clip", "one rate for all", "decay left out"])
def test_check_refuses_a_wrong_step(
    steps: ModuleType, replace: Callable[..., None], wrong: str
) -> None:
    changes = {"one rate for all": {"lr": steps.LR}, "decay left out": {"weight_decay": 0.0}}

    def build(groups: Any, max_grad_norm: float) -> Callable[[], object]:
        rows = [{**row, **changes.get(wrong, {})} for row in steps.settings_of(groups)]
        norm = None if wrong == "no clip" else max_grad_norm
        return steps._clipped(groups, norm, torch.optim.AdamW(rows).step)

    # Wide enough that the norm of the gradients, of 1e-3 each, is above 0.25.
    network = steps.Network(steps.Point(100, E=80, H=120), "cpu")
    replace("torch_fused", build)
    replace("ulmfit_fast", build)
    step, _, reason = steps.build_or_leave_out("torch_fused", network)
    assert step is None
    assert reason.startswith("not the same work: torch_fused is ")
    with pytest.raises(AssertionError, match=r"ulmfit_fast is .* 1e-05 is allowed"):
        steps.build_or_leave_out("ulmfit_fast", network)


def test_what_cannot_be_measured_is_left_out(
    steps: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "find_spec", lambda name: None)
    clip, unclipped = (steps.Point(**TINY, clips=clips) for clips in (True, False))
    assert "requirements/peers.txt" in steps.why_left_out("fastai", clip, "cpu")
    assert "CUDA extensions" in steps.why_left_out("apex", clip, "cuda")
    assert steps.why_left_out("ulmfit_fast_graph", clip, "cpu") == "needs --device cuda"
    assert steps.why_left_out("torch_loop", unclipped, "cpu") == "timed with clipping only"
    assert steps.why_left_out("torch_fused", unclipped, "cpu") is None
    monkeypatch.setattr(steps.machine, "free_bytes", lambda device: 2**20)
    assert "GiB are free" in steps.why_too_large(steps.Point(60000), "cpu")
    assert steps.why_too_large(clip, "cpu") is None


def test_floor_is_traffic_and_one_more_read_for_the_norm(bandwidth: ModuleType) -> None:
    rates = bandwidth.Rates(read=20.0, traffic=14.0)
    found = bandwidth.floor(10**6, True, rates, 7.0, p50_ms=4.4)
    assert found["floor_by"] == "adamw traffic"
    assert found["floor_ms"] == pytest.approx(28 / 14 + 4 / 20)
    assert found["floor_fraction"] == pytest.approx(0.5)
    assert bandwidth.floor(10**6, False, rates, 7.0, 4.0)["floor_ms"] == pytest.approx(28 / 14)
    copied = bandwidth.floor(10**6, True, rates._replace(traffic=None), 7.0, 4.0)
    assert copied["floor_by"] == "copy"
    assert copied["floor_ms"] == pytest.approx(28 / 7 + 4 / 20)


def test_torch_measures_where_there_is_no_compiler(
    bandwidth: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(bandwidth.shutil, "which", lambda name: None)
    with bandwidth.meter("cpu") as (rates_of, reason):
        rates = rates_of(1000)
    assert reason == "no C++ compiler (c++, g++, clang++) to measure it with"
    assert rates.read > 0
    assert rates.traffic is None


def test_compiler_that_fails_is_named(
    bandwidth: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CXX", sys.executable)
    reason = bandwidth.why_not_compiled(tmp_path / "traffic")
    assert reason.startswith(f"{Path(sys.executable).name} cannot compile adamw_traffic.cpp: ")


def test_launches_are_counted_for_each_case(
    script: ModuleType, steps: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = [steps.Point(**TINY), steps.Point(**TINY, clips=False)]
    cases = [{"impl": i, "case": str(p)} for p in points for i in ("ulmfit_fast", "torch_fused")]
    numbers = iter(range(4))
    monkeypatch.setattr(script, "launches", lambda step: (step(), next(numbers))[1])
    script.count_launches(cases, points, "cpu")
    assert [case["launches"] for case in cases] == [0, 1, 2, 3]


def test_record_has_every_implementation_or_a_reason(
    script: ModuleType, steps: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(steps, "find_spec", lambda name: None)  # fastai's imports take seconds
    record = json.loads(json.dumps(script.compare(2, "cpu", quick=True)))
    timed = {f"{case['impl']} {case['case']}" for case in record["cases"]}
    left_out = {each["case"] for each in record["left_out"]} - {"adamw_traffic_gb_per_s"}
    wanted = {f"{impl} {p}" for impl in steps.IMPLEMENTATIONS for p in script.QUICK_POINTS}
    assert (timed | left_out, timed & left_out) == (wanted, set())
    for case in record["cases"]:
        p50_ms = case["time_ms"]["p50"]
        assert case["floor_fraction"] == pytest.approx(case["floor_ms"] / p50_ms)
        assert case["gb_per_s"] == pytest.approx(case["n_bytes"] / p50_ms / 1e6)
        assert 0 < case["error"] < steps.ALLOWED_ERROR
        assert case["launches"] is None
    pairs = {(*ratio["ours"], *ratio["peer"]) for ratio in record["ratios"]}
    peers = [c for c in record["cases"] if c["impl"] != "ulmfit_fast"]
    assert pairs == {("ulmfit_fast", c["case"], c["impl"], c["case"]) for c in peers}
    assert record["machine"]["read_gb_per_s"] > 0
    lines = script.lines(record)
    assert len(lines) == len(timed) + len(pairs) + len(record["left_out"])
    texts = report_of(record, tmp_path)
    for case in record["cases"]:
        row = f"| {case['case']} | `{case['impl']}`: {case['what']} |"
        assert (row in texts["docs"], row in texts["readme"]) == (True, case["case"] == "V 60 clip")


def report_of(record: dict[str, Any], folder: Path) -> dict[str, str]:
    """Return what the report writes into README and docs for one record."""
    readme = folder / "README.md"
    readme.write_text("<!-- benchmarks:begin -->\n<!-- benchmarks:end -->\n")
    (folder / "optimizer-side-by-side--a-cpu--20261125.json").write_text(json.dumps(record))
    options = ["--readme", str(readme), "--results", str(folder)]
    report = __import__("report")
    assert report.main(options) == 0
    assert report.main([*options, "--check"]) == 0
    return {"readme": readme.read_text(), "docs": (folder / "docs" / "benchmarks.md").read_text()}


def test_report_shows_steps_with_their_traffic(
    script: ModuleType, steps: ModuleType, tmp_path: Path
) -> None:
    frozen, launched = steps.Point(60000, n_frozen=3), {"floor_fraction": 0.55}
    cases = [
        {**script.case_record("ulmfit_fast", script.POINTS[0], [60.0] * 4), **launched},
        {**script.case_record("torch_fused", script.POINTS[0], [90.0] * 4), **launched},
        {**script.case_record("ulmfit_fast", frozen, [2.0] * 4), **launched},
    ]
    cases = [{**case, "launches": n} for case, n in zip(cases, (2, 23, None), strict=True)]
    speed = {"p20": 1.4, "p50": 1.5, "p80": 1.6, "of_medians": 1.5, "equal": False}
    ours, peer = ["ulmfit_fast", "V 60000 clip"], ["torch_fused", "V 60000 clip"]
    machine = {"cpu": "A CPU", "threads": 2, "torch": "2.13.0", "load_at_start": 0.1}
    rates = {"read_gb_per_s": 21.5, "copy_gb_per_s": 18.0, "adamw_traffic_gb_per_s": None}
    origin = {"date": "2026-11-25", "commit": "0123456789abcdef", "dirty": False}
    left_out = [{"case": "fastai V 60000 clip", "reason": "fastai is not installed"}]
    record = {**origin, "machine": {**machine, **rates}, "cases": cases, "left_out": left_out}
    ratios = [{"ours": ours, "peer": peer, **speed}]
    texts = report_of({**record, "ratios": ratios}, tmp_path)
    step = "`ulmfit_fast`: LayerwiseAdamW(max_grad_norm=0.25)"
    row = f"| 44.3 M | V 60000 clip | {step} | 60 | 60 to 60 | 32 | 23.6 | 0.55 | 2 |  |"
    peers = "`torch_fused`: clip_grad_norm_, AdamW(fused=True) | 90 | 90 to 90 | 40 | 19.7 | 0.55"
    last = f"| 2.5 M of 44.3 M | V 60000 clip, 3 groups frozen | {step} | 2 | 2 to 2 | 32 | 40.7 |"
    for text in texts.values():
        assert row in text
        assert f"| {peers} | 23 | 1.50x |" in text
        assert "Rates over 256 MiB arrays, GB/s: read 21.5, copy 18." in text
    assert (last in texts["readme"], last in texts["docs"]) == (False, True)
    assert f"{last} 0.55 | – |  |" in texts["docs"]
    assert "- left out, fastai is not installed: fastai V 60000 clip" in texts["docs"]


def test_run_knows_the_script(tmp_path: Path) -> None:
    options = SimpleNamespace(device="cpu", quick=True, grid="default", minutes=8.0)
    options.results = tmp_path
    commands = __import__("run").commands(options)
    assert commands["optimizer-side-by-side"] == [
        "benchmarks/optimizer_side_by_side.py",
        *("--device", "cpu", "--quick", "--results", str(tmp_path)),
    ]
