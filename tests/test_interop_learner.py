"""Learners of fastai: they take our files by every way of theirs, and trainers take them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fastai_files import V1, old_language_model, vocab_of, write_pair
from small_training import draw_texts
from torch import Tensor, nn

from ulmfit_fast import InputError, ULMFiTTrainer
from ulmfit_fast.interop.checkpoints import load_fastai, save_fastai

text = pytest.importorskip("fastai.text.all")
pd = pytest.importorskip("pandas")

pytestmark = pytest.mark.peer
TEXTS, LABELS = draw_texts(40)
SIZES = {"emb_sz": 8, "n_hid": 16, "n_layers": 3}
OPTIONS = {"bs": 8, "seq_len": 12, "min_freq": 1, "text_col": "text"}


def language_model_learner(folder: Path, **options: Any) -> Any:
    table = pd.DataFrame({"text": TEXTS})
    dls = text.TextDataLoaders.from_df(table, is_lm=True, path=folder, **OPTIONS)
    config = {**text.awd_lstm_lm_config, **SIZES}
    learner_of = text.language_model_learner
    return learner_of(dls, text.AWD_LSTM, config=config, path=folder, **options)


def classifier_learner(folder: Path, vocab: list[str], drop_mult: float = 0.5) -> Any:
    table = pd.DataFrame({"text": TEXTS, "label": LABELS})
    dls = text.TextDataLoaders.from_df(
        table, label_col="label", text_vocab=vocab, path=folder, **OPTIONS
    )
    return text.text_classifier_learner(
        dls, text.AWD_LSTM, config={**text.awd_lstm_clas_config, **SIZES}, pretrained=False,
        max_len=24, seq_len=12, drop_mult=drop_mult, path=folder,
    )  # fmt: skip


def with_norms(learn: Any) -> Any:
    """Give the batch norms statistics; fastai's drop_mult=0 does not train on torch 2.13."""
    for module in learn.model.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return learn


def trained(learn: Any) -> Any:
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 1e-2)
    return learn


def values_of(learn: Any) -> dict[str, Tensor]:
    return {key: tensor.detach().clone() for key, tensor in learn.model.state_dict().items()}


def without_padding(state: dict[str, Tensor], n_words: int) -> dict[str, Tensor]:
    """Return tensors, those with a row for each token without the rows behind n_words."""
    return {k: t if ".rnns." in k else t[:n_words] for k, t in state.items()}


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    for key, tensor in expected.items():
        assert torch.equal(found[key], tensor), key


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("learners")
    (place / "models").mkdir()
    return place


@pytest.fixture(scope="module")
def learn(folder: Path) -> Any:
    return trained(language_model_learner(folder, pretrained=False))


@pytest.fixture(scope="module")
def classifier(folder: Path, learn: Any) -> Any:
    return trained(classifier_learner(folder, learn.dls.vocab))


@pytest.mark.parametrize("with_opt", [False, True])
def test_what_learn_save_writes_is_read(folder: Path, learn: Any, with_opt: bool) -> None:
    path = learn.save("saved", with_opt=with_opt)
    text.save_pickle(folder / "vocab.pkl", list(learn.dls.vocab))
    trainer = load_fastai(path, vocab=folder / "vocab.pkl")
    assert trainer.language_model is not None
    ids = torch.arange(22).view(2, 11)
    learn.model.eval()
    learn.model.reset()
    with torch.no_grad():
        logits, _ = trainer.language_model(ids)
        assert torch.allclose(logits, learn.model(ids)[0], atol=1e-6)
    learn.save_encoder("encoder")
    encoder = load_fastai(folder / "models" / "encoder.pth", vocab=folder / "vocab.pkl")
    assert encoder.language_model is not None
    found = encoder.language_model.encoder.state_dict()
    assert_equal(dict(found), dict(trainer.language_model.encoder.state_dict()))


def test_a_trainer_takes_a_language_model_and_fastai_takes_it_back(
    folder: Path, learn: Any
) -> None:
    expected = values_of(learn)
    taken = ULMFiTTrainer.from_fastai(learn)
    assert taken.tokenizer is not None
    assert taken.tokenizer.vocab == list(learn.dls.vocab)
    save_fastai(taken, folder / "models" / "ours")
    # By position, the vocabularies being equal: every tensor, not the names, must be in its place.
    # The rows of padding alone differ: fastai gives all of them the last one's.
    fresh = language_model_learner(folder, pretrained_fnames=["ours", "ours_vocab"])
    n_words = taken.tokenizer.vocab.index("xxfake")
    by_position = without_padding(values_of(fresh), n_words)
    assert_equal(by_position, without_padding(expected, n_words))
    fresh = language_model_learner(folder, pretrained=False)
    assert_equal(values_of(fresh.load("ours")), expected)
    save_fastai(taken, folder / "models" / "ours_encoder", encoder_only=True)
    clas = classifier_learner(folder, learn.dls.vocab).load_encoder("ours_encoder")
    ours = {key.removeprefix("0."): t for key, t in expected.items() if key.startswith("0.")}
    assert_equal(dict(clas.model[0].module.state_dict()), ours)


def test_an_old_language_model_reaches_fastai_through_us(folder: Path, tmp_path: Path) -> None:
    """Words keep their rows, others get the mean: as fastai does from any vocabulary."""
    words = ["the", "cat", "is", "old", "zebra"]
    vocab = [*vocab_of(V1)[: -len(words)], *words]
    state = old_language_model("v1")
    save_fastai(load_fastai(write_pair(tmp_path, state, vocab)), folder / "models" / "old")
    fresh = language_model_learner(folder, pretrained_fnames=["old", "old_vocab"])
    found = values_of(fresh)
    for row, token in enumerate(fresh.dls.vocab):
        if token in vocab:
            expected = state["0.encoder.weight"][vocab.index(token)]
            assert torch.equal(found["0.encoder.weight"][row], expected), token
    for key in ("0.rnns.0.weight_hh_l0_raw", "0.rnns.2.module.bias_hh_l0"):
        assert torch.equal(found[key], state[key])


@pytest.mark.parametrize("max_len", [24, None])
def test_a_trainer_predicts_what_the_learner_predicts(classifier: Any, max_len: int | None) -> None:
    classifier.model[0].max_len = max_len
    with classifier.no_bar():
        expected, _ = classifier.get_preds(dl=classifier.dls.test_dl(TEXTS))
    taken = ULMFiTTrainer.from_fastai(classifier)
    taken.config = replace(taken.config, precision="fp32")
    found = torch.tensor([list(p.probabilities.values()) for p in taken.predict(TEXTS)])
    assert taken.labels == list(classifier.dls.vocab[1])
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("drop_mult", [0.5, 0.0])
def test_a_classifier_goes_there_and_back(
    folder: Path, learn: Any, classifier: Any, drop_mult: float
) -> None:
    source = classifier
    if drop_mult == 0:
        source = with_norms(classifier_learner(folder, learn.dls.vocab, drop_mult))
    save_fastai(ULMFiTTrainer.from_fastai(source), folder / "models" / "clas")
    fresh = classifier_learner(folder, learn.dls.vocab, drop_mult)
    assert_equal(values_of(fresh.load("clas")), values_of(source))


def test_what_is_no_text_classifier_is_refused(classifier: Any) -> None:
    with pytest.raises(InputError, match="expected a learner of fastai's text learners, found int"):
        ULMFiTTrainer.from_fastai(3)
    classifier.model[1].layers.append(text.SigmoidRange(0, 1))
    with pytest.raises(InputError, match=r"a regression \(y_range\)"):
        ULMFiTTrainer.from_fastai(classifier)


def classifier_of(folder: Path, block: Any = None, category: Any = None, **options: Any) -> Any:
    """Return a learner whose texts are read in another way, or whose labels are of another kind."""
    table = pd.DataFrame({"text": TEXTS, "label": LABELS})
    texts = text.TextBlock.from_df("text", seq_len=12, min_freq=1, **(block or {}))
    data = text.DataBlock(
        blocks=(texts, category or text.CategoryBlock),
        get_x=text.ColReader("text"),
        get_y=text.ColReader("label", label_delim=None if category is None else " "),
    )
    dls = data.dataloaders(table, bs=8, path=folder)
    config = {**text.awd_lstm_clas_config, **SIZES}
    return text.text_classifier_learner(
        dls, text.AWD_LSTM, config=config, pretrained=False, path=folder, **options
    )


def test_learners_that_the_trainer_would_read_otherwise_are_refused(tmp_path: Path) -> None:
    for options, message in (
        ({"block": {"backwards": True}}, "reads texts backwards"),
        ({"category": text.MultiCategoryBlock}, "its loss is BCEWithLogitsLossFlat"),
    ):
        with pytest.raises(InputError, match=message):
            ULMFiTTrainer.from_fastai(classifier_of(tmp_path, **options))


def test_other_rules_are_warned_of(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="tokenizes by SpacyTokenizer with 0 rules"):
        ULMFiTTrainer.from_fastai(classifier_of(tmp_path, block={"rules": []}))


def test_a_vocabulary_in_another_order_is_refused(tmp_path: Path) -> None:
    file = write_pair(tmp_path, old_language_model("v1"), vocab_of(V1)[::-1])
    with pytest.raises(InputError, match="the vocabulary begins with"):
        load_fastai(str(file))
