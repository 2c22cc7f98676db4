"""The layers: nn.LSTM's parameters, dropout only in training, masks fixed by the seed."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from ulmfit_fast import functional
from ulmfit_fast.modules import EmbeddingDropout, VariationalDropout, WeightDroppedLSTM


def test_state_dict_goes_to_nn_lstm_and_back() -> None:
    ours, theirs = WeightDroppedLSTM(5, 7, drop_p=0.5), nn.LSTM(5, 7)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(6, 3, 5)
    y, (h, c) = ours.eval()(x)
    expected, (h_n, c_n) = theirs(x)
    for found, wanted in [(y, expected), (h, h_n[0]), (c, c_n[0])]:
        assert torch.allclose(found, wanted, atol=1e-6)
    ours.load_state_dict(nn.LSTM(5, 7).state_dict())


def test_weights_are_dropped_in_training_only_and_by_manual_seed() -> None:
    lstm = WeightDroppedLSTM(4, 8, drop_p=0.5)
    x = torch.randn(5, 2, 4)
    torch.manual_seed(1)
    first = lstm(x)[0]
    assert not torch.equal(first, lstm(x)[0])
    torch.manual_seed(1)
    assert torch.equal(first, lstm(x)[0])
    lstm.eval()
    assert torch.equal(lstm(x)[0], lstm(x)[0])


def test_dropped_weights_get_no_gradient_and_kept_ones_do() -> None:
    lstm = WeightDroppedLSTM(4, 8, drop_p=0.5)
    torch.manual_seed(1)
    lstm(torch.randn(5, 2, 4))[0].sum().backward()
    torch.manual_seed(1)
    torch.randn(5, 2, 4)
    seed = functional.draw_seeds(1, "cpu")
    kept = functional.drop_connect(torch.ones(32, 8), 0.5, seed) != 0
    assert lstm.weight_hh_l0.grad is not None
    assert torch.equal(lstm.weight_hh_l0.grad != 0, kept)


def test_a_split_sequence_with_its_state_equals_the_whole() -> None:
    lstm = WeightDroppedLSTM(4, 8).eval()
    x = torch.randn(9, 2, 4)
    whole, (h, c) = lstm(x)
    first, state = lstm(x[:4])
    second, (h2, c2) = lstm(x[4:], state)
    assert torch.allclose(torch.cat([first, second]), whole, atol=1e-6)
    assert torch.allclose(h, h2, atol=1e-6)
    assert torch.allclose(c, c2, atol=1e-6)


def test_lstm_copies_pickles_and_averages() -> None:
    lstm = WeightDroppedLSTM(3, 4, drop_p=0.3)
    lstm(torch.randn(2, 1, 3))[0].sum().backward()
    x = torch.randn(5, 2, 3)
    expected = lstm.eval()(x)[0]
    averaged = torch.optim.swa_utils.AveragedModel(lstm)
    averaged.update_parameters(lstm)
    for twin in (copy.deepcopy(lstm), pickle.loads(pickle.dumps(lstm)), averaged.module):
        assert torch.equal(twin.eval()(x)[0], expected)


def test_embedding_dropout_drops_words_in_training_only() -> None:
    embedding = EmbeddingDropout(50, 4, drop_p=0.5, padding_idx=1)
    ids = torch.arange(50).reshape(2, 25)
    zero = (embedding(ids) == 0).all(dim=2)
    assert 10 < int(zero.sum()) < 40
    assert torch.equal(embedding.eval()(ids), embedding.weight[ids])


def test_variational_dropout_is_the_identity_in_eval() -> None:
    dropout = VariationalDropout(0.5)
    x = torch.ones(4, 3, 20)
    dropped = dropout(x)
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(dropout.eval()(x), x)


@pytest.mark.parametrize("make", [lambda p: WeightDroppedLSTM(2, 2, p), VariationalDropout])
def test_rates_outside_the_range_are_refused(make) -> None:
    with pytest.raises(ValueError, match="drop_p: expected a chance"):
        make(1.0)


def test_repr_names_sizes_and_rates() -> None:
    modules = [WeightDroppedLSTM(2, 3, 0.5), EmbeddingDropout(4, 2, 0.1), VariationalDropout(0.3)]
    assert [repr(module) for module in modules] == [
        "WeightDroppedLSTM(2, 3, drop_p=0.5)",
        "EmbeddingDropout(4, 2, drop_p=0.1)",
        "VariationalDropout(drop_p=0.3)",
    ]
