"""The corpus: the same ids from memory and from disk, and a cache that notices what is stale."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from ulmfit_fast.errors import InputError
from ulmfit_fast.text import corpus as corpus_module
from ulmfit_fast.text import workers as workers_module
from ulmfit_fast.text.corpus import Corpus, check_ids
from ulmfit_fast.text.tokenizer import Tokenizer, train_tokenizer

TEXTS = ["a good film", "", "a bad film, really", "good"] * 5


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS)


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_documents_are_what_the_tokenizer_gives(tokenizer: Tokenizer) -> None:
    corpus = Corpus.build(TEXTS, tokenizer)
    assert len(corpus) == len(TEXTS)
    assert corpus.ids.dtype == np.int32
    assert corpus.offsets.dtype == np.int64
    for i, ids in enumerate(tokenizer.encode(TEXTS)):
        assert corpus[i].tolist() == ids.tolist()
    assert corpus[-1].tolist() == corpus[len(TEXTS) - 1].tolist()
    assert corpus.n_tokens == corpus.lengths().sum() == len(corpus.ids)
    with pytest.raises(IndexError, match="document 20 of 20"):
        corpus[20]


def test_the_cache_gives_the_same_and_does_not_encode_again(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = Corpus.build(TEXTS, tokenizer, tmp_path / "new" / "cache")
    monkeypatch.setattr(tokenizer, "encode", None)
    cached = Corpus.build(TEXTS, tokenizer, tmp_path / "new" / "cache")
    assert isinstance(cached.ids, np.memmap)
    assert cached.ids.tolist() == built.ids.tolist()
    assert cached.offsets.tolist() == built.offsets.tolist()
    assert len(entries(tmp_path / "new" / "cache")) == 1


def test_groups_of_documents_do_not_change_the_result(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Corpus.build(TEXTS, tokenizer)
    monkeypatch.setattr(workers_module, "_CHARS_AT_A_TIME", 15)
    assert Corpus.build(TEXTS, tokenizer).ids.tolist() == whole.ids.tolist()


def test_every_change_of_content_is_another_entry(tokenizer: Tokenizer, tmp_path: Path) -> None:
    Corpus.build(TEXTS, tokenizer, tmp_path)
    Corpus.build([*TEXTS[1:], TEXTS[0]], tokenizer, tmp_path)
    Corpus.build(["a good film" + TEXTS[2], *TEXTS[3:]], tokenizer, tmp_path)
    Corpus.build(TEXTS, train_tokenizer(["other words"] * 3), tmp_path)
    assert len(entries(tmp_path)) == 4


@pytest.mark.parametrize("name", ["ids.bin", "offsets.bin", "meta.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "remove"])
def test_a_torn_or_altered_entry_is_made_again(
    tokenizer: Tokenizer, tmp_path: Path, name: str, damage: str
) -> None:
    good = Corpus.build(TEXTS, tokenizer, tmp_path).ids.tolist()
    path = tmp_path / entries(tmp_path)[0] / name
    content = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content[:-3] if damage == "cut" else content)
    assert Corpus.build(TEXTS, tokenizer, tmp_path).ids.tolist() == good
    assert len(entries(tmp_path)) == 1


def test_a_failure_while_encoding_leaves_nothing(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(texts: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tokenizer, "encode", fail)
    with pytest.raises(KeyboardInterrupt):
        Corpus.build(TEXTS, tokenizer, tmp_path)
    assert entries(tmp_path) == []


def test_two_processes_may_build_the_same_entry(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose_the_race(partial: Path, entry: Path) -> None:
        shutil.copytree(partial, entry)
        raise OSError(39, "Directory not empty")

    monkeypatch.setattr("os.replace", lose_the_race)
    corpus = Corpus.build(TEXTS, tokenizer, tmp_path)
    assert corpus.ids.tolist() == Corpus.build(TEXTS, tokenizer).ids.tolist()
    assert len(entries(tmp_path)) == 1


def test_a_disk_that_refuses_is_an_error_and_leaves_nothing(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(partial: Path, entry: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(OSError, match="No space left"):
        Corpus.build(TEXTS, tokenizer, tmp_path)
    assert entries(tmp_path) == []


def test_an_empty_corpus_works(tokenizer: Tokenizer, tmp_path: Path) -> None:
    for cache in (None, tmp_path, tmp_path):
        corpus = Corpus.build([], tokenizer, cache)
        assert len(corpus) == corpus.n_tokens == 0


def test_the_entry_says_its_version(tokenizer: Tokenizer, tmp_path: Path) -> None:
    Corpus.build(TEXTS, tokenizer, tmp_path)
    meta = tmp_path / entries(tmp_path)[0] / "meta.json"
    content = json.loads(meta.read_text())
    assert content["version"] == corpus_module.FORMAT_VERSION
    meta.write_text(json.dumps({**content, "version": 0}))
    Corpus.build(TEXTS, tokenizer, tmp_path)
    assert json.loads(meta.read_text()) == content


def test_progress_counts_texts_while_they_are_encoded(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers_module, "_CHARS_AT_A_TIME", 60)
    told: list[tuple[int, int]] = []
    for cache in (None, tmp_path, tmp_path):  # the last finds what the one before encoded
        Corpus.build(TEXTS, tokenizer, cache, progress=lambda *numbers: told.append(numbers))
    once = told[: len(told) // 2]
    assert told == once * 2
    assert len(once) > 2
    assert once[-1] == (20, 20)
    assert once == sorted(once)


@pytest.mark.parametrize("at_a_time", [1, 4, 1 << 20])
@pytest.mark.parametrize(
    ("wrong", "position", "message"),
    [
        (9, 0, "document 1, token 1: id 9 is not in the vocabulary of 9"),
        (-1, 4, "document 3, token 1: id -1 is"),
        (2**31 - 1, 6, "document 3, token 3: id 2147483647 is"),
    ],
)
def test_an_id_outside_of_the_vocabulary_is_named(
    monkeypatch: pytest.MonkeyPatch, at_a_time: int, wrong: int, position: int, message: str
) -> None:
    monkeypatch.setattr(corpus_module, "_IDS_AT_A_TIME", at_a_time)
    ids = np.array([2, 3, 8, 0, 2, 5, 8, 2], dtype=np.int32)
    offsets = np.array([0, 4, 4, 7, 8], dtype=np.int64)
    check_ids(Corpus(ids, offsets), 9)
    check_ids(Corpus(ids[:0], offsets[:1]), 9)
    ids[position] = wrong
    with pytest.raises(InputError, match=message):
        check_ids(Corpus(ids, offsets), 9)


def test_one_string_is_no_list_of_texts(tokenizer: Tokenizer) -> None:
    for call in (lambda: Corpus.build("a text", tokenizer), lambda: train_tokenizer("a text")):
        with pytest.raises(InputError, match=r"found one string; write \['a text'\]"):
            call()
