import io
import json
import math
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ulmfit_fast.training import progress
from ulmfit_fast.training.observer import Observer, Step
from ulmfit_fast.training.progress import ConsoleProgress, JsonlLog, format_metrics
from ulmfit_fast.training.progress_bar import DRAWN_PER_S

CONTROL_CODES = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")


def a_step(stage: str, step: int, loss: float, n_tokens: int = 700) -> Step:
    return Step(stage, step, 1, loss, n_tokens, {"embedding": 0.0, "head": 0.004}, 0.8)


def run_stage(observer: Observer, losses: list[float], stage: str = "pretrain") -> None:
    observer.stage_started(stage, len(losses), "language model [on 12 texts]")
    for index, loss in enumerate(losses, start=1):
        observer.step(a_step(stage, index, loss))
    observer.epoch_ended(stage, 1, {"valid_loss": 3.25, "perplexity": 25.79, "accuracy": 0.5})
    observer.stage_ended(stage, 1.25, {"valid_loss": 3.25})
    observer.close()


def test_observer_does_nothing():
    run_stage(Observer(), [1.0, 2.0])


def test_log_has_one_object_a_line_for_every_event(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    run_stage(JsonlLog(path), [4.0, 3.5])
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["event"] for record in records] == [
        "stage_started",
        "step",
        "step",
        "epoch_ended",
        "stage_ended",
    ]
    assert all(record["stage"] == "pretrain" and record["time"] > 1e9 for record in records)
    step = records[2]
    assert (step["step"], step["loss"], step["lr"], step["n_tokens"]) == (2, 3.5, 0.004, 700)
    assert step["tokens_per_s"] > 0
    assert records[0]["n_steps"] == 2
    assert records[3]["perplexity"] == 25.79
    assert records[4]["seconds"] == 1.25


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_log_writes_null_for_a_number_that_json_has_not(tmp_path: Path, loss: float):
    path = tmp_path / "metrics.jsonl"
    run_stage(JsonlLog(path), [loss])
    step = json.loads(path.read_text().splitlines()[1], parse_constant=pytest.fail)
    assert step["loss"] is None


def test_log_is_made_by_its_first_event_and_flushed_with_every_line(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    log = JsonlLog(path)
    assert not path.exists()
    log.stage_started("finetune_lm", 3, "")
    assert path.read_text().endswith("}\n")
    log.step(a_step("finetune_lm", 1, 1.0))
    assert len(path.read_text().splitlines()) == 2
    log.close()
    log.close()


def test_log_continues_a_file_that_is_there(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    run_stage(JsonlLog(path), [1.0])
    run_stage(JsonlLog(path), [1.0], stage="classifier")
    stages = [json.loads(line)["stage"] for line in path.read_text().splitlines()]
    assert stages == ["pretrain"] * 4 + ["classifier"] * 4


def test_plain_output_has_a_line_a_stage_and_an_epoch_and_no_control_codes():
    stream = io.StringIO()
    run_stage(ConsoleProgress(stream), [4.0, 3.5])
    lines = stream.getvalue().splitlines()
    assert lines == [
        "  pretrain: language model [on 12 texts] (2 steps)",
        "  pretrain: epoch 1  valid_loss 3.25  perplexity 25.79  accuracy 50.00 %",
        "  pretrain: done in 1.2 s  valid_loss 3.25",
    ]
    assert not CONTROL_CODES.search(stream.getvalue())


def test_plain_output_shows_steps_of_a_long_epoch(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(progress, "PLAIN_INTERVAL_S", 0.0)
    stream = io.StringIO()
    run_stage(ConsoleProgress(stream, indent=0), [4.0, 3.0])
    steps = [line for line in stream.getvalue().splitlines() if "step " in line]
    assert re.fullmatch(r"pretrain: step 1/2  loss 4\.000  [\d.]+k? tokens/s", steps[0])
    assert "loss 3.495" in steps[1]  # (0.98 * 4 + 3) / 1.98: the average is corrected for its start


def test_rate_leaves_out_the_time_between_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    clock = iter([0.0, 0.0, 1.0, 9.0, 10.0])  # made, started, step, epoch's end, step
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(clock))
    log = JsonlLog(tmp_path / "metrics.jsonl")
    log.stage_started("pretrain", 2, "")
    log.step(a_step("pretrain", 1, 4.0))
    log.epoch_ended("pretrain", 1, {})
    log.step(a_step("pretrain", 2, 4.0))
    log.close()
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [r["tokens_per_s"] for r in records if r["event"] == "step"] == [700.0, 700.0]


def test_plain_output_keeps_a_long_line_whole():
    stream = io.StringIO()
    observer = ConsoleProgress(stream)
    observer.stage_started("pretrain", 1, "x" * 500)
    assert len(stream.getvalue().splitlines()) == 1


def test_plain_output_is_silent_about_texts_unless_they_take_long(monkeypatch: pytest.MonkeyPatch):
    stream = io.StringIO()
    observer = ConsoleProgress(stream, indent=0)
    for done in (20, 40, 50):
        observer.texts_done("vocabulary", done, 50)
    assert not stream.getvalue()
    monkeypatch.setattr(progress, "PLAIN_INTERVAL_S", 0.0)
    for done in (20, 50):
        observer.texts_done("ids", done, 50)
    assert stream.getvalue() == "ids: 20/50 texts\n"


def test_what_forces_colors_forces_no_codes_into_a_file(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    stream = io.StringIO()
    run_stage(ConsoleProgress(stream), [4.0, 3.5])
    assert not CONTROL_CODES.search(stream.getvalue())


class TerminalFile(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_terminal(monkeypatch: pytest.MonkeyPatch, **arguments: object) -> ConsoleProgress:
    """Return progress on a terminal that is a string, 120 columns wide."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    return ConsoleProgress(TerminalFile(), **arguments)


def test_memory_of_a_gpu_is_asked_for_twice_a_second_and_shown(monkeypatch: pytest.MonkeyPatch):
    asked: list[object] = []

    def memory(device: object) -> tuple[int, int]:
        asked.append(device)
        return 79_200_000_000 - 12_300_000_000, 79_200_000_000

    def refuse(*_: object) -> None:
        raise AssertionError("waits for the GPU")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", memory)
    monkeypatch.setattr(torch.cuda, "synchronize", refuse)
    observer = on_terminal(monkeypatch, device="cuda:1")
    observer.stage_started("pretrain", 500, "")
    for step in range(1, 401):
        observer.step(a_step("pretrain", step, 4.0))
    assert set(asked) == {"cuda:1"}
    assert len(asked) < 10
    assert "GPU 12.3 of 79.2 GB" in observer._facts()
    observer.close()
    assert progress.gpu_memory("cpu") is None
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    assert progress.gpu_memory("cuda") is None


def test_progress_costs_less_than_a_hundredth_of_a_short_step(monkeypatch: pytest.MonkeyPatch):
    observer = on_terminal(monkeypatch, stages={"pretrain": 2, "classifier": 2})
    observer.stage_started("pretrain", 10_000, "")
    observer.step(a_step("pretrain", 1, 4.0))
    assert observer._bar is not None

    def seconds(call: Callable[[int], object], n: int) -> float:
        """Processor time of this thread alone: other work on the machine does not count."""
        started = time.thread_time()
        for number in range(n):
            call(number)
        return (time.thread_time() - started) / n

    a_call = seconds(lambda n: observer.step(a_step("pretrain", 2 + n, 4.0)), 2_000)
    a_drawing = seconds(lambda _: observer._bar._live.refresh(), 50)
    observer.close()
    step_s = 0.010  # a small model on a CPU; on a GPU one step in twenty is told of
    assert a_call / step_s + a_drawing * DRAWN_PER_S < 0.01


LIVE = """
import time
from ulmfit_fast.training.observer import Step
from ulmfit_fast.training.progress import ConsoleProgress
observer = ConsoleProgress()
observer.stage_started("classifier", 40, "8 classes")
for step in range(1, 41):
    observer.step(Step("classifier", step, 1, 2.0, 100, {"head": 0.01}, 0.8))
    time.sleep(0.02)
observer.epoch_ended("classifier", 1, {"valid_loss": 1.5})
raise SystemExit(observer.close())
"""


LIVE_TEXTS = """
import time
from ulmfit_fast.training.progress import ConsoleProgress
observer = ConsoleProgress()
for done in range(40, 400, 40):
    observer.texts_done("vocabulary", done, 360)
    time.sleep(0.05)
observer.texts_done("ids", 9, 9)
"""


def shown_in_a_terminal(code: str) -> str:
    """Return what a program writes to a terminal on its standard error."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "120", "NO_COLOR": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", code], stderr=theirs, stdout=subprocess.DEVNULL, env=environment
    ) as process:
        os.close(theirs)
        shown = b""
        while chunk := _read(ours):
            shown += chunk
        assert process.wait() == 0
    os.close(ours)
    return shown.decode()


def test_terminal_shows_a_bar_of_texts_that_goes_away():
    text = shown_in_a_terminal(LIVE_TEXTS)
    assert re.search(r"vocabulary.*\d+/360 texts", text)
    assert "ids" not in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


def test_terminal_shows_a_bar_and_leaves_the_cursor_visible():
    text = shown_in_a_terminal(LIVE)
    assert re.search(r"classifier.*\d+/40", text)
    assert re.search(r"epoch 1  loss 2\.000  .*tokens/s  \d:\d\d left", text)
    assert "epoch 1  valid_loss 1.5" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # cursor shown after it was hidden


def _read(descriptor: int) -> bytes:
    """Read a terminal, whose end Linux reports as an error once the other side is closed."""
    try:
        return os.read(descriptor, 65536)
    except OSError:
        return b""


@pytest.mark.parametrize(
    ("metrics", "text"),
    [
        ({"loss": 1.23456}, "loss 1.235"),
        ({"valid_accuracy": 0.87654}, "valid_accuracy 87.65 %"),
        ({"error": 0.25, "n": 500}, "error 25.00 %  n 500"),
        ({"perplexity": 123456.7}, "perplexity 123457"),
        ({"loss": math.nan}, "loss nan"),
        ({}, ""),
    ],
)
def test_metrics_for_people(metrics: dict[str, float], text: str):
    assert format_metrics(metrics) == text


def test_a_stage_that_goes_on_names_the_epoch_it_keeps_by_its_number() -> None:
    stream = io.StringIO()
    observer = ConsoleProgress(stream, stages={"pretrain": 4})
    observer.stage_resumed("pretrain", 40, "language model", 20)
    observer.epoch_ended("pretrain", 3, {"valid_loss": 2.0, "seconds": 1.0})
    observer.epoch_ended("pretrain", 4, {"valid_loss": 1.5, "seconds": 1.0})
    observer.stage_ended("pretrain", 2.0, {"valid_loss": 1.5, "seconds": 1.0})
    assert "pretrain: goes on after step 20; language model (40 steps)" in stream.getvalue()
    assert "keeps epoch 4" in stream.getvalue()
