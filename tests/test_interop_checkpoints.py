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
@pytest.mark.parametrize("with_opt", [False, True])
def test_a_language_model_of_v2_computes_the_same(tmp_path: Path, with_opt: bool) -> None:
    theirs = fastai_language_model()
    state: Any = theirs.state_dict()
    if with_opt:  # as learn.save leaves it, with numbers of numpy
        import numpy as np

        state = {"model": state, "opt": {"state": [], "hypers": [{"lr": np.float64(1e-3)}]}}
    file = write_pair(tmp_path, state, vocab_of(V2))
    trainer = load_fastai(file)
    assert trainer.tokenizer is not None
    assert trainer.tokenizer.vocab == vocab_of(V2)
    assert trainer.language_model is not None
    with torch.no_grad():
        logits, _ = trainer.language_model(IDS)
    assert torch.allclose(logits, logits_of(theirs, IDS), atol=1e-5)


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
    assert torch.allclose(output.transpose(0, 1), expected, atol=1e-5)


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
    assert torch.allclose(logits, logits_of(theirs, IDS), atol=1e-5)
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
    assert torch.allclose(trainer_head(x), expected, atol=1e-4)
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


@pytest.mark.peer
def test_learners_of_fastai_take_our_files_and_trainers_take_learners(
    tmp_path: Path, trainer: ULMFiTTrainer
) -> None:
    text = pytest.importorskip("fastai.text.all")
    import pandas as pd

    (tmp_path / "models").mkdir()
    save_fastai(ULMFiTTrainer.load(saved_lm(trainer, tmp_path)), tmp_path / "models" / "ours")
    texts, labels = draw_texts(40)
    table = pd.DataFrame({"text": texts, "label": labels})
    sizes = {**text.awd_lstm_lm_config, "emb_sz": 100, "n_hid": 256, "n_layers": 2}
    options = {"bs": 8, "seq_len": 12, "path": tmp_path, "min_freq": 1}
    lm_dls = text.TextDataLoaders.from_df(table, text_col="text", is_lm=True, **options)
    learn = text.language_model_learner(
        lm_dls, text.AWD_LSTM, config=sizes, pretrained_fnames=["ours", "ours_vocab"], path=tmp_path
    )
    row = learn.dls.vocab.index("horse")
    assert trainer.tokenizer is not None
    assert trainer.language_model is not None
    ours = trainer.language_model.encoder.embedding.weight[trainer.tokenizer.vocab.index("horse")]
    assert torch.equal(learn.model[0].encoder.weight[row].cpu(), ours)

    dls = text.TextDataLoaders.from_df(
        table, text_col="text", label_col="label", text_vocab=lm_dls.vocab, **options
    )
    config = {**text.awd_lstm_clas_config, "emb_sz": 100, "n_hid": 256, "n_layers": 2}
    learner = text.text_classifier_learner(
        dls, text.AWD_LSTM, config=config, pretrained=False, max_len=24, seq_len=12
    )
    with learner.no_bar(), learner.no_logging():
        learner.fit(1, 1e-2)
        expected, _ = learner.get_preds(dl=learner.dls.test_dl(texts))
    taken = ULMFiTTrainer.from_fastai(learner)
    found = torch.tensor([list(p.probabilities.values()) for p in taken.predict(texts)])
    assert taken.labels == list(dls.vocab[1])
    assert torch.allclose(found, expected, atol=1e-2 if taken.precision.name == "bf16" else 1e-5)
    with pytest.raises(InputError, match="expected a learner of fastai's text learners, found int"):
        ULMFiTTrainer.from_fastai(3)
