"""`ulmfit-fast inspect`: in a terminal, in a file, as JSON, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_runs import run, succeed, train_small

from ulmfit_fast.commands.inspect import coloured
from ulmfit_fast.interpret.examination import TokenScore


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_small(tmp_path_factory.mktemp("inspect"))


def test_inspect_says_answer_text_and_words(model: Path) -> None:
    lines = succeed(
        "inspect", model, "A great film, a great actor", "--words", "2"
    ).stdout.splitlines()
    label = lines[0].split()[0]
    assert lines[0].endswith(" %)")
    assert lines[2] == "A great film, a great actor"
    assert lines[4].split() == ["for", label, "times", "score"]
    assert any(line.split()[:2] == ["great", "2"] for line in lines)
    assert f"log-odds of {label}; off by " in lines[-1]
    assert len(lines) <= 12
    assert "\x1b" not in "".join(lines)


def test_inspect_colours_a_terminal_only_where_it_may(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[" in succeed("inspect", model, "A great film").stdout
    monkeypatch.setenv("NO_COLOR", "1")
    plain = succeed("inspect", model, "A great film").stdout
    assert "\x1b" not in plain
    assert "A great film" in plain


def test_inspect_explains_another_class(model: Path) -> None:
    found = [
        json.loads(succeed("inspect", model, "a dull film", "--json", "--label", name).stdout)
        for name in ("pos", "neg")
    ]
    assert [values["explained"] for values in found] == ["pos", "neg"]
    assert found[0]["label"] == found[1]["label"]
    for a, b in zip(found[0]["tokens"], found[1]["tokens"], strict=True):
        assert a["score"] == pytest.approx(-b["score"], abs=1e-5)


def test_inspect_writes_a_json_object_a_line(model: Path) -> None:
    stdin = "".join(f"a fine film number {k}\n\n" for k in range(20))
    result = succeed("inspect", model, "-", "--json", "--method", "gradient_x_input", stdin=stdin)
    values = [json.loads(line) for line in result.stdout.splitlines()]
    assert [v["row"] for v in values] == list(range(1, 41, 2))
    assert "20 lines without text skipped" in result.stderr
    for one in values:
        assert "".join(token["text"] for token in one["tokens"]) == one["text"]
        assert one["method"] == "gradient_x_input"
        assert one["probabilities"][one["label"]] == max(one["probabilities"].values())


def test_inspect_shows_controls_and_markup_as_text(model: Path) -> None:
    text = "good \x1b[31m\x07 [bold]bad[/bold] \u202e <script>\rfine\u2028"
    shown = succeed("inspect", model, text).stdout
    assert not {"\x1b", "\x07", "\u202e", "\r", "\u2028"} & set(shown)
    assert r"good \x1b[31m\x07 [bold]bad[/bold] \u202e <script>\rfine\u2028" in shown


def test_inspect_gives_one_line_for_what_cannot_be(model: Path, tmp_path: Path) -> None:
    cases = [
        (("inspect", model, " "), "error: TEXT is empty: give a text, or - for the lines of"),
        (("inspect", model, "a", "--label", "x"), "error: --label x: not a class of the model "
         "(classes: neg, pos)"),
        (("inspect", tmp_path, "a"), "error: "),
        (("inspect", model, "-"), "error: standard input: no text; write one text a line"),
        (("inspect", model, "a", "--words", "0"), "error: invalid value for '--words'"),
    ]  # fmt: skip
    for arguments, message in cases:
        result = run(*arguments, stdin="")
        assert result.exit_code == 2
        assert result.stderr.startswith(message)
        assert result.stderr.count("\n") == 1


def test_stronger_pieces_have_fuller_colours() -> None:
    pieces = [TokenScore("a", 2.0), TokenScore(" b", -1.0), TokenScore(" c", 0.1)]
    spans = [(span.start, span.end, str(span.style)) for span in coloured(pieces).spans]
    assert spans == [(0, 1, "black on rgb(86,160,232)"), (2, 3, "black on rgb(247,192,137)")]
    assert coloured([]).plain == ""
    assert coloured([TokenScore("a", 0.0)]).spans == []
