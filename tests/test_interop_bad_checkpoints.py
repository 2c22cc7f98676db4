"""Checkpoints of fastai that are broken or do not fit: one clear line each, nothing half loaded."""

from __future__ import annotations

import pickle
import random
import time
import warnings
from pathlib import Path

import pytest
import torch
from fastai_files import V1, E, V, old_classifier, old_language_model, vocab_of, write_pair
from hostile_files import archive_of, as_legacy, good
from torch import nn

from ulmfit_fast import InputError
from ulmfit_fast.interop import vocab_pickle as vocab_pickle_module
from ulmfit_fast.interop.archives import read_archive
from ulmfit_fast.interop.checkpoints import load_fastai, read_vocab
from ulmfit_fast.interop.vocab_pickle import read_vocab_pickle, vocab_pickle
from ulmfit_fast.interop.weights import read_weights

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
    "a classifier without its head": (
        lambda: (
            {k: t for k, t in old_classifier("v1").items() if not k.startswith("1.")},
            vocab_of(V1),
        ),
        "a classifier without its head: take the encoder (--encoder-only)",
    ),
    "no tensors": (lambda: ([1, 2], vocab_of(V1)), "expected the tensors of a model, found list"),
    "a number": (lambda: ({"0.encoder.weight": 3}, vocab_of(V1)), "expected a tensor, found int"),
    "numbers for tokens": (
        lambda: (old_language_model("v1"), list(range(V))),
        "holds more than a list of strings (BININT1)",
    ),
    "pieces for tokens": (
        lambda: (old_language_model("v1"), [*V1, *(f"\u2581p{i}" for i in range(V - len(V1)))]),
        "a vocabulary of SentencePiece; only models of words are read",
    ),
    "a name that acts on terminals": (
        lambda: ({**old_language_model("v1"), "0.\x1b[2J\n": torch.zeros(1)}, vocab_of(V1)),
        r"0.\x1b[2J\n: no part of an AWD_LSTM",
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
        with pytest.raises(InputError, match="damaged"):
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


ODD = {
    "sparse": (lambda x: x.to_sparse(), "expected a dense tensor with its values"),
    "without values": (lambda x: x.to("meta"), "expected a dense tensor with its values"),
    "quantized": (
        lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),
        "expected a dense tensor with its values",
    ),
    "complex": (
        lambda x: x.to(torch.complex64),
        "expected floating-point numbers, found torch.complex64",
    ),
    "integers": (lambda x: x.long(), "expected floating-point numbers, found torch.int64"),
    "8 bits": (
        lambda x: x.to(torch.float8_e4m3fn),
        "expected floating-point numbers, found torch.float8_e4m3fn",
    ),
    "not a number": (lambda x: x / 0 * 0, "not all finite: training had failed"),
    "infinite": (lambda x: x / 0, "not all finite: training had failed"),
}


@pytest.mark.parametrize("what", ODD)
def test_tensors_that_are_no_weights_are_refused(tmp_path: Path, what: str) -> None:
    change, message = ODD[what]
    state = old_language_model("v1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of quantized tensors, which torch gives up
        embedding = change(state["0.encoder.weight"])
        for name in ("0.encoder.weight", "0.encoder_dp.emb.weight", "1.decoder.weight"):
            state[name] = embedding
        file = write_pair(tmp_path, state, vocab_of(V1))
        with pytest.raises(InputError) as error:
            load_fastai(file)
    assert f"0.encoder.weight: {message}" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("1.layers.0.running_var", torch.ones(7), "expected running_var of shape [24], found [7]"),
        ("1.layers.4.num_batches_tracked", torch.ones(2), "num_batches_tracked of shape []"),
        ("1.layers.2.weight", torch.ones(()), "expected matrices in its linear layers"),
        ("1.layers.2.weight", torch.ones(5, 23), "expected a layer of [5, 24], found [5, 23]"),
        ("1.layers.6.bias", torch.ones(2), "expected a bias of [3], found [2]"),
        ("1.layers.8.weight", torch.ones(2, 2), "found 2 batch norms and 3 linear layers"),
        ("1.layers.4.weight", None, "expected weight of shape [5], found none"),
    ],
)
def test_heads_that_do_not_fit_are_refused(
    tmp_path: Path, key: str, value: torch.Tensor | None, message: str
) -> None:
    state = old_classifier("v1")
    state.pop(key, None)
    if value is not None:
        state[key] = value
    with pytest.raises(InputError) as error:
        load_fastai(write_pair(tmp_path, state, vocab_of(V1)))
    assert message in str(error.value)


def test_a_vocabulary_of_too_many_instructions_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocab_pickle_module, "MOST_INSTRUCTIONS", 100)
    with pytest.raises(InputError, match="more than 100 instructions for a vocabulary; refused"):
        read_vocab_pickle(b"\x80\x02" + b"]" * 1000 + b".", "v")


def test_reading_a_vocabulary_takes_time_by_its_length() -> None:
    """Marks above a long stack: a search from below would take minutes for these 2.4 MB."""
    n = 300_000
    data = b"\x80\x02" + b"X\x01\0\0\0a" * n + b"(t" * n + b"."
    started = time.perf_counter()
    with pytest.raises(InputError, match="the vocabulary is empty"):
        read_vocab_pickle(data, "v")
    assert time.perf_counter() - started < 10


@pytest.mark.parametrize("form", ["zip", "legacy", "vocabulary", "tar"])
def test_any_changed_byte_is_read_or_refused_in_one_line(tmp_path: Path, form: str) -> None:
    draw = random.Random(form)
    model, vocab = good(tmp_path)
    source = {
        "zip": model, "legacy": as_legacy(old_language_model("v1")), "vocabulary": vocab,
        "tar": archive_of(tmp_path, {"m.pth": model, "v.pkl": vocab}, "a.tar").read_bytes(),
    }[form]  # fmt: skip
    readers = {
        "zip": lambda data: read_weights(data, "m"),
        "legacy": lambda data: read_weights(data, "m"),
        "vocabulary": lambda data: read_vocab_pickle(data, "v"),
        "tar": lambda data: (
            (tmp_path / "b.tar").write_bytes(data) and read_archive(tmp_path / "b.tar")
        ),
    }
    refusals = []
    for _ in range(300):
        data = bytearray(source)
        for _ in range(draw.choice([1, 2, 8])):
            most = len(data) if draw.random() < 0.3 else min(len(data), 3000)
            data[draw.randrange(most)] = draw.choice([0, 255, 40, 46, draw.randrange(256)])
        try:
            readers[form](bytes(data))
        except InputError as error:
            refusals.append(str(error))
    assert len(refusals) > 20
    assert not any("\n" in refusal for refusal in refusals)
