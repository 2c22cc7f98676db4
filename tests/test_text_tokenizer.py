"""Both tokenizers: ids, round trips through the file, damage, small corpora."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ulmfit_fast.errors import InputError
from ulmfit_fast.text.corpus import Corpus
from ulmfit_fast.text.rules import SPECIALS
from ulmfit_fast.text.segment import cut_chunk
from ulmfit_fast.text.subword import SubwordTokenizer
from ulmfit_fast.text.tokenizer import Tokenizer, WordTokenizer, load_tokenizer, train_tokenizer

TEXTS = [
    f"The film number {i} was {'very ' * (i % 4)}good, but I can't say WHY. <br />It {verb} well!"
    for i, verb in enumerate(["ends", "starts", "sounds", "looks"] * 30)
]


@pytest.fixture(scope="module", params=["word", "subword"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return train_tokenizer(TEXTS, kind=request.param, max_vocab=200)


def test_ids_are_int32_and_begin_with_bos(tokenizer: Tokenizer) -> None:
    for ids in tokenizer.encode([*TEXTS[:3], ""]):
        assert ids.dtype == np.int32
        assert ids[0] == tokenizer.bos_id == 2
        assert ids.max() < len(tokenizer.vocab)


def test_specials_have_fastais_ids_and_the_size_is_a_multiple_of_8(tokenizer: Tokenizer) -> None:
    assert tuple(tokenizer.vocab[: len(SPECIALS)]) == SPECIALS
    assert len(tokenizer.vocab) % 8 == 0
    assert tokenizer.vocab[-1] == "xxfake"
    assert (tokenizer.unk_id, tokenizer.pad_id) == (0, 1)


def test_specials_of_the_rules_are_single_ids(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(["The WHY xxunk <unk>"])[0].tolist()
    assert [i for i in ids if i < len(SPECIALS)] == [2, 8, 7, 0, 0]


def test_unknown_characters_are_unk(tokenizer: Tokenizer) -> None:
    assert tokenizer.unk_id in tokenizer.encode(["中文"])[0]


def test_the_word_xxfake_in_a_text_is_unknown_to_the_word_tokenizer() -> None:
    tokenizer = train_tokenizer(TEXTS)
    assert tokenizer.encode(["xxfake"])[0].tolist() == [2, 0]


def test_save_and_load_give_the_same_ids_and_fingerprint(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    path = tmp_path / "deep" / "tokenizer.json"
    tokenizer.save(path)
    loaded = load_tokenizer(path)
    assert loaded.kind == tokenizer.kind
    assert loaded.vocab == tokenizer.vocab
    assert loaded.fingerprint() == tokenizer.fingerprint()
    assert list(path.parent.iterdir()) == [path]
    for ours, theirs in zip(loaded.encode(TEXTS), tokenizer.encode(TEXTS), strict=True):
        assert ours.tolist() == theirs.tolist()


def test_decode_gives_readable_text(tokenizer: Tokenizer) -> None:
    text = tokenizer.decode(tokenizer.encode(["It was very good."])[0])
    assert text in ("xxbos xxmaj it was very good .", "xxbos xxmaj it was very good.")


def test_encode_agrees_with_tokenize(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode([TEXTS[5]])[0]
    tokens = tokenizer.tokenize(TEXTS[5])
    assert len(ids) == len(tokens)
    known = [t if t in tokenizer.vocab else "xxunk" for t in tokens]
    assert [tokenizer.vocab[i] for i in ids] == known


def test_fingerprint_changes_with_the_vocabulary() -> None:
    one = WordTokenizer([*SPECIALS, "a", *["xxfake"] * 6])
    two = WordTokenizer([*SPECIALS, "b", *["xxfake"] * 6])
    assert one.fingerprint() != two.fingerprint()
    assert len(one.fingerprint()) == 64


@pytest.mark.parametrize("kind", ["word", "subword"])
def test_half_a_surrogate_pair_is_a_character_like_others(kind: str, tmp_path: Path) -> None:
    texts = ["cut off \ud83d", "cut off \ud83d"]
    tokenizer = train_tokenizer(texts, kind=kind, min_freq=1)
    tokenizer.save(tmp_path / "t.json")
    loaded = load_tokenizer(tmp_path / "t.json")
    corpus = Corpus.build(texts, loaded, tmp_path / "cache")
    assert corpus[0].tolist() == tokenizer.encode(texts)[0].tolist()
    assert corpus.n_tokens >= 8


@pytest.mark.parametrize("kind", ["word", "subword"])
@pytest.mark.parametrize("texts", [["hi"], ["a"], ["One two.", "Three"], TEXTS[:3]])
def test_tiny_corpora_work(kind: str, texts: list[str]) -> None:
    tokenizer = train_tokenizer(texts, kind=kind, max_vocab=30_000, min_freq=1)
    assert tokenizer.encode(texts)[0][0] == 2
    assert 0 not in tokenizer.encode(texts)[0]


def test_more_characters_than_the_vocabulary_holds_leave_the_rare_ones_unknown() -> None:
    texts = ["".join(chr(0x4E00 + i) for i in range(300)), "一丁" * 5]
    tokenizer = train_tokenizer(texts, kind="subword", max_vocab=64, min_freq=1)
    assert len(tokenizer.vocab) <= 72
    assert tokenizer.unk_id not in tokenizer.encode(["一丁"])[0]
    assert tokenizer.unk_id in tokenizer.encode([chr(0x4E00 + 299)])[0]


def test_subwords_are_the_same_in_every_process() -> None:
    """The trainer's hash maps are seeded anew in each process; a vocabulary that ties binds."""
    script = (
        "from ulmfit_fast.text.tokenizer import train_tokenizer\n"
        f"texts = {[text + str(i * i) for i, text in enumerate(TEXTS)]!r}\n"
        "for size in (64, 100, 1000):\n"
        "    t = train_tokenizer(texts, kind='subword', max_vocab=size, min_freq=1)\n"
        "    print(t.fingerprint())\n"
    )
    command = [sys.executable, "-c", script]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = {run.communicate(timeout=120)[0] for run in runs}
    assert all(run.returncode == 0 for run in runs)
    assert len(outputs) == 1
    assert len(set(outputs.pop().split())) == 3


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([""], {"kind": "subword"}, "no word in the texts"),
        (["", "  "], {}, "no word in the texts"),
        (["a"], {"kind": "bpe"}, '"word" or "subword"'),
        (["a"], {"max_vocab": 8}, "at least 32"),
    ],
)
def test_training_refuses(texts: list[str], options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        train_tokenizer(texts, **options)  # type: ignore[arg-type]


def test_a_vocabulary_must_begin_with_unk_pad_bos() -> None:
    with pytest.raises(InputError, match="must begin with xxunk"):
        WordTokenizer(["a", "b", "c"])


def test_pieces_and_scores_must_agree() -> None:
    with pytest.raises(InputError, match="9 pieces have 1 scores"):
        SubwordTokenizer([*SPECIALS, *["xxfake"] * 7], [0.0])


def _edit(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, **changes}), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "no such tokenizer file"),
        (lambda path: path.write_text(path.read_text()[:-40]), "cannot read the tokenizer"),
        (lambda path: path.write_bytes(b"\xff\xfe\x00"), "cannot read the tokenizer"),
        (lambda path: path.write_text("[1]"), "not a tokenizer of ulmfit_fast"),
        (lambda path: _edit(path, version=99), "format 99, this release reads 1"),
        (
            lambda path: _edit(path, vocab=["xxunk", "xxpad", "xxbos", "x"]),
            "tokenizer file is damaged",
        ),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, damage, message: str) -> None:
    path = tmp_path / "tokenizer.json"
    train_tokenizer(TEXTS).save(path)
    damage(path)
    with pytest.raises(InputError, match=message) as caught:
        load_tokenizer(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_other_rules_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tokenizer.json"
    train_tokenizer(TEXTS).save(path)
    monkeypatch.setattr("ulmfit_fast.text.tokenizer.RULES_VERSION", "other")
    with pytest.raises(InputError, match="made with text rules fastai-2"):
        load_tokenizer(path)


def test_the_memory_of_chunks_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ulmfit_fast.text.tokenizer.REMEMBERED", 3)
    tokenizer = WordTokenizer([*SPECIALS, "a", "b", *["xxfake"] * 5])
    assert tokenizer.encode(["a b c d e f a b"])[0].tolist() == [2, 9, 10, 0, 0, 0, 0, 9, 10]
    assert len(tokenizer._ids_of) == 3
    assert cut_chunk.cache_info().maxsize is not None


def test_long_chunks_are_cut_and_not_remembered() -> None:
    tokenizer = WordTokenizer(train_tokenizer(TEXTS, max_vocab=200).vocab)
    long = "good," * 40
    before = cut_chunk.cache_info().currsize
    (ids,) = tokenizer.encode([f"a film {long} {'x' * 5_000}"])
    assert tokenizer.decode(ids).count("good ,") == 40
    assert max(map(len, tokenizer._ids_of)) <= 100
    assert cut_chunk.cache_info().currsize <= before + 10
