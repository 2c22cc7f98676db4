"""AWD_LSTM for fastai: the cases of fastai's own tests (notebooks 32 and 33)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("fastai")
from fastai.text.models.awdlstm import AWD_LSTM as FASTAI_AWD_LSTM
from fastai.text.models.awdlstm import awd_lstm_clas_split, awd_lstm_lm_split
from fastai.text.models.core import (
    LinearDecoder,
    SentenceEncoder,
    get_language_model,
    get_text_classifier,
)
from fastai_models import (
    CLASSIFIER_CONFIG,
    LM_CONFIG,
)

from ulmfit_fast import functional
from ulmfit_fast.interop.fastai import AWD_LSTM, EmbeddingDropout, RNNDropout, WeightDropout

pytestmark = pytest.mark.peer


def pair(*sizes: int, seed: int = 0, **options: Any) -> tuple[nn.Module, nn.Module]:
    """Return fastai's model and ours, made with one seed."""
    models = []
    for arch in (FASTAI_AWD_LSTM, AWD_LSTM):
        torch.manual_seed(seed)
        models.append(arch(*sizes, **options))
    return models[0], models[1]


# The cases of fastai's notebooks 32 and 33


def test_rnn_dropout_drops_a_feature_at_every_step_or_at_none() -> None:
    x = torch.randn(4, 3, 7)
    y = RNNDropout(0.3)(x)
    kept = y[:, :1] != 0
    torch.testing.assert_close(y, torch.where(kept, x / 0.7, torch.zeros(())))
    assert 0 < int(kept.sum()) < 28


def test_rnn_dropout_takes_sequences_of_images() -> None:
    x = torch.rand(4, 10, 3, 8, 8) + 1
    y = RNNDropout(0.3)(x)
    assert y.shape == x.shape
    assert torch.equal((y == 0).all(1), (y == 0).any(1))


def test_weight_dropout_drops_recurrent_weights_and_their_gradients() -> None:
    layer = WeightDropout(nn.LSTM(5, 7, batch_first=True), 0.4)
    h = torch.zeros(1, 10, 7)
    torch.manual_seed(5)
    y, _ = layer(torch.randn(10, 20, 5), (h, h))
    y.sum().backward()
    grad = layer.weight_hh_l0_raw.grad
    assert layer.weight_hh_l0_raw.requires_grad
    assert 0.2 <= float((grad == 0).double().mean()) <= 0.6
    torch.manual_seed(5)
    torch.randn(10, 20, 5)
    seed = functional.draw_seeds(1, y.device)
    dropped = functional.drop_connect(layer.weight_hh_l0_raw, 0.4, seed)
    assert torch.equal(grad == 0, dropped == 0)


def test_weight_dropout_leaves_the_reverse_direction_whole_as_fastais_does() -> None:
    layer = WeightDropout(nn.LSTM(5, 7, batch_first=True, bidirectional=True), 0.4)
    h = torch.zeros(2, 10, 7)
    y, _ = layer(torch.randn(10, 20, 5), (h, h))
    y.sum().backward()
    assert bool((layer.weight_hh_l0_raw.grad == 0).any())
    assert not bool((layer.module.weight_hh_l0_reverse.grad == 0).any())


def test_embedding_dropout_drops_words() -> None:
    table = nn.Embedding(10, 7, padding_idx=1)
    words = torch.randint(10, (8,))
    found = EmbeddingDropout(table, 0.5)(words)
    whole = 2 * table(words)
    for row, other in zip(found, whole, strict=True):
        assert bool((row == 0).all()) or torch.equal(row, other)
    scaled = EmbeddingDropout(table, 0.5).eval()(words, scale=3.0)
    assert torch.equal(scaled, 3 * table(words))


def test_shapes_and_state_are_fastais() -> None:
    model = AWD_LSTM(100, 20, 10, 2, hidden_p=0.2, embed_p=0.02, input_p=0.1, weight_p=0.2)
    y = model(torch.randint(100, (10, 5)))
    assert (model.bs, len(model.hidden)) == (10, 2)
    assert [list(x.shape) for x in model.hidden[0]] == [[1, 10, 10]] * 2
    assert [list(x.shape) for x in model.hidden[1]] == [[1, 10, 20]] * 2
    assert list(y.shape) == [10, 5, 20]
    assert torch.equal(y[:, -1], model.hidden[-1][0][0])
    model(torch.randint(100, (6, 5)))
    assert model.bs == 6
    model.reset()
    assert all(not bool(x.any()) for pair in model.hidden for x in pair)


def test_text_comes_as_embeddings_too() -> None:
    model = AWD_LSTM(20, 8, 12, 2).eval()
    ids = torch.randint(20, (3, 5))
    expected = model(ids)
    model.reset()
    assert torch.equal(model(model.encoder_dp(ids), from_embeds=True), expected)


def test_ids_may_be_of_32_bits_as_in_fastai() -> None:
    theirs, ours = (model.eval() for model in pair(20, 8, 12, 2))
    ids = torch.randint(20, (3, 5))
    expected = ours(ids)
    ours.reset()
    assert torch.equal(ours(ids.int()), expected)
    torch.testing.assert_close(theirs(ids.int()), expected)
    with pytest.raises(ValueError, match=r"ids: expected int64, found torch\.float32"):
        ours(ids.float())


def test_language_model_ties_its_decoder() -> None:
    model = get_language_model(AWD_LSTM, 100, LM_CONFIG)
    logits, raw, dropped = model(torch.randint(100, (10, 5)))
    assert [list(x.shape) for x in (logits, raw, dropped)] == [[10, 5, 100], *[[10, 5, 8]] * 2]
    assert model[1].decoder.weight is model[0].encoder.weight
    free = LinearDecoder(100, 8, 0.1)
    assert list(free(raw)[0].shape) == [10, 5, 100]


@pytest.mark.parametrize("kind", ["language model", "classifier"])
def test_drop_mult_scales_every_dropout(kind: str) -> None:
    if kind == "language model":
        config, model = LM_CONFIG, get_language_model(AWD_LSTM, 100, LM_CONFIG, drop_mult=0.5)
        encoder, output_dp = model[0], model[1].output_dp
    else:
        config = CLASSIFIER_CONFIG
        model = get_text_classifier(AWD_LSTM, 100, 3, config=config, drop_mult=0.5)
        encoder, output_dp = model[0].module, model[1].layers[0][1]
        assert model[1].layers[1][1].p == 0.1
    assert [rnn.weight_p for rnn in encoder.rnns] == [config["weight_p"] * 0.5] * 2
    assert [dp.p for dp in encoder.hidden_dps] == [config["hidden_p"] * 0.5] * 2
    assert encoder.encoder_dp.embed_p == config["embed_p"] * 0.5
    assert encoder.input_dp.p == config["input_p"] * 0.5
    assert output_dp.p == config["output_p"] * 0.5


def test_split_gives_fastais_groups() -> None:
    for arch in (FASTAI_AWD_LSTM, AWD_LSTM):
        lm = get_language_model(arch, 100, LM_CONFIG)
        classifier = get_text_classifier(arch, 100, 3, config=CLASSIFIER_CONFIG)
        sizes = [[list(p.shape) for p in group] for group in awd_lstm_lm_split(lm)]
        classifier_sizes = [[list(p.shape) for p in g] for g in awd_lstm_clas_split(classifier)]
        if arch is FASTAI_AWD_LSTM:
            expected = sizes, classifier_sizes
    assert (sizes, classifier_sizes) == expected
    assert (len(sizes), len(classifier_sizes)) == (3, 4)


def test_sentence_encoder_gives_a_padded_text_what_it_gives_it_alone() -> None:
    encoder = SentenceEncoder(5, AWD_LSTM(30, 8, 12, 2).eval(), pad_idx=1)
    ids = torch.randint(2, 30, (3, 14))
    ids[1, :5] = 1  # fastai pads whole chunks before the text
    ids[2, :10] = 1
    out, mask = encoder(ids)
    assert torch.equal(mask, ids == 1)
    for row, start in ((1, 5), (2, 10)):
        alone, _ = encoder(ids[row : row + 1, start:])
        torch.testing.assert_close(out[row, start:], alone[0])


def test_classifier_has_fastais_shapes_and_padding_changes_nothing() -> None:
    model = get_text_classifier(AWD_LSTM, 100, 3, config=CLASSIFIER_CONFIG)
    ids = torch.randint(2, 100, (10, 5))
    y = model(ids)
    assert [list(x.shape) for x in y] == [[10, 3], [10, 5, 8], [10, 5, 8]]
    model.eval()
    expected = model(ids)[0]
    padded = torch.cat([ids, torch.tensor([2, *[1] * 9])[:, None]], dim=1)
    torch.testing.assert_close(model(padded)[0][1:], expected[1:])


def test_classifier_is_fastais_over_documents_of_many_lengths() -> None:
    outputs = []
    ids = torch.randint(2, 50, (4, 23))
    for row, n in enumerate((0, 6, 12, 18)):
        ids[row, :n] = 1
    ids[1, -2:] = 1
    for arch in (FASTAI_AWD_LSTM, AWD_LSTM):
        torch.manual_seed(0)
        model = get_text_classifier(
            arch, 50, 3, seq_len=6, config=CLASSIFIER_CONFIG, max_len=12
        ).eval()
        outputs.append(model(ids)[0])
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-5, atol=1e-6)
