"""The benchmark report writes what the results say, and notices a README that says otherwise."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import ROOT


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return __import__("report")


def case(impl: str, medians: tuple[float, float]) -> dict[str, Any]:
    return {
        "op": "drop_connect",
        "mode": "forward",
        "impl": impl,
        "what": "F.dropout(weight, 0.5)" if impl == "torch" else "our function",
        "dtype": "float32",
        "sizes": {"H": 1152},
        "time_ms": {"p20": medians[0], "p50": sum(medians) / 2, "p80": medians[1], "n": 9},
        "repeat_p50_ms": list(medians),
        "floor_fraction": 0.5,
    }


def write_record(folder: Path, name: str, ours: float, load: float = 0.1) -> None:
    write(folder / name, [case("ulmfit_fast", (ours, ours)), case("torch", (40.0, 44.0))], load)


def write(file: Path, cases: list[dict[str, Any]], load: float = 0.1, **more: Any) -> None:
    machine = {"cpu": "A CPU", "threads": 2, "torch": "2.13.0", "load_at_start": load}
    origin = {"date": "2026-11-23", "commit": "0123456789abcdef", "dirty": False}
    record = {"schema": 1, **origin, "machine": machine, "cases": cases, **more}
    file.write_text(json.dumps(record))


def lstm_case(impl: str, time_ms: float, B: int = 64, mode: str = "forward+backward") -> Any:
    sizes = {"T": 70, "B": B, "H": 1152}
    named = {"op": "lstm", "mode": mode, "sizes": sizes, "what": f"the {impl}", "floor_ms": 9.0}
    return {**case(impl, (time_ms, time_ms)), **named}


def write_lstm(folder: Path) -> None:
    cases = [lstm_case("ulmfit_fast", 200.0), lstm_case("torch", 500.0)]
    cases += [lstm_case("torch_undropped", 450.0), lstm_case("reference", 2000.0)]
    cases += [lstm_case("ulmfit_fast", 77.0, B=16), lstm_case("ulmfit_fast", 66.0, mode="forward")]
    left_out = [{"case": "test_lstm[later]", "reason": "out of time"}]
    write(folder / "lstm--a-cpu--20261123.json", cases, left_out=left_out)


@pytest.fixture
def readme(tmp_path: Path) -> Path:
    file = tmp_path / "README.md"
    file.write_text("before\n<!-- benchmarks:begin -->\nold\n<!-- benchmarks:end -->\nafter\n")
    return file


def run(report: ModuleType, readme: Path, *options: str) -> int:
    status = report.main(["--readme", str(readme), "--results", str(readme.parent), *options])
    return int(status)


def test_report_writes_the_newest_result_and_keeps_the_rest(
    report: ModuleType, readme: Path
) -> None:
    write_record(readme.parent, "drop-connect--a-cpu--20261122.json", ours=99.0)
    write_record(readme.parent, "drop-connect--a-cpu--20261123.json", ours=4.0)
    assert run(report, readme, "--check") == 1
    assert run(report, readme) == 0
    assert run(report, readme, "--check") == 0
    text = readme.read_text()
    assert "| `drop_connect` forward | H 1152 | float32 | 4 | 42 | 10x |" in text
    assert "A CPU, 2 threads; torch 2.13.0; 2026-11-23; commit 0123456789. " in text
    assert "PyTorch is `F.dropout(weight, 0.5)`" in text
    assert "99" not in text
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")


def test_readme_has_the_newest_machine_of_a_case_and_docs_have_all(
    report: ModuleType, readme: Path
) -> None:
    write_record(readme.parent, "drop-connect--b-cpu--20261122.json", ours=99.0)
    write_record(readme.parent, "drop-connect--a-cpu--20261123.json", ours=4.0)
    assert run(report, readme) == 0
    assert "| 4 | 42 | 10x |" in readme.read_text()
    assert "99" not in readme.read_text()
    docs = (readme.parent / "docs" / "benchmarks.md").read_text()
    assert "| 99 | 42 |" in docs
    assert "| 4 | 42 |" in docs


def test_command_of_a_record_names_no_place_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setattr(sys, "argv", ["-", "--device", "cpu", f"--results={ROOT}/benchmarks"])
    command = __import__("machine").origin("python it.py")["command"]
    assert command == "python it.py --device cpu --results=benchmarks"


def test_report_calls_a_difference_inside_the_spread_equal(
    report: ModuleType, readme: Path
) -> None:
    write_record(readme.parent, "drop-connect--a-cpu--20261123.json", ours=40.0)
    run(report, readme)
    assert "| 40 | 42 | equal |" in readme.read_text()


def test_report_of_no_results_is_empty(report: ModuleType, readme: Path) -> None:
    assert run(report, readme) == 0
    assert "<!-- benchmarks:begin -->\n<!-- benchmarks:end -->" in readme.read_text()


def test_report_marks_times_of_a_busy_machine(report: ModuleType, readme: Path) -> None:
    write_record(readme.parent, "drop-connect--a-cpu--20261123.json", ours=4.0, load=3.5)
    run(report, readme)
    assert "**busy machine, load 3.5**" in readme.read_text()


def test_report_refuses_a_readme_without_markers(
    report: ModuleType, readme: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    readme.write_text("nothing to fill\n")
    assert run(report, readme) == 2
    assert "README.md: no <!-- benchmarks:begin -->" in capsys.readouterr().err
    assert readme.read_text() == "nothing to fill\n"


def test_report_shows_training_in_the_readme_and_all_in_docs(
    report: ModuleType, readme: Path
) -> None:
    write_lstm(readme.parent)
    assert run(report, readme) == 0
    text, docs = readme.read_text(), (readme.parent / "docs" / "benchmarks.md").read_text()
    row = "| `lstm` forward+backward | T 70, B 64, H 1152 | float32 | 200 | 500 | "
    assert f"{row}2,000 | 2.5x |" in text
    assert f"{row}450 | 2,000 | 2.5x | 0.5 |" in docs
    assert ("77" in text, "66" in text) == (False, False)
    assert ("| 77 | – | – | – |" in docs, "| 66 | – | – | – |" in docs) == (True, True)
    assert "- left out, out of time: test_lstm[later]" in docs
    (readme.parent / "docs" / "benchmarks.md").write_text("another")
    assert run(report, readme, "--check") == 1


def test_report_shows_a_side_by_side_run(report: ModuleType, readme: Path) -> None:
    cases = [
        {**lstm_case("ulmfit_fast", 200.0), "network_mib": 80.1, "peak_mib": 310.4},
        lstm_case("fastai", 950.0),
    ]
    speed = {"p20": 4.5, "p50": 4.75, "p80": 5.0, "of_medians": 4.7, "equal": False}
    ratio = {"ours": ["ulmfit_fast", "float32"], "peer": ["fastai", "float32"], **speed}
    write(readme.parent / "lstm-side-by-side--a-cpu--20261123.json", cases, ratios=[ratio])
    assert run(report, readme) == 0
    text = readme.read_text()
    assert "| peak, MiB | speed of ulmfit_fast float32 |" in text
    assert "| the ulmfit_fast | float32 | 200 | 200 to 200 | 80 | 310 |  |" in text
    assert "| the fastai | float32 | 950 | 950 to 950 | – | – | 4.75x |" in text
    assert "9 rounds in turns" in text


def test_report_draws_the_lstm_and_notices_an_old_plot(report: ModuleType, readme: Path) -> None:
    pytest.importorskip("matplotlib")
    write_lstm(readme.parent)
    assert run(report, readme) == 0
    plot = readme.parent / "lstm--a-cpu.svg"
    drawn = plot.read_text()
    assert "lstm--a-cpu--20261123.json sha256:" in drawn
    assert "](lstm--a-cpu.svg)" in readme.read_text()
    assert run(report, readme) == 0
    assert plot.read_text() == drawn
    plot.write_text(drawn.replace("sha256:", "sha256:0"))
    assert run(report, readme, "--check") == 1


def test_report_checks_without_matplotlib(
    report: ModuleType, readme: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    write_lstm(readme.parent)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(report, "find_spec", lambda name: None)
    assert run(report, readme) == 0
    assert "left out: plots" in capsys.readouterr().out
    assert run(report, readme, "--check") == 1
    assert "lstm--a-cpu.svg: not that of the results" in capsys.readouterr().err
