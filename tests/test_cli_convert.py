"""`ulmfit-fast convert` and `pretrain --from`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from cli_runs import SHORT_FROM_BASE, json_of, run, succeed, write_rows
from fastai_files import V1, old_classifier, old_language_model, vocab_of, write_pair


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_pair(tmp_path / "theirs", old_language_model("v1"), vocab_of(V1))
    return tmp_path


def test_a_model_goes_there_and_back(place: Path) -> None:
    said = succeed("convert", "theirs/lm.pth", "general").stdout
    assert "language model" in said
    assert "train FILE --base general" in said
    back = json_of(succeed("convert", "general", "back", "--json"))
    assert back["to"] == "fastai"
    assert back["written"] == ["back.pth", "back_vocab.pkl"]
    write_pair(place / "again", {}, vocab_of(V1))  # a folder may be a source, too
    for name, target in (("back.pth", "lm.pth"), ("back_vocab.pkl", "itos.pkl")):
        (place / name).rename(place / "again" / target)
    succeed("convert", "again", "twice")
    first, second = (place / f / "model.safetensors" for f in ("general", "twice"))
    assert first.read_bytes() == second.read_bytes()


def test_a_taken_place_is_kept(place: Path) -> None:
    succeed("convert", "theirs", "general")
    result = run("convert", "theirs", "general")
    assert result.exit_code == 2
    assert "exists; give another name, or replace it: --overwrite" in result.stderr
    succeed("convert", "theirs", "general", "--overwrite")
    succeed("convert", "general", "a.name")
    again = run("convert", "general", "a.name")
    assert again.stderr == (
        "error: a.name.pth: exists; give another name, or replace it: --overwrite\n"
    )


def test_a_language_model_of_fastai_goes_on_and_becomes_a_classifier(place: Path) -> None:
    write_rows(place / "reviews.csv", 60)
    texts = ["the film was great and good", "a dull story told by the actor"] * 20
    (place / "wiki.txt").write_text("\n".join(f"{i} {t}" for i, t in enumerate(texts)))
    short = ["--batch-size", "8", "--out", "more"]
    said = succeed("pretrain", "wiki.txt", "--from", "theirs", "--epochs", "1", *short).stdout
    assert "language model" in said
    assert json.loads((place / "more" / "run.json").read_text())["base"] == "theirs"
    # A folder of ours is a start as well, and --base takes what was made.
    again = ["--from", "more", "--epochs", "1", "--batch-size", "8", "--out", "yet-more"]
    succeed("pretrain", "wiki.txt", *again)
    succeed("train", "reviews.csv", "--base", "more", "--out", "run", *SHORT_FROM_BASE)


def test_without_a_file_the_model_is_taken_as_it_is(place: Path) -> None:
    write_rows(place / "reviews.csv", 60)
    said = succeed("pretrain", "--from", "theirs/lm.pth").stdout
    assert "ulmfit-fast train FILE --base runs/lm" in said
    succeed("convert", (place / "theirs" / "lm.pth").as_uri(), "general")
    taken, converted = (
        place / folder / "model.safetensors" for folder in ("runs/lm/language_model", "general")
    )
    assert taken.read_bytes() == converted.read_bytes()
    again = run("pretrain", "--from", "theirs/lm.pth")
    assert again.exit_code == 2
    assert "runs/lm: this folder exists" in again.stderr
    values = json_of(succeed("pretrain", "--from", "theirs/lm.pth", "--overwrite", "--json"))
    assert (values["base"], values["out"]) == ("theirs/lm.pth", "runs/lm")
    succeed("train", "reviews.csv", "--base", "runs/lm", "--out", "run", *SHORT_FROM_BASE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrain"], "no FILE: give the text to train on, or a model to take with --from"),
        (["pretrain", "--from", "theirs", "--epochs", "3"], "--epochs needs a FILE"),
        (["pretrain", "--from", "theirs", "--size", "tiny"], "--from and --size exclude"),
        (["pretrain", "--from", "missing"], "missing: no such file"),
        (["pretrain", "--from", "classifier"], "--from classifier: a classifier, not a language"),
        (["convert", "theirs", "x", "--labels", "a"], None),
        (["convert", "classifier", "x", "--labels", "a,b"], "expected 3 different names, found 2"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    place: Path, arguments: list[str], message: str | None
) -> None:
    write_pair(place / "classifier", old_classifier("v1"), vocab_of(V1))
    result = run(*arguments)
    assert result.exit_code == (0 if message is None else 2)
    if message is not None:
        assert message in result.stderr
        assert result.stderr.count("\n") == 1
        assert not (place / "x").exists()


def test_names_keep_their_points_and_every_file_its_place(place: Path) -> None:
    succeed("convert", "theirs", "wt103.general")
    (place / "wt103.pth").write_text("another model")
    succeed("convert", "wt103.general", "models/wt103.v2")
    assert (place / "models" / "wt103.v2.pth").exists()
    assert (place / "models" / "wt103.v2_vocab.pkl").exists()
    assert (place / "wt103.pth").read_text() == "another model"
    result = run("convert", "wt103.general", "wt103")
    assert result.exit_code == 2
    assert "wt103.pth: exists" in result.stderr
    assert not (place / "wt103_vocab.pkl").exists()


def test_an_encoder_alone_is_written(place: Path) -> None:
    succeed("convert", "theirs", "general")
    said = succeed("convert", "general", "encoder", "--encoder-only").stdout
    assert "learn.load_encoder('encoder')" in said
    keys = torch.load(place / "encoder.pth", weights_only=True)
    assert next(iter(keys)) == "encoder.weight"
    assert not any(key.startswith(("0.", "1.")) for key in keys)


def test_a_model_of_reversed_texts_is_told_by_its_name(place: Path) -> None:
    (place / "theirs" / "lm.pth").rename(place / "theirs" / "lstm_bwd.pth")
    result = succeed("convert", "theirs/lstm_bwd.pth", "general")
    assert "warning: theirs/lstm_bwd.pth: by its name it was trained on texts read" in result.stderr
    assert "warning" not in succeed("convert", "general", "back").stderr


def test_help_has_an_example(place: Path) -> None:
    assert "ulmfit-fast convert wt103-fwd.tgz general" in succeed("convert", "--help").stdout
