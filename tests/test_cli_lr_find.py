"""`ulmfit-fast lr-find` on small data: its stages, its plot, and the command it gives."""

from __future__ import annotations

import io
import json
import math
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from cli_runs import SHORT, files_under, json_of, run, succeed, train_small, write_rows
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from ulmfit_fast.commands import text_plot

FEW = ("--steps", "30", "--batch-size", "8", "--no-cache")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with train.csv, and a finished run of it."""
    place = tmp_path_factory.mktemp("lr_find")
    train_small(place)
    return place


def test_help_ends_with_an_example_and_needs_no_torch() -> None:
    code = (
        "import sys\n"
        "from ulmfit_fast.cli import main\n"
        "main(['lr-find', '--help'], standalone_mode=False)\n"
        "assert not {'torch', 'numpy', 'rich', 'matplotlib'} & set(sys.modules), 'early'\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "Example: ulmfit-fast lr-find" in ran.stdout


def test_classifier_from_a_base_says_what_to_run(place: Path) -> None:
    before = files_under(place)
    output = succeed("lr-find", place / "train.csv", "--base", place / "run", *FEW).stdout
    assert files_under(place) == before
    for expected in (
        "stage     classifier, from",
        "layers    head (first phase",
        "v valley",
        "1e-5",
    ):
        assert expected in output
    assert all(len(line) <= 72 for line in output.splitlines() if "█" in line or "└" in line)
    command = next(line for line in output.splitlines() if line.startswith("use")).split(None, 1)[1]
    words = shlex.split(command)
    assert words[:4] == ["ulmfit-fast", "train", str(place / "train.csv"), "--base"]
    assert words[-2] == "--lr"
    assert 1e-7 < float(words[-1]) < 10


def test_the_command_runs_and_its_rate_is_taken(place: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "other.csv", 60)
    found = json_of(succeed("lr-find", tmp_path / "other.csv", "--size", "tiny", *FEW, "--json"))
    assert found["stage"] == "pretrain"
    words = shlex.split(found["command"])
    assert words[-2] == "--lm-lr"
    short = [word for word in SHORT if word not in ("--size", "tiny", "--batch-size", "16")]
    arguments = [*words[1:], *short, "--out", str(tmp_path / "run"), "--lr", "0.02", "--json"]
    config = json_of(succeed(*arguments))["config"]
    assert config["pretrain"]["lr"] == float(words[-1])
    assert config["classifier"]["lr"] == 0.02


def test_pretrain_takes_text_and_gives_its_own_option(tmp_path: Path) -> None:
    lines = [f"a line with number {i} and some more words" for i in range(80)]
    (tmp_path / "my text.txt").write_text("\n".join(lines))
    arguments = ("--stage", "pretrain", "--size", "tiny", "--seed", "3", *FEW)
    found = json_of(succeed("lr-find", tmp_path / "my text.txt", *arguments, "--json"))
    words = shlex.split(found["command"])
    assert words[:3] == ["ulmfit-fast", "pretrain", str(tmp_path / "my text.txt")]
    assert words[words.index("--seed") + 1] == "3"
    assert words[-2] == "--lr"
    assert len(found["rates"]) == len(found["losses"]) == len(found["raw_losses"])
    assert found["suggestions"].keys() == {"valley", "steep", "minimum"}
    again = json_of(succeed("lr-find", tmp_path / "my text.txt", *arguments, "--json"))
    assert again == found
    out = tmp_path / "run"
    succeed(*words[1:], "--epochs", "1", "--out", out, "--no-cache")
    trained = json.loads((out / "run.json").read_text())["config"]["pretrain"]
    assert trained["lr"] == float(words[-1])


def test_language_model_from_a_base(place: Path) -> None:
    arguments = ("--base", place / "run", "--stage", "language-model", *FEW)
    output = succeed("lr-find", place / "train.csv", *arguments).stdout
    assert "stage     language-model, from" in output
    assert "embedding (first phase of the stage)" in output
    assert "--lm-lr" in output


@pytest.mark.parametrize("suffix", [".svg", ".png", ".pdf"])
def test_pictures_are_written(place: Path, tmp_path: Path, suffix: str) -> None:
    picture = tmp_path / f"rates{suffix}"
    arguments = ("--base", place / "run", *FEW, "--plot", picture)
    succeed("lr-find", place / "train.csv", *arguments)
    first = picture.read_bytes()
    assert first.startswith({".svg": b"<?xml", ".png": b"\x89PNG", ".pdf": b"%PDF"}[suffix])
    if suffix == ".svg":
        text = first.decode()
        assert "valley: " in text
        assert "learning rate of the top layer" in text
        succeed("lr-find", place / "train.csv", *arguments)
        assert picture.read_bytes() == first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--stage", "classifier", "--base", "none"), "needs the language model"),
        (("--plot", "rates.gif"), "--plot rates.gif: give a file that ends with .svg, .png, .pdf"),
        (("--plot", "nowhere/rates.svg"), "its folder does not exist"),
        (("--lowest", "1", "--highest", "0.1", "--size", "tiny"), "rates from 1 to 0.1"),
        (("--steps", "5"), "--steps"),
        (("--base", "nothing"), "nothing"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    place: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(place)
    result = run("lr-find", "train.csv", "--no-cache", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_base_has_its_size(place: Path) -> None:
    result = run("lr-find", place / "train.csv", "--base", place / "run", "--size", "tiny")
    assert "--base and --size exclude each other" in result.stderr


def test_train_refuses_a_rate_of_zero(place: Path) -> None:
    assert "--lr" in run("train", place / "train.csv", "--lr", "0").stderr


# --- the plot in the terminal

values_of = st.lists(st.floats(0, 1e6).map(lambda x: round(x, 6)), min_size=2, max_size=60)


@settings(max_examples=40, deadline=None)
@given(values_of, st.floats(1e-9, 1), st.floats(1.01, 5), st.booleans())
def test_a_plot_fits_and_shows_every_column(
    values: list[float], first: float, factor: float, blocks: bool
) -> None:
    rates = [first * factor**i for i in range(len(values))]
    marks = {"v": rates[0], "s": rates[-1], "m": rates[0] / 10}
    lines = text_plot.curve(rates, values, marks, blocks=blocks)
    assert all(len(line) <= text_plot.WIDTH + len(marks) for line in lines)
    assert blocks or all(line.isascii() for line in lines)
    n_columns = text_plot.WIDTH - text_plot.MARGIN
    if blocks:
        assert len(lines[text_plot.HEIGHT - 1]) == text_plot.MARGIN + n_columns
    for letter in marks:
        assert letter in lines[-1]


def test_a_falling_curve_falls() -> None:
    rates = [10.0**k for k in range(-5, 1)]
    lines = text_plot.curve(rates, [6.0, 5, 4, 3, 2, 1], {"v": 1e-3}, blocks=True)
    heights = [sum(line[c : c + 1] == "█" for line in lines) for c in range(10, 72)]
    assert heights == sorted(heights, reverse=True)
    assert heights[0] == 10
    assert lines[0].split()[0] == "6"
    assert lines[9].split()[0] == "1"
    assert lines[-1].index("v") == 10 + round(0.4 * 61)


@given(st.floats(0.001, 1e6), st.floats(0, 1), st.integers(1, 60), st.booleans())
def test_bars_are_as_long_as_their_values(
    largest: float, share: float, n: int, blocks: bool
) -> None:
    drawn = text_plot.bar(share * largest, largest, n, blocks=blocks)
    assert 1 <= len(drawn) <= n
    assert math.isclose(len(drawn), share * n, abs_tol=1.01)
    assert text_plot.bar(largest, largest, n, blocks=blocks) == ("█" if blocks else "#") * n


@pytest.mark.parametrize(("encoding", "expected"), [("ascii", False), ("utf-8", True)])
def test_output_that_knows_no_blocks_gets_none(
    encoding: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    assert text_plot.has_blocks() is expected
