"""`ulmfit-fast generate` on a small run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cli_runs import run, succeed, train_small
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from ulmfit_fast import ULMFiTTrainer
from ulmfit_fast.commands.generate import wrapped
from ulmfit_fast.training.generation import Sampling, generate


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_small(tmp_path_factory.mktemp("generate"))


def test_help_ends_with_an_example_and_needs_no_torch() -> None:
    code = (
        "import sys\n"
        "from ulmfit_fast.cli import main\n"
        "main(['generate', '--help'], standalone_mode=False)\n"
        "assert not {'torch', 'numpy', 'rich'} & set(sys.modules), 'imported early'\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "Example: ulmfit-fast generate" in " ".join(ran.stdout.split())


def test_writes_what_the_python_function_yields(trained: Path) -> None:
    arguments = (
        "the film",
        "--tokens",
        "12",
        "--temperature",
        "0.9",
        "--top-k",
        "9",
        "--seed",
        "4",
    )
    output = succeed("generate", trained, *arguments).stdout
    trainer = ULMFiTTrainer.load(trained / "language_model", device="cpu")
    assert trainer.language_model is not None
    assert trainer.tokenizer is not None
    sampling = Sampling(12, 0.9, 9, seed=4)
    pieces = generate(
        trainer.language_model, trainer.tokenizer, "the film", sampling, precision=trainer.precision
    )
    assert output == "the film" + "".join(pieces) + "\n"
    assert succeed("generate", trained / "language_model", *arguments).stdout == output


def test_json_is_one_object_for_each_text(trained: Path) -> None:
    prompts = "the film\n\n  a story \r\n"
    options = ("--samples", "2", "--tokens", "7", "--json")
    output = succeed("generate", trained, "-", *options, stdin=prompts).stdout
    texts = [json.loads(line) for line in output.splitlines()]
    assert [(t["prompt"], t["sample"]) for t in texts] == [
        *(("the film", 0), ("the film", 1)),
        *(("  a story ", 0), ("  a story ", 1)),
    ]
    assert all(t["n_tokens"] == 7 or t["has_ended"] for t in texts)
    assert texts[0]["text"] != texts[1]["text"]
    # The same prompt and seed, wherever the prompt stands.
    again = succeed("generate", trained, "-", *options, stdin="a story\nthe film\n").stdout
    assert json.loads(again.splitlines()[2])["text"] == texts[0]["text"]


def test_without_a_prompt_a_text_begins(trained: Path) -> None:
    output = succeed("generate", trained, "--tokens", "8", "--samples", "3").stdout
    texts = output.removesuffix("\n").split("\n\n")
    assert len(texts) == 3
    assert not any(text.startswith(" ") for text in texts)


def test_prompts_cannot_act_on_the_terminal(trained: Path) -> None:
    result = succeed("generate", trained, "the \x1b[31mfilm", "--tokens", "2")
    assert "\x1b" not in result.stdout + result.stderr
    assert result.stdout.startswith("the \\x1b[31mfilm")
    assert "the model does not know" in result.stderr


def test_unknown_words_of_a_prompt_are_named(trained: Path) -> None:
    result = succeed("generate", trained, "the Zyxwv film", "--tokens", "2")
    assert "does not know" in result.stderr
    assert "'zyxwv'" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--temperature", "-1"), "--temperature"),
        (("--top-p", "0"), "--top-p"),
        (("--tokens", "0"), "--tokens"),
        (("--device", "tpu"), "no device 'tpu'"),
    ],
)
def test_bad_options_are_one_line(trained: Path, arguments: tuple[str, ...], message: str) -> None:
    result = run("generate", trained, *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_classifier_is_refused_and_the_language_model_named(trained: Path) -> None:
    result = run("generate", trained / "model")
    assert result.exit_code == 2
    assert f"give a language model: {trained / 'language_model'}" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_classifier_alone_is_refused(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "model", tmp_path / "alone")
    result = run("generate", tmp_path / "alone")
    assert result.exit_code == 2
    assert "the language_model folder of a run" in result.stderr


def test_what_is_no_text_or_no_model_is_refused(trained: Path, tmp_path: Path) -> None:
    result = run("generate", trained, "-", stdin=b"the film\n\xff\xfe\n")
    assert result.exit_code == 2
    assert "standard input, line 2: not UTF-8" in result.stderr
    assert run("generate", tmp_path).exit_code == 2


@given(st.lists(st.text(alphabet="ab, \n", max_size=12), max_size=12), st.integers(12, 30))
def test_lines_are_broken_between_words_only(pieces: list[str], width: int) -> None:
    shown, column = "", 0
    for piece in pieces:
        part, column = wrapped(piece, column, width)
        shown += part
    text = "".join(pieces)
    assert len(shown) == len(text)
    assert all(a == b or (a, b) == (" ", "\n") for a, b in zip(text, shown, strict=True))
    assert all(len(line) <= width or " " not in line.lstrip() for line in shown.split("\n"))
    assert column == len(shown.split("\n")[-1])
    assert wrapped(text, 0, None)[0] == text
