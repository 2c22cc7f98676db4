"""The command line in a real terminal: progress, tables, Ctrl-C, completion by a real shell."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from cli_runs import CACHE, SHORT, write_rows
from rich.cells import cell_len
from rich.text import Text
from terminals import HIDE, PROGRAM, SHOW, Terminal, cli, python

COLORS = re.compile(r"\x1b\[(?!(?:0|1|2|22)?m)[\d;]+m")
CODES = re.compile(r"\x1b\[[\d;?]*[A-Za-z]")
CACHED = {"XDG_CACHE_HOME": CACHE.name}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "train.csv", 60)
    return tmp_path


LIVE = """
import sys, time
from ulmfit_fast.training.observer import Step
from ulmfit_fast.training.progress import ConsoleProgress
observer = ConsoleProgress(stages={"pretrain": 2, "classifier": 3})
observer.stage_started("pretrain", 400, "24 M parameters, batches of 64 x about 70 tokens")
for step in range(1, 401):
    observer.step(Step("pretrain", step, 1 + step // 201, 2.0, 100, {"head": 0.01}, 0.8))
    time.sleep(0.01)
    if step == 200:
        observer.epoch_ended("pretrain", 1, {"valid_loss": 1.5, "perplexity": 4.48})
"""


@pytest.mark.parametrize("columns", [120, 40])
def test_a_run_fits_the_terminal_and_ends_with_tables(folder: Path, columns: int) -> None:
    terminal = Terminal(cli("train", "train.csv", *SHORT, "--no-report"), columns=columns,
                        more=CACHED)  # fmt: skip
    status, shown = terminal.finish()
    assert status == 0, shown
    lines = Text.from_ansi(CODES.sub("", shown.replace("\r", "\n"))).plain.splitlines()
    assert re.search(r"stage 1 of 2  pretrain", shown)
    # Rows, paths and commands that are to be copied may be longer: they are never broken.
    long = [line for line in lines if cell_len(line) > columns]
    assert all(re.match(r" {10}|(model|log|figures|next|cache) ", line) for line in long), long
    assert "─" in shown  # a table of a terminal
    assert re.search(r"\bneg\b.*%.*%.*%", shown)
    assert shown.count(HIDE) >= 1
    assert shown.rindex(SHOW) > shown.rindex(HIDE)


def test_ctrl_c_gives_the_cursor_back_and_says_how_to_go_on(folder: Path) -> None:
    terminal = Terminal(
        cli("train", "train.csv", *SHORT, "--lm-epochs", "300"), more=CACHED
    )  # fmt: skip
    terminal.read_until(r"epoch 2/300 ")
    terminal.press("\x03")
    status, shown = terminal.finish()
    assert status == 130
    assert shown.rindex(SHOW) > shown.rindex(HIDE)
    assert "Traceback" not in shown
    assert "--resume" in shown[shown.rindex(SHOW) :]


def test_an_exception_that_nobody_catches_gives_the_cursor_back() -> None:
    status, shown = Terminal(python(LIVE + "    if step == 300:\n        1 / 0\n")).finish()
    assert status == 1
    assert "ZeroDivisionError" in shown
    assert shown.rindex(SHOW) > shown.rindex(HIDE)


def test_a_narrower_terminal_gets_narrower_lines() -> None:
    terminal = Terminal(python(LIVE + "observer.close()"), columns=120)
    terminal.read_until(r"epoch 2/2 .*tokens/s .*in this stage")
    terminal.resize(40)
    before = len(terminal.shown)
    terminal.read_until(r"in this stage\r\n  valid_loss", before)
    status, shown = terminal.finish()
    assert status == 0
    last = shown[shown.rindex("stage 1 of 2") :]
    widths = [cell_len(CODES.sub("", line)) for line in last.replace("\r", "\n").splitlines()]
    assert max(widths) <= 40


def test_no_color_has_none_and_a_dumb_terminal_no_codes() -> None:
    code = LIVE.replace("0.01)", "0.002)") + "observer.close()"
    _, colored = Terminal(python(code)).finish()
    _, plain = Terminal(python(code), more={"NO_COLOR": "1"}).finish()
    _, dumb = Terminal(python(code), more={"TERM": "dumb"}).finish()
    assert COLORS.search(colored)
    assert not COLORS.search(plain)
    assert "stage 1 of 2" in plain
    assert "\x1b" not in dumb
    assert "pretrain: epoch 1/2  valid_loss 1.5" in dumb


def test_a_pipe_gets_results_alone_while_the_terminal_shows_progress(folder: Path) -> None:
    reading, writing = os.pipe()
    terminal = Terminal(
        cli("train", "train.csv", *SHORT, "--no-report", "--json"), stdout=writing, more=CACHED
    )
    os.close(writing)
    status, shown = terminal.finish()
    with os.fdopen(reading) as file:
        summary = json.loads(file.read())
    assert status == 0
    assert summary["kind"] == "train"
    assert HIDE in shown
    assert '"kind"' not in shown


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_a_real_bash_completes_verbs_options_files_and_models(folder: Path) -> None:
    program = folder / "bin" / "ulmfit-fast"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{PROGRAM}" "$@"\n')
    program.chmod(0o755)
    (folder / "runs" / "first" / "model").mkdir(parents=True)
    path = f"{program.parent}:{os.environ['PATH']}"
    terminal = Terminal(["bash", "--norc", "--noprofile", "-i"], more={"PATH": path, "PS1": "$ "})
    terminal.press('bind "set enable-bracketed-paste off"; eval "$(ulmfit-fast completion bash)"; '
                   "echo rea''dy\n")  # fmt: skip
    terminal.read_until("ready\r\n")
    for typed, completed in (
        ("ulmfit-fast predi", "ulmfit-fast predict "),
        ("ulmfit-fast train --label-c", "ulmfit-fast train --label-column "),
        ("ulmfit-fast train tr", "ulmfit-fast train train.csv "),
        ("ulmfit-fast predict ru", "ulmfit-fast predict runs/first "),
        ("ulmfit-fast inspect ru", "ulmfit-fast inspect runs/first "),
    ):
        start = len(terminal.shown)
        terminal.press(f"{typed}\t")
        terminal.read_until(re.escape(completed), start)
        terminal.press("\x15")  # clears the line
    terminal.kill()
