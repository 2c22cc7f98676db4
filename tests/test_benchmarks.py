"""The benchmark report writes what the results say, and notices a README that says otherwise."""

from __future__ import annotations

import json
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
    }


def write_record(folder: Path, name: str, ours: float, load: float = 0.1) -> None:
    machine = {"cpu": "A CPU", "threads": 2, "torch": "2.13.0", "load_at_start": load}
    cases = [case("ulmfit_fast", (ours, ours)), case("torch", (40.0, 44.0))]
    origin = {"date": "2026-11-23", "commit": "0123456789abcdef", "dirty": False}
    record = {"schema": 1, **origin, "machine": machine, "cases": cases}
    (folder / name).write_text(json.dumps(record))


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
    assert "| `drop_connect` forward | H 1152 | float32 | 4 | 42 | – | 10x |" in text
    assert "A CPU, 2 threads; torch 2.13.0; 2026-11-23; commit 0123456789. " in text
    assert "PyTorch is `F.dropout(weight, 0.5)`" in text
    assert "99" not in text
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")


def test_report_calls_a_difference_inside_the_spread_equal(
    report: ModuleType, readme: Path
) -> None:
    write_record(readme.parent, "drop-connect--a-cpu--20261123.json", ours=40.0)
    run(report, readme)
    assert "| 40 | 42 | – | equal |" in readme.read_text()


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
