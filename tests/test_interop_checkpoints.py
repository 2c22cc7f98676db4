"""fastai's files of every era to our models and back; held to fastai itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fastai_files import (
    V07,
    V1,
    V2,
    C,
    E,
    H,
    V,
    old_classifier,
    old_language_model,
    vocab_of,
    write_pair,
)
from small_training import draw_texts, small_config
from torch import Tensor, nn

from ulmfit_fast import InputError, ULMFiTTrainer
from ulmfit_fast.interop.checkpoints import load_fastai, save_fastai
from ulmfit_fast.interop.layouts import from_fastai, to_fastai

DROPOUTS = {"output_p": 0.1, "hidden_p": 0.1, "input_p": 0.1, "embed_p": 0.1, "weight_p": 0.1}
SIZES = {"emb_sz": E, "n_hid": H, "n_layers": 3, "pad_token": 1, "bidir": False}


def fastai_language_model() -> Any:
    models = pytest.importorskip("fastai.text.models")
    torch.manual_seed(1)
    config = {**SIZES, **DROPOUTS, "tie_weights": True, "out_bias": True}
    return models.get_language_model(models.AWD_LSTM, V, config=config).eval()


def fastai_classifier(drop_mult: float = 1.0, lin_ftrs: list[int] | None = None) -> Any:
    models = pytest.importorskip("fastai.text.models")
    torch.manual_seed(2)
    model = models.get_text_classifier(
        models.AWD_LSTM, V, C, seq_len=72, config={**SIZES, **DROPOUTS}, drop_mult=drop_mult,
        lin_ftrs=lin_ftrs, max_len=1440,
    )  # fmt: skip
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model.eval()


def logits_of(model: Any, ids: Tensor) -> Tensor:
    model.reset()
    with torch.no_grad():
        found: Tensor = model(ids)[0]
    return found


IDS = torch.randint(3, V, (2, 11), generator=torch.Generator().manual_seed(3))


@pytest.mark.peer
def test_a_language_model_of_v2_computes_the_same(tmp_path: Path) -> None:
    theirs = fastai_language_model()
    file = write_pair(tmp_path, theirs.state_dict(), vocab_of(V2))
    trainer = load_fastai(file)
    assert trainer.tokenizer is not None
    assert trainer.tokenizer.vocab == vocab_of(V2)
    assert trainer.language_model is not None
    with torch.no_grad():
        logits, _ = trainer.language_model(IDS)
    assert torch.allclose(logits, logits_of(theirs, IDS), atol=1e-6)


@pytest.mark.peer
def test_an_encoder_of_v2_is_a_language_model_without_the_bias(tmp_path: Path) -> None:
    theirs = fastai_language_model()
    file = write_pair(tmp_path, theirs[0].state_dict(), vocab_of(V2))
    trainer = load_fastai(file)
    assert trainer.language_model is not None
    assert trainer.language_model.decoder_bias.abs().sum() == 0
    with torch.no_grad():
        output, _ = trainer.language_model.encoder(IDS)
        theirs.reset()
        expected = theirs[0](IDS)
    assert torch.allclose(output.transpose(0, 1), expected, atol=1e-6)


@pytest.mark.peer
@pytest.mark.parametrize("drop_mult", [1.0, 0.0])
@pytest.mark.parametrize("lin_ftrs", [None, [7]])
def test_a_classifier_of_v2_computes_the_same(
    tmp_path: Path, drop_mult: float, lin_ftrs: list[int] | None
) -> None:
    theirs = fastai_classifier(drop_mult, lin_ftrs)
    file = write_pair(tmp_path, theirs.state_dict(), vocab_of(V2))
    trainer = load_fastai(file, labels=["a", "b", "c"])
    assert trainer.classifier is not None
    assert trainer.labels == ["a", "b", "c"]
    with torch.no_grad():
        logits = trainer.classifier(IDS, [11, 11])
    assert torch.allclose(logits, logits_of(theirs, IDS), atol=1e-6)
    back = to_fastai(trainer.classifier)
    assert list(back) == list(theirs.state_dict())
    assert all(torch.equal(back[name], tensor) for name, tensor in theirs.state_dict().items())
    trainer.save(tmp_path / "ours")
    again = ULMFiTTrainer.load(tmp_path / "ours")
    for name, tensor in trainer.classifier.state_dict().items():
        assert again.classifier is not None
        assert torch.equal(again.classifier.state_dict()[name], tensor)


@pytest.mark.parametrize(("era", "specials"), [("v1", V1), ("0.7", V07)])
def test_older_language_models_keep_the_rows_of_their_words(
    tmp_path: Path, era: str, specials: list[str]
) -> None:
    state, vocab = old_language_model(era), vocab_of(specials)
    trainer = load_fastai(write_pair(tmp_path, state, vocab, "lstm_fwd.h5"))
    model, tokenizer = trainer.language_model, trainer.tokenizer
    assert model is not None
    assert tokenizer is not None
    assert tokenizer.vocab[:3] == ["xxunk", "xxpad", "xxbos"]
    assert len(tokenizer.vocab) % 8 == 0
    renamed = {"_unk_": "xxunk", "_pad_": "xxpad", "xbos": "xxbos", "xfld": "xxfld"}
    for row, token in enumerate(vocab):
        if token in ("t_up", "tk_rep"):
            continue
        ours = tokenizer.vocab.index(renamed.get(token, token))
        found = model.encoder.embedding.weight[ours]
        assert torch.equal(found, state["0.encoder.weight"][row]), token
    raw = "0.rnns.1.module.weight_hh_l0_raw" if era == "0.7" else "0.rnns.1.weight_hh_l0_raw"
    assert torch.equal(model.encoder.rnns[1].weight_hh_l0, state[raw])
    assert torch.equal(model.encoder.rnns[2].bias_ih_l0, state["0.rnns.2.module.bias_ih_l0"])
    if era == "v1":
        assert torch.equal(model.decoder_bias, state["1.decoder.bias"])
    else:
        assert model.decoder_bias.abs().sum() == 0


def test_a_width_of_07_computes(tmp_path: Path) -> None:
    """1150 is no multiple of 8, and neither is 18."""
    trainer = load_fastai(write_pair(tmp_path, old_language_model("0.7", 18), vocab_of(V07)))
    state = trainer.language_model.state_dict() if trainer.language_model else {}
    lstm = nn.LSTM(18, 18)
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    lstm.load_state_dict({name: state[f"encoder.rnns.1.{name}"] for name in names})
    x = torch.randn(7, 2, 18, generator=torch.Generator().manual_seed(3))
    assert trainer.language_model is not None
    with torch.no_grad():
        found = trainer.language_model.encoder.rnns[1](x)[0]
        assert torch.allclose(found, lstm(x)[0], atol=1e-6)


@pytest.mark.parametrize("era", ["v1", "0.7"])
def test_of_an_old_classifier_the_encoder_may_be_taken(tmp_path: Path, era: str) -> None:
    state = old_classifier(era)
    weight = "1.layers.0.lin.weight" if era == "0.7" else "1.layers.2.weight"
    state[weight][1] = 0.0  # its bias is then a constant that no batch norm can add
    file = write_pair(tmp_path, state, vocab_of(V07 if era == "0.7" else V1))
    with pytest.raises(InputError, match=r"take the encoder \(--encoder-only\)"):
        load_fastai(file)
    model = load_fastai(file, encoder_only=True).language_model
    assert model is not None
    at = "0." if era == "0.7" else "0.module."
    expected = state[f"{at}rnns.0.module.bias_ih_l0"]
    assert torch.equal(model.encoder.rnns[0].bias_ih_l0, expected)
    assert model.decoder_bias.abs().sum() == 0


@pytest.mark.parametrize("era", ["v1", "0.7"])
def test_heads_with_biases_compute_the_same_without(era: str) -> None:
    state = old_classifier(era)
    found = from_fastai(state, "file")
    trainer_head = nn.Sequential(
        nn.BatchNorm1d(3 * E), nn.Dropout(), nn.Linear(3 * E, 5, bias=False), nn.ReLU(),
        nn.BatchNorm1d(5), nn.Dropout(), nn.Linear(5, C, bias=False),
    ).eval()  # fmt: skip
    ours = {k.removeprefix("head."): t for k, t in found.tensors.items() if k.startswith("head.")}
    trainer_head.load_state_dict(ours)
    linears = ("1.layers.0.lin", "1.layers.1.lin") if era == "0.7" else ("1.layers.2", "1.layers.6")
    norms = ("1.layers.0.bn", "1.layers.1.bn") if era == "0.7" else ("1.layers.0", "1.layers.4")
    x = expected = torch.randn(9, 3 * E)
    for step, (linear, norm) in enumerate(zip(linears, norms, strict=True)):
        parts = (
            state[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        expected = nn.functional.batch_norm(expected, *parts)
        expected = nn.functional.linear(
            expected, state[f"{linear}.weight"], state[f"{linear}.bias"]
        )
        expected = expected.relu() if step == 0 else expected
    assert torch.allclose(trainer_head(x), expected, atol=1e-5)
    assert (found.kind, found.n_classes, found.head_size) == ("classifier", C, 5)


def trained() -> ULMFiTTrainer:
    texts, labels = draw_texts(60)
    trainer = ULMFiTTrainer(small_config(), size="tiny")
    trainer.pretrain(texts)
    trainer.train_classifier(texts, labels)
    return trainer


@pytest.fixture(scope="module")
def trainer() -> ULMFiTTrainer:
    return trained()


@pytest.mark.parametrize("kind", ["language_model", "classifier"])
def test_round_trip_keeps_every_bit(tmp_path: Path, trainer: ULMFiTTrainer, kind: str) -> None:
    trainer.save(tmp_path / "ours", kind)
    loaded = ULMFiTTrainer.load(tmp_path / "ours")
    weights, vocab = save_fastai(loaded, tmp_path / "theirs.pth")
    assert vocab.name == "theirs_vocab.pkl"
    again = load_fastai(weights, labels=loaded.labels or None)
    assert again.tokenizer is not None
    assert trainer.tokenizer is not None
    assert again.tokenizer.vocab == trainer.tokenizer.vocab
    before = getattr(loaded, kind).state_dict()
    for name, tensor in getattr(again, kind).state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_order_and_sharing_are_those_of_fastai(trainer: ULMFiTTrainer, tmp_path: Path) -> None:
    models = pytest.importorskip("fastai.text.models")
    language_model = trainer.language_model
    assert language_model is not None
    config = language_model.config
    sizes = {**SIZES, "emb_sz": 100, "n_hid": 256, "n_layers": 2, **DROPOUTS}
    theirs = models.get_language_model(
        models.AWD_LSTM, config.vocab_size, config={**sizes, "tie_weights": True, "out_bias": True}
    )
    state = to_fastai(language_model)
    assert list(state) == list(theirs.state_dict())
    theirs.load_state_dict(state)
    weights, _ = save_fastai(ULMFiTTrainer.load(saved_lm(trainer, tmp_path)), tmp_path / "a")
    loaded = torch.load(weights, weights_only=True)
    assert (
        len({loaded[k].data_ptr() for k in loaded if loaded[k].shape[0] == config.vocab_size}) == 2
    )
    classifier = models.get_text_classifier(models.AWD_LSTM, config.vocab_size, 2, config=sizes)
    assert trainer.classifier is not None
    assert list(to_fastai(trainer.classifier)) == list(classifier.state_dict())


def saved_lm(trainer: ULMFiTTrainer, folder: Path) -> Path:
    trainer.save(folder / "lm", "language_model")
    return folder / "lm"
