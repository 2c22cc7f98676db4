"""`ulmfit-fast convert` and `pretrain --from`."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_runs import SHORT_FROM_BASE, json_of, run, succeed, write_rows
from fastai_files import V1, old_language_model, vocab_of, write_pair


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
    # A folder of ours is a start as well, and --base takes what was made.
    again = ["--from", "more", "--epochs", "1", "--batch-size", "8", "--out", "yet-more"]
    succeed("pretrain", "wiki.txt", *again)
    succeed("train", "reviews.csv", "--base", "more", "--out", "run", *SHORT_FROM_BASE)


def test_help_has_an_example(place: Path) -> None:
    assert "ulmfit-fast convert wt103-fwd.tgz general" in succeed("convert", "--help").stdout
