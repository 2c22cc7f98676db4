"""A bench run: sizes that fit, times in turns, a picture; wrong results and busy machines said."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cli_runs import json_of, run, succeed
from hypothesis import given
from hypothesis import strategies as st
from small_bench import small_kinds

from ulmfit_fast.bench import clock as clock_module
from ulmfit_fast.bench import machine
from ulmfit_fast.bench import run as run_module
from ulmfit_fast.bench.kinds import OURS, Check, Kind, Size
from ulmfit_fast.bench.run import Bench, choose_size, expected_s, run_bench
from ulmfit_fast.bench.speed_plot import draw_bench
from ulmfit_fast.commands import bench as command

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def found() -> Bench:
    """A run over all kinds, in both dtypes, whatever the processor has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "why_no_bf16", lambda device: None)
        # Enough on any machine: small kinds end after their sixty rounds.
        return run_bench(CPU, seconds=60.0, kinds=small_kinds())


def test_every_kind_is_measured_in_every_dtype(found: Bench) -> None:
    kinds = small_kinds()
    names = [(m.kind, m.dtype) for m in found.measured]
    assert names == [(k.name, str(d).removeprefix("torch.")) for k in kinds for d in k.dtypes]
    for each in found.measured:
        assert next(iter(each.times_ms)) == OURS
        assert set(each.ratios) == set(each.times_ms) - {OURS}
        assert all(3 <= spread.n <= 60 for spread in each.times_ms.values())
        assert all(0 < spread.p20 <= spread.p50 <= spread.p80 for spread in each.ratios.values())
    sizes = {m.kind: set() for m in found.measured}
    for each in found.measured:
        sizes[each.kind].add(str(each.size))
    assert all(len(each) == 1 for each in sizes.values())  # dtypes can be compared
    assert not found.left_out
    assert not found.wrong


def test_a_run_leaves_generators_and_settings_alone() -> None:
    state = torch.get_rng_state()
    settings = torch.backends.cudnn.rnn.fp32_precision, torch.backends.cuda.matmul.fp32_precision
    run_bench(CPU, seconds=0.2, kinds=small_kinds(["loss"]))
    assert torch.equal(torch.get_rng_state(), state)
    after = torch.backends.cudnn.rnn.fp32_precision, torch.backends.cuda.matmul.fp32_precision
    assert after == settings


def test_float32_is_whole_while_it_is_measured() -> None:
    with machine.whole_float32():
        assert torch.backends.cudnn.rnn.fp32_precision == "ieee"
        assert torch.backends.cuda.matmul.fp32_precision == "ieee"


def test_bfloat16_is_left_out_where_the_hardware_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "why_no_bf16", lambda device: "too old")
    result = run_bench(CPU, seconds=20.0, kinds=small_kinds(["lstm"]))
    assert [m.dtype for m in result.measured] == ["float32"]
    assert result.left_out == [
        "LSTM layer with weight drop, forward and backward, bfloat16: too old"
    ]


# --- sizes


class Clock:
    """Time that passes only where a call says so."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def perf_counter(self) -> float:
        return self.now_s

    def pass_s(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    for module in (clock_module, run_module):
        monkeypatch.setattr(module, "time", made)
    return made


def sleeping_kind(
    clock: Clock, seconds_of: dict[int, float], n_bytes: float = 0.0
) -> tuple[Kind, list[int]]:
    """Return a kind whose call at T takes its time, and the list of the sizes that were built."""
    built: list[int] = []

    def build(size: Size, dtype: torch.dtype, device: torch.device) -> dict:
        built.append(size.T)
        return {OURS: lambda: clock.pass_s(seconds_of[size.T])}

    kind = Kind(
        "sleep", "Sleep", 1.0, [Size(T=t) for t in sorted(seconds_of, reverse=True)],
        [torch.float32], cost=lambda s: s.T, n_bytes=lambda s: n_bytes * s.T, build=build,
        check=lambda dtype, device: Check(0.0, 1.0),
    )  # fmt: skip
    return kind, built


SPEEDS = {1: 0.001, 4: 0.004, 16: 0.016, 64: 0.064, 1024: 60.0}


@pytest.mark.parametrize(("budget", "chosen"), [(0.004, 1), (0.03, 4), (0.12, 16), (0.6, 64)])
def test_the_largest_size_that_fits_is_taken(clock: Clock, budget: float, chosen: int) -> None:
    kind, built = sleeping_kind(clock, SPEEDS)
    found = choose_size(kind, torch.float32, CPU, budget)
    assert not isinstance(found, str)
    assert found[0] == Size(T=chosen)
    assert 1024 not in built  # nobody waited for what cannot fit


def test_what_does_not_fit_is_said(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, _ = sleeping_kind(clock, {1: 0.05})
    assert choose_size(kind, torch.float32, CPU, 0.01) == (
        "it does not fit into the time: give more --seconds"
    )
    kind, built = sleeping_kind(clock, SPEEDS, n_bytes=1e9)
    monkeypatch.setattr(machine, "free_bytes", lambda device: 10_000_000_000)
    found = choose_size(kind, torch.float32, CPU, 100.0)
    assert not isinstance(found, str)
    assert found[0] == Size(T=4)
    assert max(built) == 4
    monkeypatch.setattr(machine, "free_bytes", lambda device: 1000)
    assert choose_size(kind, torch.float32, CPU, 9.0) == "there is not enough free memory"


@given(st.floats(1e-4, 1), st.floats(1e-6, 1e-3), st.floats(1, 100), st.floats(1.5, 50))
def test_expected_times_are_on_the_line(a: float, b: float, cost: float, ratio: float) -> None:
    costs = [cost, cost * ratio, cost * ratio * ratio]
    line = [a + b * c for c in costs]
    assert expected_s([*zip(costs[:2], line[:2], strict=True)], costs[2]) == pytest.approx(
        line[2], rel=1e-6
    )
    single = expected_s([(costs[0], line[0])], costs[1])
    assert line[0] <= single == pytest.approx(line[0] * math.sqrt(ratio))
    assert expected_s([(1.0, 5.0), (2.0, 3.0)], 9.0) == 3.0  # noise: never less than the last


# --- the machine


def test_the_machine_is_described() -> None:
    facts = machine.describe(CPU)
    assert json.loads(json.dumps(facts)) == facts
    assert facts["n_threads"] == torch.get_num_threads()
    assert "lstm_forward" in facts["kernels"]
    assert machine.free_bytes(CPU) > 1e6


@pytest.mark.parametrize(
    ("load", "n_cores", "busy"),
    [(None, 2, False), (0.4, 2, False), (0.6, 2, True), (3.0, 16, False)],
)
def test_a_busy_machine_is_told(load: float | None, n_cores: int, busy: bool) -> None:
    assert machine.is_busy(load, n_cores) is busy


# --- the command


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "KINDS", small_kinds())
    monkeypatch.setattr(machine, "load", lambda: 0.0)


def test_bench_writes_a_table_with_bars_that_fits_a_terminal() -> None:
    result = succeed("bench", "--seconds", "60")
    assert result.stderr == ""
    for expected in (
        "Clipped AdamW step over an AWD-LSTM", "H 24, V 120", "clip, AdamW(fused)",
        "ratios    torch's time over ulmfit_fast's", "checked   against float64",
    ):  # fmt: skip
        assert expected in result.stdout
    assert all(len(line) <= 85 for line in result.stdout.splitlines())
    assert "█" in result.stdout or "▏" in result.stdout
    assert "\x1b" not in result.stdout


@pytest.mark.parametrize("columns", ["40", "80", "200"])
def test_lines_fit_the_terminal(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    lines = succeed("bench", "--seconds", "1", "--only", "optimizer").stdout.splitlines()
    table = [line for line in lines if " ms" in line or " µs" in line]
    assert len(table) == 3
    assert max(map(len, table)) <= int(columns) + 5  # "even" may stand behind
    assert ("█" in "".join(table)) is (columns != "40")


def test_json_has_everything(tmp_path: Path) -> None:
    found = json_of(
        succeed("bench", "--seconds", "1", "--only", "loss", "--only", "lstm", "--threads", "1",
                "--json")
    )  # fmt: skip
    assert {each["kind"] for each in found["measured"]} == {"loss", "lstm"}
    first = found["measured"][0]
    assert first["check"]["error"] <= first["check"]["allowed"]
    assert first["times_ms"]["ulmfit_fast"]["n"] >= 3
    assert found["machine"]["n_threads"] == 1


def test_a_busy_machine_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "load", lambda: 99.0)
    stderr = succeed("bench", "--seconds", "1", "--only", "loss").stderr
    assert stderr.startswith("warning: the machine is busy (load 99.0 on ")


def test_a_wrong_result_is_not_timed_and_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(dtype: torch.dtype, device: torch.device) -> Check:
        return Check(0.5, 1e-6)

    kinds = [replace(kind, check=wrong) for kind in small_kinds(["loss"])]
    monkeypatch.setattr(command, "KINDS", kinds)
    monkeypatch.setattr(run_module, "why_no_bf16", lambda device: "too old")
    result = run("bench", "--seconds", "1")
    assert result.exit_code == 1
    assert "float32: WRONG, not timed (error 5.0e-01, allowed 1.0e-06)" in result.stdout
    assert result.stderr.splitlines()[-1].startswith("error: wrong results: loss float32")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--only", "softmax"), "--only softmax: give lstm, optimizer, loss, language_model"),
        (("--plot", "speed.gif"), "give a file that ends with"),
        (("--seconds", "0"), "--seconds"),
        (("--threads", "0"), "--threads"),
    ],
)
def test_bad_options_are_one_line(arguments: tuple[str, ...], message: str) -> None:
    result = run("bench", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_help_ends_with_an_example() -> None:
    assert "Example: ulmfit-fast bench" in succeed("bench", "--help").stdout


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_pictures_are_drawn(found: Bench, tmp_path: Path, suffix: str) -> None:
    picture = tmp_path / f"speed{suffix}"
    draw_bench(picture, found)
    first = picture.read_bytes()
    draw_bench(picture, found)
    assert picture.read_bytes() == first
    if suffix == ".svg":
        text = first.decode()
        for each in found.measured:
            assert each.title in text
        assert f"{found.measured[0].ratios['nn.LSTM, weight drop'].p50:.2f}x" in text


def test_a_picture_of_nothing_says_so(found: Bench, tmp_path: Path) -> None:
    draw_bench(tmp_path / "none.svg", replace(found, measured=[]))
    assert "nothing was timed" in (tmp_path / "none.svg").read_text()
