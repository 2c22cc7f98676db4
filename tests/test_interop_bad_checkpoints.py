"""Checkpoints of fastai that are broken or do not fit: one clear line each, nothing half loaded."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from fastai_files import V1, E, V, old_language_model, vocab_of, write_pair
from torch import nn

from ulmfit_fast import InputError
from ulmfit_fast.interop.checkpoints import load_fastai, read_vocab
from ulmfit_fast.interop.vocab_pickle import read_vocab_pickle, vocab_pickle

BROKEN = {
    "vocabulary of another size": (
        lambda: (old_language_model("v1"), vocab_of(V1, V - 1)),
        f"the vocabulary has {V - 1} tokens, but the embedding has {V} rows",
    ),
    "layers swapped": (
        lambda: (
            {
                **(state := old_language_model("v1")),
                "0.rnns.0.module.weight_ih_l0": state["0.rnns.1.module.weight_ih_l0"],
            },
            vocab_of(V1),
        ),
        "rnns.0.weight_ih_l0: expected shape [64, 8], found [64, 16]",
    ),
    "a layer missing": (
        lambda: (
            {k: t for k, t in old_language_model("v1").items() if "rnns.2" not in k},
            vocab_of(V1),
        ),
        "rnns.1.weight_ih_l0: expected shape [32, 16], found [64, 16]",
    ),
    "a tensor missing": (
        lambda: (
            {k: t for k, t in old_language_model("v1").items() if "2.module.bias_hh" not in k},
            vocab_of(V1),
        ),
        "0.rnns.2.module.bias_hh_l0 is missing",
    ),
    "a decoder of its own": (
        lambda: ({**old_language_model("v1"), "1.decoder.weight": torch.zeros(V, E)}, vocab_of(V1)),
        "1.decoder.weight: differs from the embedding",
    ),
    "another model": (lambda: (nn.Linear(2, 3).state_dict(), vocab_of(V1)), "no encoder.weight"),
    "a QRNN": (
        lambda: ({**old_language_model("v1"), "0.rnns.0.layers.0.w": torch.zeros(1)}, vocab_of(V1)),
        "0.rnns.0.layers.0.w: no part of an AWD_LSTM",
    ),
    "no tensors": (lambda: ([1, 2], vocab_of(V1)), "expected the tensors of a model, found list"),
    "a number": (lambda: ({"0.encoder.weight": 3}, vocab_of(V1)), "expected a tensor, found int"),
    "numbers for tokens": (
        lambda: (old_language_model("v1"), list(range(V))),
        "holds more than a list of strings (BININT1)",
    ),
    "no tokens": (lambda: (old_language_model("v1"), []), "the vocabulary is empty"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_does_not_fit_is_one_clear_line(tmp_path: Path, what: str) -> None:
    make, message = BROKEN[what]
    file = write_pair(tmp_path, *make())
    with pytest.raises(InputError) as error:
        load_fastai(file)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_files_that_are_cut_short_are_refused(tmp_path: Path, share: float) -> None:
    file = write_pair(tmp_path, old_language_model("v1"), vocab_of(V1))
    for path in (file, tmp_path / "itos.pkl"):
        whole = path.read_bytes()
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(InputError, match=r"damaged|more than tensors"):
            load_fastai(file)
        path.write_bytes(whole)


def test_a_model_without_its_vocabulary_says_so(tmp_path: Path) -> None:
    file = write_pair(tmp_path, old_language_model("v1"), vocab_of(V1))
    (tmp_path / "itos.pkl").unlink()
    with pytest.raises(InputError, match=r"name its vocabulary.*expected one \.pkl file, found 0"):
        load_fastai(file)
    with pytest.raises(InputError, match=r"no such file; give the vocabulary"):
        load_fastai(file, vocab=tmp_path / "other.pkl")
    (tmp_path / "itos.json").write_text('["xxunk", 3]')
    with pytest.raises(InputError, match="expected a list of tokens"):
        read_vocab(tmp_path / "itos.json")


@pytest.mark.parametrize("protocol", range(6))
def test_vocabularies_of_every_protocol_are_read(protocol: int) -> None:
    vocab = ["xxunk", "", "ü", "\u2581word", "a\nb", "\U0001f600"]
    for value in (vocab, tuple(vocab), vocab * 400):
        assert read_vocab_pickle(pickle.dumps(value, protocol), "v") == list(value)
    assert pickle.loads(vocab_pickle(vocab)) == vocab
    assert read_vocab_pickle(vocab_pickle(vocab), "v") == vocab
