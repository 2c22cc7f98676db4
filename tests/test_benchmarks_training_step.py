"""The benchmarks of whole steps run the same work everywhere, check it, and lose no case."""

from __future__ import annotations

import dataclasses
import json
import lzma
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import ROOT

OURS = [("ulmfit_fast", "float32"), ("ulmfit_fast", "bfloat16"), ("reference", "float32")]
FASTAI = [("fastai", "float32"), ("fastai", "bfloat16")]
NAMES = ["lm-30k", "classifier-long", "classifier-short", "inference-short", "predict"]
SHORT_NAMES = [name for name in NAMES if name != "classifier-long"]


@pytest.fixture(autouse=True)
def _benchmarks_in_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


@pytest.fixture
def steps() -> ModuleType:
    return __import__("end_to_end_steps")


@pytest.fixture
def data() -> ModuleType:
    return __import__("end_to_end_data")


@pytest.fixture
def parts() -> ModuleType:
    return __import__("end_to_end_parts")


@pytest.fixture
def script() -> ModuleType:
    return __import__("training_step_side_by_side")


def tiny(data: ModuleType, name: str) -> Any:
    return next(case for case in data.CASES if case.name == name).tiny()


def errors_of(steps: ModuleType, case: Any, way: tuple[str, str], files: Any) -> tuple[float, ...]:
    expected = steps.Way("ulmfit_fast", "float32").build(case, "cpu", files).outcome()
    found: tuple[float, ...] = steps.distances(
        steps.Way(*way).build(case, "cpu", files).outcome(), expected
    )
    return found


def test_cases_are_those_of_the_issue(data: ModuleType) -> None:
    sizes = {case.name: (case.V, case.B, case.T, case.E, case.H) for case in data.CASES}
    assert sizes["lm-30k"] == (30000, 64, 72, 400, 1152)
    assert sizes["lm-60k"] == (60000, 64, 72, 400, 1152)
    assert sizes["lm-60k-bs72"] == (60000, 72, 72, 400, 1152)
    lengths = [len(doc) for doc in data.documents(data.CASES[3], data.Files())[0]]
    assert (lengths[0], len(lengths)) == (1450, 32)
    assert 180 < sum(lengths) / 32 < 360
    lengths = [len(doc) for doc in data.documents(data.CASES[4], data.Files())[0]]
    assert 10 < sum(lengths) / 64 < 14


def test_streams_go_on_from_batch_to_batch(data: ModuleType) -> None:
    first, second = data.lm_batches(tiny(data, "lm-30k"), data.Files(), 2)
    assert torch.equal(first.targets[:, :-1], first.ids[:, 1:])
    assert torch.equal(first.targets[:, -1], second.ids[:, 0])
    assert first.n_tokens == first.ids.numel()
    assert int(first.ids.min()) >= 9  # after the special tokens


def test_files_are_read(data: ModuleType, tmp_path: Path) -> None:
    texts = [f"text {n} has {'words ' * n}" for n in range(1, 8)]
    rows = ["label,text", *(f"{'np'[n % 2]},{text}" for n, text in enumerate(texts))]
    (tmp_path / "long.csv.xz").write_bytes(lzma.compress("\n".join(rows).encode()))
    (tmp_path / "short.label").write_text("\n".join(f"A:b {text}" for text in texts))
    (tmp_path / "lm.txt").write_text(" ".join(texts))
    files = data.Files(*(tmp_path / name for name in ("lm.txt", "long.csv.xz", "short.label")))
    for name in ("inference-long", "inference-short"):
        case = tiny(data, name)
        docs, labels = data.documents(case, files)
        assert [len(doc) for doc in docs] == sorted(map(len, docs), reverse=True)
        assert (len(docs), len(labels)) == (5, 5)
        assert "words" in data.predicted_text(case, files)[0]
    assert len(data.lm_batches(tiny(data, "lm-30k"), files, 2)) == 2
    with pytest.raises(SystemExit, match="--text has "):
        data.lm_batches(tiny(data, "lm-30k"), files, 2000)


@pytest.mark.parametrize("way", OURS[1:], ids=" ".join)
@pytest.mark.parametrize("name", NAMES)
def test_our_ways_do_the_same_work(
    steps: ModuleType, data: ModuleType, name: str, way: tuple[str, str]
) -> None:
    case = tiny(data, name)
    errors = errors_of(steps, case, way, data.Files())
    assert steps.is_right(case, steps.Way(*way), *errors)


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", FASTAI, ids=" ".join)
@pytest.mark.parametrize("name", NAMES)
def test_fastai_does_the_same_work(
    steps: ModuleType, data: ModuleType, name: str, way: tuple[str, str]
) -> None:
    pytest.importorskip("fastai")
    case = tiny(data, name)
    errors = errors_of(steps, case, way, data.Files())
    assert steps.is_right(case, steps.Way(*way), *errors)


@pytest.mark.parametrize("way", [*OURS, *FASTAI], ids=" ".join)
@pytest.mark.parametrize("name", ["lm-30k", "classifier-short"])
@pytest.mark.filterwarnings("ignore")
def test_a_step_moves_every_parameter(
    steps: ModuleType, data: ModuleType, name: str, way: tuple[str, str]
) -> None:
    if way[0] == "fastai":
        pytest.importorskip("fastai")
    work = steps.Way(*way).build(tiny(data, name), "cpu", data.Files())
    before = [p.detach().clone() for p in work.model.parameters()]
    work()
    after = list(work.model.parameters())
    assert all(not torch.equal(b, a) for b, a in zip(before, after, strict=True))
    assert all(p.grad is None or not p.grad.any() for p in after)


def test_check_is_without_dropout_and_takes_no_step(steps: ModuleType, data: ModuleType) -> None:
    work = steps.Way("ulmfit_fast", "float32").build(tiny(data, "lm-30k"), "cpu", data.Files())
    first, again = work.outcome(), work.outcome()
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert work.model.encoder.rnns[0].drop_p == 0.2


@pytest.mark.parametrize("impl", ["ulmfit_fast", "reference"])
def test_wrong_work_is_not_timed(
    script: ModuleType,
    steps: ModuleType,
    data: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    impl: str,
) -> None:
    wrong = ("ulmfit_fast", "bfloat16") if impl == "ulmfit_fast" else ("reference", "float32")
    monkeypatch.setattr(steps, "WAYS", (("ulmfit_fast", "float32"), wrong))
    outcome = steps.OurTraining.outcome

    def other(work: Any) -> Any:
        loss, *grads = outcome(work)
        is_wrong = (work.plain, work.dtype) == (impl == "reference", wrong[1])
        return [loss, *(1.2 * g if is_wrong else g for g in grads)]

    monkeypatch.setattr(steps.OurTraining, "outcome", other)
    if impl == "ulmfit_fast":
        with pytest.raises(AssertionError, match=r"gradients 2.* from ours"):
            script.build_works(tiny(data, "lm-30k"), "cpu", data.Files())
        return
    works, _, left_out = script.build_works(tiny(data, "lm-30k"), "cpu", data.Files())
    assert [str(way) for way in works] == ["ulmfit_fast float32"]
    assert left_out[0]["reason"].startswith("not the same work: reference float32 lm-30k: ")


def test_parts_of_a_step_are_told_apart(
    parts: ModuleType, steps: ModuleType, data: ModuleType
) -> None:
    case = dataclasses.replace(tiny(data, "lm-30k"), H=64, E=32, V=2000)
    work = steps.Way("ulmfit_fast", "float32").build(case, "cpu", data.Files())
    work()
    found = parts.measure(work, work.label, "cpu")
    names = {"LSTM", "softmax and loss", "embedding and dropouts", "AR and TAR", "optimizer"}
    assert names <= set(found["parts_ms"]) <= set(parts.PARTS)
    assert 20 < found["operations"] < 1000
    assert (found["kernels"], found["busy"]) == (None, None)
    assert "run" not in repr(work.optimizer.step)  # the labels are gone


def test_backward_belongs_to_the_part_of_its_forward(parts: ModuleType) -> None:
    class Part:
        def softmax(self, x: torch.Tensor) -> torch.Tensor:
            return x.softmax(dim=1)

    part, x = Part(), torch.randn(300, 300, requires_grad=True)
    models = __import__("end_to_end_models")
    with ExitStack() as stack:
        models.labelled(part, "softmax", "softmax and loss", stack)
        with torch.profiler.profile() as found:
            torch.autograd.backward(part.softmax(x * 2).sum())
    events = list(found.events())
    forward = {
        event.sequence_nr: "softmax and loss"
        for event in events
        if event.name == "aten::softmax" and event.sequence_nr >= 0
    }
    backward = [event for event in events if event.name == "aten::_softmax_backward_data"]
    assert parts.part_of(backward[0], forward) == "softmax and loss"
    assert parts.time_of_parts(events, "cpu")["softmax and loss"] > 0
    assert parts.operations(events) >= 5


def test_record_has_every_implementation_or_a_reason(
    script: ModuleType, steps: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(steps, "find_spec", lambda name: None)  # fastai's imports take seconds
    monkeypatch.setattr(script, "weigh_in_child", lambda case, way, options: 123.0)
    options = SimpleNamespace(
        device="cpu", quick=True, only=SHORT_NAMES, text=None, imdb=None, trec=None
    )
    record = json.loads(json.dumps(script.compare(options)))
    timed = {f"{c['impl']} {c['dtype']} {c['case']}" for c in record["cases"]}
    left_out = {each["case"] for each in record["left_out"]} - {"peak_mib"}
    wanted = {f"{impl} {dtype} {name}" for impl, dtype in steps.WAYS for name in SHORT_NAMES}
    assert (timed | left_out, timed & left_out) == (wanted, set())
    for case in record["cases"]:
        seconds = case["time_ms"]["p50"] / 1e3
        assert case["tokens_per_s"] == pytest.approx(case["n_tokens"] / seconds)
        assert case["gradient_error"] < 0.1
    pairs = {(*ratio["ours"], ratio["peer"][0]) for ratio in record["ratios"]}
    ours = [f"{i} {d}" for i, d in OURS[:2]]
    assert pairs == {(o, name, "reference float32") for o in ours for name in SHORT_NAMES}
    lines = script.lines(record)
    assert len(lines) == len(timed) + len(pairs) + len(record["left_out"])
    texts = report_of(record, tmp_path)
    assert "| language model step, V 120, 4 x 3 tokens | " in texts["readme"]
    for case in record["cases"]:
        row = f"| `{case['impl']}`: {case['what']} | {case['dtype']} |"
        assert (row in texts["docs"], row in texts["readme"]) == (True, False)
    assert "| one call, ms | implementation | dtype | LSTM | " in texts["docs"]
    assert "text drawn, imdb drawn, trec drawn" in texts["docs"]


def report_of(record: dict[str, Any], folder: Path) -> dict[str, str]:
    """Return what the report writes into README and docs for one record."""
    readme = folder / "README.md"
    readme.write_text("<!-- benchmarks:begin -->\n<!-- benchmarks:end -->\n")
    file = folder / "training-step-side-by-side--a-cpu--20261125.json"
    file.write_text(json.dumps(record))
    options = ["--readme", str(readme), "--results", str(folder)]
    report = __import__("report")
    assert report.main(options) == 0
    assert report.main([*options, "--check"]) == 0
    return {"readme": readme.read_text(), "docs": (folder / "docs" / "benchmarks.md").read_text()}


def test_report_says_whose_gradients_are_wrong(
    script: ModuleType, steps: ModuleType, data: ModuleType, tmp_path: Path
) -> None:
    case, cases = data.CASES[0], []
    counts = {"n_tokens": 4608, "n_docs": 0}
    for way, time_ms, error in [(OURS[1], 900.0, 3e-3), (FASTAI[0], 3600.0, 2e-7)]:
        record = script.case_record(case, steps.Way(*way), [time_ms] * 4, counts)
        cases.append({**record, "gradient_error": error, "busy": None})
    cases[1] |= {"parts_ms": {"LSTM": 1000.0, "rest": 9.0}, "operations": 1234, "peak_mib": 1999.6}
    cases.append({**cases[1], "dtype": "bfloat16", "gradient_error": 1.2})
    speed = {"p20": 3.9, "p50": 4.0, "p80": 4.1, "of_medians": 4.0, "equal": False}
    ratio = {"ours": ["ulmfit_fast bfloat16", "lm-30k"], "peer": ["fastai float32", "lm-30k"]}
    machine = {"cpu": "A CPU", "threads": 2, "torch": "2.13.0", "load_at_start": 0.1}
    origin = {"date": "2026-11-25", "commit": "0123456789abcdef", "dirty": False}
    record = {**origin, "machine": machine, "cases": cases, "ratios": [{**ratio, **speed}]}
    texts = report_of({**record, "data": {"text": "file"}, "left_out": []}, tmp_path)
    row = "| language model step, V 30000, 64 x 72 tokens | 900 | 3,600 | 3,600 |  | 4.00x |"
    assert row in texts["readme"]
    docs = "fastai`: Learner.one_batch | float32 | 3,600 | 3,600 to 3,600 | 1,280 | – | 2,000 | "
    assert f"{docs}1,234 | – | 2e-07 |  | 4.00x |" in texts["docs"]
    assert "**fastai bfloat16, lm-30k: its gradients are wrong here**" in texts["docs"]
    assert "tokens | fastai | float32 | 1,000 | 9 |" in texts["docs"]


def test_memory_is_that_of_weights_gradients_and_moments(script: ModuleType) -> None:
    if not script.CLEAR_PEAK.exists():
        pytest.skip("Linux only")
    program = """
import dataclasses, sys
sys.path.insert(0, "benchmarks")
import end_to_end_data as data, training_step_side_by_side as script
case = dataclasses.replace(data.CASES[0].tiny(), V=60000, E=100)
print(script.weigh(case, script.Way("ulmfit_fast", "float32"), "cpu", data.Files()))
"""
    command = [sys.executable, "-c", program]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    table_mib = 4 * 60000 * 100 / 2**20
    assert 4 * table_mib < float(ran.stdout) < 8 * table_mib


def test_what_cannot_be_measured_is_left_out(
    steps: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "find_spec", lambda name: None)
    monkeypatch.setattr(steps._native, "why_missing", lambda op, device: "not built")
    assert "requirements/peers.txt" in steps.Way("fastai", "float32").why_left_out("cpu")
    assert steps.Way("ulmfit_fast", "float32").why_left_out("cpu") == (
        "no kernel to measure: not built"
    )
    assert steps.Way("reference", "float32").why_left_out("cpu") is None


def test_run_knows_the_script(tmp_path: Path) -> None:
    options = SimpleNamespace(device="cpu", quick=True, grid="default", minutes=8.0)
    options.results = tmp_path
    commands = __import__("run").commands(options)
    assert commands["training-step-side-by-side"] == [
        "benchmarks/training_step_side_by_side.py",
        *("--device", "cpu", "--quick", "--results", str(tmp_path)),
    ]
