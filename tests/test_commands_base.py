"""What a training starts from where nobody said so, and what the names of models stand for."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from cli_runs import json_of, run, succeed, write_rows
from small_english import ENGLISH, write_english

from ulmfit_fast import InputError, ULMFiTTrainer, pretrained
from ulmfit_fast.commands.base import default_base, given_base
from ulmfit_fast.commands.choices import Settings
from ulmfit_fast.text.tokenizer import load_tokenizer
from ulmfit_fast.training.defaults import measure_tokens

SHORT = ["--lm-epochs", "1", "--epochs", "1", "--batch-size", "16", "--no-report"]
GERMAN = "Überraschenderweise wünschen Möwen größere Fischbrötchen, während Züge verspätet fahren"


def english_texts(n: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(ENGLISH, k=12)) for _ in range(n)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one model that knows a few words, as the package has one that knows many."""
    folder = tmp_path_factory.mktemp("pretrained")
    write_english(folder)
    return folder


@pytest.fixture(autouse=True)
def in_place(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "PLACE", place)
    monkeypatch.chdir(tmp_path)


def write(name: str, texts: Sequence[str]) -> None:
    with Path(name).open("w", newline="", encoding="utf-8") as file:
        rows = [(text, ("a", "b")[i % 2]) for i, text in enumerate(texts)]
        csv.writer(file).writerows([("text", "label"), *rows])


def foreign_texts(n: int) -> list[str]:
    draw = random.Random(1)
    return [" ".join(draw.choices(GERMAN.split(), k=8)) for _ in range(n)]


# --- figures


def test_tokens_are_counted_without_the_marks_of_the_rules(place: Path) -> None:
    tokenizer = load_tokenizer(place / "english" / "tokenizer.json")
    # xxbos, and xxmaj before a word with a capital, are no tokens of a word.
    assert tokenizer.tokenize("The film")[:2] == ["xxbos", "xxmaj"]
    texts = ["The film", "the film"]
    found = measure_tokens(tokenizer, texts)
    assert found.a_word == (len(tokenizer.tokenize("the film")) - 1) / 2
    assert found.unknown == 0
    unknown = measure_tokens(tokenizer, ["the ΩΩ"])
    assert unknown.unknown > 0
    assert measure_tokens(tokenizer, ["", " "]).a_word == float("inf")
    assert measure_tokens(tokenizer, []).a_word == float("inf")


def test_a_sample_is_taken_from_all_texts(place: Path) -> None:
    tokenizer = load_tokenizer(place / "english" / "tokenizer.json")
    mixed = ["the film was"] * 5_000 + ["zqxj vwyk"] * 5_000
    parts = [measure_tokens(tokenizer, texts).a_word for texts in (mixed[:1], mixed[-1:])]
    assert parts[0] < measure_tokens(tokenizer, mixed).a_word < parts[1]


# --- the choice


def test_english_texts_take_the_models_of_the_package(place: Path) -> None:
    chosen = default_base(english_texts(50, seed=3))
    assert chosen.base is not None
    assert (chosen.base.folder, chosen.base.name) == (place / "english", "english")
    assert (chosen.base.size, chosen.base.tokenizer) == ("tiny", "subword")
    assert "comes with ulmfit_fast, and your texts look English" in chosen.why
    assert "--base none" in chosen.why


@pytest.mark.parametrize(
    ("texts", "why"),
    [
        (foreign_texts(50), "tokens a word for the model english"),
        (["ΩΩ ΩΩ ΩΩ the film was a story told by an actor"] * 50, "does not know"),
    ],
)
def test_other_texts_are_trained_from_scratch_with_the_reason(texts: list[str], why: str) -> None:
    chosen = default_base(texts)
    assert chosen.base is None
    assert "your texts do not look English" in chosen.why
    assert why in chosen.why
    assert chosen.why.endswith("--base english")


def test_without_models_in_the_package_training_is_from_scratch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained, "PLACE", tmp_path)
    assert default_base(english_texts(5)) == (
        None, "this installation has no pretrained model; give one with --base",
    )  # fmt: skip
    with pytest.raises(InputError, match="english: no such model directory"):
        ULMFiTTrainer.load("english")


@pytest.mark.parametrize(
    ("settings", "general", "why"),
    [
        (Settings(size="tiny"), None, "--size is of a new model"),
        (Settings(tokenizer="word"), None, "--tokenizer is of a new model"),
        (Settings(), "wiki.txt", "--general is of a new model"),
    ],
)
def test_options_of_a_new_model_make_one(settings: Settings, general: str, why: str) -> None:
    assert given_base(None, settings, general) == (None, why)


def test_what_the_user_decides_is_not_asked_again() -> None:
    assert given_base(None, Settings(), None) is None
    assert given_base(Path("none"), Settings(size="tiny"), None) == (None, "--base none")
    with pytest.raises(InputError, match="--base and --general exclude each other"):
        given_base(Path("english"), Settings(), "wiki.txt")
    with pytest.raises(InputError, match="--base and --size exclude each other"):
        given_base(Path("english"), Settings(size="tiny"), None)
    with pytest.raises(InputError, match="englisch: no such model directory"):
        given_base(Path("englisch"), Settings(), None)


# --- on the command line


def test_train_says_what_it_starts_from_and_records_it() -> None:
    write_rows(Path("train.csv"), 40)
    said = succeed("train", "train.csv", *SHORT).stdout
    assert "\nbase      english (comes with ulmfit_fast, and your texts look English: " in said
    assert "\nmodel     tiny (as in english), subword tokens\n" in said
    assert "\nrecipe    paper (keeps what a pretrained model knows; for a small one " in said
    summary = json.loads(Path("runs/train/run.json").read_text())
    assert summary["base"] == "english"
    assert summary["why"]["base"].startswith("comes with ulmfit_fast")
    assert [stage["stage"] for stage in summary["stages"]] == ["language_model", "classifier"]
    succeed("predict", "runs/train", "train.csv")


def test_train_with_base_none_is_from_scratch() -> None:
    write_rows(Path("train.csv"), 40)
    said = succeed("train", "train.csv", "--base", "none", *SHORT).stdout
    assert "\nbase      none (--base none)\n" in said
    assert "language model, your texts, from scratch: 1 epoch" in said
    assert json.loads(Path("runs/train/run.json").read_text())["base"] is None


def test_a_folder_of_the_name_goes_before_the_model_of_the_package(place: Path) -> None:
    succeed("pretrain", "--from", "english", "--out", "copy")
    assert json.loads(Path("copy/run.json").read_text())["base"] == "english"
    assert json_of(succeed("info", "copy", "--json"))["parameters"] > 0
    Path("english").mkdir()
    message = run("info", "english").stderr
    assert "english: not a model directory" in message
    write_rows(Path("train.csv"), 40)
    said = succeed("train", "train.csv", *SHORT).stdout  # the default is the package's all the same
    assert "\nbase      english (comes with ulmfit_fast" in said
    Path("none").mkdir()
    refused = run("train", "train.csv", "--base", "none", *SHORT, "--out", "other")
    assert "none: not a model directory" in refused.stderr


def test_a_name_is_taken_wherever_a_model_is() -> None:
    facts = json_of(succeed("info", "english", "--json"))
    assert (facts["kind"], facts["packing"], facts["folder"]) == (
        "language model", "int8", str(pretrained.folder("english")),
    )  # fmt: skip
    written = succeed("generate", "english", "the", "--tokens", "3").stdout
    assert written.startswith("the")
    write_rows(Path("train.csv"), 40)
    found = json_of(succeed("lr-find", "train.csv", "--steps", "20", "--batch-size", "8", "--json"))
    assert found["command"].startswith("ulmfit-fast train train.csv ")
    assert "--base" not in found["command"]  # train chooses as lr-find did
    found = json_of(succeed("lr-find", "train.csv", "--base", "english", "--steps", "20",
                            "--batch-size", "8", "--json"))  # fmt: skip
    assert "--base english" in found["command"]
    trainer = ULMFiTTrainer.load("english", device="cpu")
    assert trainer.language_model is not None
