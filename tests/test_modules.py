"""The layers: dropout only in training, masks fixed by the seed, nothing hidden, clear refusals.

That WeightDroppedLSTM gives what nn.LSTM gives stands in test_modules_lstm.py.
"""

from __future__ import annotations

import copy
import gc
import pickle
import re
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.rnn import pack_sequence

from ulmfit_fast import functional
from ulmfit_fast.modules import EmbeddingDropout, VariationalDropout, WeightDroppedLSTM

T, B, I, H = 6, 4, 5, 7


def test_each_layer_and_direction_has_a_mask_of_its_own_from_one_draw() -> None:
    lstm = WeightDroppedLSTM(I, H, 2, bidirectional=True, drop_p=0.5)
    x = torch.randn(T, B, I)
    torch.manual_seed(1)
    lstm(x)[0].sum().backward()
    after = torch.get_rng_state()
    torch.manual_seed(1)
    seeds = functional.draw_seeds(4, "cpu")
    assert torch.equal(after, torch.get_rng_state())
    for seed, (_, w_hh, *_) in zip(seeds, lstm.all_weights, strict=True):
        kept = functional.drop_connect(torch.ones_like(w_hh), 0.5, seed) != 0
        assert torch.equal(w_hh.grad != 0, kept)
        assert 0 < int(kept.sum()) < kept.numel()


def test_weights_are_dropped_in_training_only_and_by_manual_seed() -> None:
    lstm = WeightDroppedLSTM(I, H, 2, drop_p=0.5)
    x = torch.randn(T, B, I)
    torch.manual_seed(1)
    first = lstm(x)[0]
    assert not torch.equal(first, lstm(x)[0])
    torch.manual_seed(1)
    assert torch.equal(first, lstm(x)[0])
    plain = nn.LSTM(I, H, 2)
    plain.load_state_dict(lstm.state_dict())
    assert torch.allclose(lstm.eval()(x)[0], plain(x)[0], atol=1e-6)


@pytest.mark.parametrize("training", [False, True])
def test_nothing_is_drawn_where_nothing_is_dropped(training: bool) -> None:
    p = 0.0 if training else 0.5
    lstm = WeightDroppedLSTM(I, H, 2, dropout=p, drop_p=p).train(training)
    before = torch.get_rng_state()
    lstm(torch.randn(T, B, I, generator=torch.Generator()))
    assert torch.equal(before, torch.get_rng_state())


def live_tensors() -> int:
    gc.collect()
    return sum(type(thing) in (Tensor, nn.Parameter) for thing in gc.get_objects())


def test_training_leaves_no_tensor_and_no_warning_behind() -> None:
    lstm = WeightDroppedLSTM(I, H, 2, bidirectional=True, dropout=0.2, drop_p=0.5)
    x = torch.randn(T, B, I)
    before, fields = live_tensors(), set(vars(lstm))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lstm.flatten_parameters()
        lstm(x)[0].sum().backward()
        lstm(pack_sequence([x[:2, 0], x[:, 1], x[:1, 2]], enforce_sorted=False))[
            0
        ].data.sum().backward()
    lstm.zero_grad(set_to_none=True)
    assert live_tensors() == before
    assert set(vars(lstm)) == fields
    assert not [key for key, value in vars(lstm).items() if isinstance(value, Tensor)]
    assert not list(lstm.buffers())
    assert len({p.untyped_storage().data_ptr() for p in lstm.parameters()}) == 16


def test_copies_pickles_averages_and_vectors_run_alike() -> None:
    lstm = WeightDroppedLSTM(I, H, 2, bidirectional=True, drop_p=0.3)
    x = torch.randn(T, B, I)
    lstm(x)[0].sum().backward()
    averaged = torch.optim.swa_utils.AveragedModel(lstm)
    averaged.update_parameters(lstm)
    written = WeightDroppedLSTM(I, H, 2, bidirectional=True, drop_p=0.3)
    vector = nn.utils.parameters_to_vector(lstm.parameters())
    nn.utils.vector_to_parameters(vector, written.parameters())
    replica = lstm._replicate_for_data_parallel()  # holds plain tensors, no parameters
    for key, value in lstm.named_parameters():
        setattr(replica, key, value.detach().clone())
    twins = {
        "deepcopy": copy.deepcopy(lstm),
        "copy": copy.copy(lstm),
        "pickle": pickle.loads(pickle.dumps(lstm)),
        "average": averaged.module,
        "vector": written,
        "replica": replica,
    }
    torch.manual_seed(1)
    expected = lstm(x)[0]
    for key, twin in twins.items():
        torch.manual_seed(1)
        assert torch.equal(twin(x)[0], expected), key
    torch.manual_seed(1)
    doubled = {key: 2 * value for key, value in lstm.named_parameters()}
    called = torch.func.functional_call(lstm, doubled, (x,))[0]
    assert not torch.equal(called, expected)


class Halved(nn.Module):
    """Parametrization whose weight is half of what is stored."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


@pytest.mark.parametrize("weight", ["weight_ih_l0", "weight_hh_l1", "bias_hh_l0"])
def test_parametrized_weights_are_used_and_trained(weight: str) -> None:
    ours = WeightDroppedLSTM(I, H, 2)
    plain = copy.deepcopy(ours)
    with torch.no_grad():
        getattr(plain, weight).div_(2)
    parametrize.register_parametrization(ours, weight, Halved())
    x = torch.randn(T, B, I)
    assert torch.equal(ours(x)[0], plain(x)[0])
    ours(x)[0].sum().backward()
    plain(x)[0].sum().backward()
    stored = getattr(ours.parametrizations, weight).original
    assert torch.equal(stored.grad, getattr(plain, weight).grad / 2)


def test_weight_norm_leaves_the_results_as_they_are() -> None:
    lstm, x = WeightDroppedLSTM(I, H), torch.randn(T, B, I)
    expected = lstm(x)[0]
    parametrizations.weight_norm(lstm, "weight_hh_l0")
    assert torch.allclose(lstm(x)[0], expected, atol=1e-6)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_training_compiles_as_one_graph_and_equals_eager(backend: str) -> None:
    lstm = WeightDroppedLSTM(I, H, 2, batch_first=True, bidirectional=True, dropout=0.3, drop_p=0.4)
    compiled = torch.compile(lstm, fullgraph=True, backend=backend)
    x, lengths = torch.randn(B, T, I), torch.tensor([2, 6, 1, 5])
    found = []
    with torch._inductor.config.patch(fallback_random=True):  # the draws of eager mode
        for module in (lstm, compiled):
            torch.manual_seed(1)
            lstm.zero_grad()
            y, (h_n, c_n) = module(x, None, lengths)
            (y.sum() + h_n.sum() + c_n.sum()).backward()
            found.append([y, h_n, c_n, *[p.grad for p in lstm.parameters()]])
    for eager, graph in zip(*found, strict=True):
        assert torch.allclose(eager, graph, atol=1e-6)


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


@pytest.mark.parametrize("make", [lambda p: WeightDroppedLSTM(2, 2, drop_p=p), VariationalDropout])
def test_rates_outside_the_range_are_refused(make) -> None:
    with pytest.raises(ValueError, match="drop_p: expected a chance"):
        make(1.0)


def refused_layers() -> dict[str, tuple[type[Exception], dict[str, Any]]]:
    """Return messages, and the arguments that cause them."""
    chance = (
        "num_layers: expected an integer of at least 1, found 0.5; a chance goes by name: drop_p="
    )
    return {
        chance: (ValueError, {"num_layers": 0.5}),
        "num_layers: expected an integer of at least 1, found 0": (ValueError, {"num_layers": 0}),
        "input_size: expected an integer of at least 1, found -1": (ValueError, {"input_size": -1}),
        "hidden_size: expected an integer of at least 1, found '7'": (
            ValueError,
            {"hidden_size": "7"},
        ),
        "bias: expected True or False, found 0.5": (ValueError, {"bias": 0.5}),
        "bidirectional: expected True or False, found 2": (ValueError, {"bidirectional": 2}),
        "dropout: expected a chance in [0, 1], found 1.5": (ValueError, {"dropout": 1.5}),
        "dropout: expected a chance in [0, 1], found nan": (ValueError, {"dropout": float("nan")}),
        "drop_p: expected a chance in [0, 1), found -0.1": (ValueError, {"drop_p": -0.1}),
        "proj_size: WeightDroppedLSTM has no such argument; proj_size is not offered": (
            TypeError,
            {"proj_size": 3},
        ),
    }


@pytest.mark.parametrize("message", refused_layers())
def test_bad_settings_are_named(message: str) -> None:
    error, wrong = refused_layers()[message]
    with pytest.raises(error, match=re.escape(message)) as caught:
        WeightDroppedLSTM(**{"input_size": I, "hidden_size": H, **wrong})
    assert "\n" not in str(caught.value)


def refused_calls() -> dict[str, tuple[WeightDroppedLSTM, tuple[Any, ...]]]:
    """Return messages, and the calls that cause them."""
    lstm, stack = WeightDroppedLSTM(I, H), WeightDroppedLSTM(I, H, 2, True, True)
    x, h, h2 = torch.randn(T, B, I), torch.zeros(1, B, H), torch.zeros(2, B, H)
    packed = pack_sequence([x[:, 0], x[:3, 1]])
    features = "input: expected shape [T, B, 5], or [T, 5] for one sequence, T, B >= 1, found"
    lengths = torch.tensor([1, 2, 3, 4])
    return {
        f"{features} [6, 4, 4]": (lstm, (x[..., :4],)),
        f"{features} [0, 4, 5]": (lstm, (x[:0],)),
        f"{features} [6, 0, 5]": (lstm, (x[:, :0],)),
        f"{features} [0, 5]": (lstm, (x[:0, 0],)),
        f"{features} [1, 6, 4, 5]": (lstm, (x.unsqueeze(0),)),
        f"{features} []": (lstm, (x[0, 0, 0],)),
        "input: expected shape [B, T, 5], or [T, 5] for one sequence": (stack, (x[..., :4],)),
        "input: expected torch.float32 like the weights, found torch.float64; convert one": (
            lstm,
            (x.double(),),
        ),
        "input: expected torch.float32 like the weights, found torch.int64": (lstm, (x.long(),)),
        "input: expected packed rows of shape [N, 5], found [6, 4]": (
            lstm,
            (pack_sequence([x[:, 0, :4]]),),
        ),
        "hx: expected the pair (h_0, c_0), found 1 of them": (lstm, (x, h)),
        "hx: expected the pair (h_0, c_0), found 3 of them": (lstm, (x, (h, h, h))),
        "hx: expected h_0 of shape [1, 4, 7], found [1, 3, 7]": (lstm, (x, (h[:, :3], h))),
        "hx: expected h_0 of shape [1, 4, 7], found [4, 7]": (lstm, (x, (h[0], h[0]))),
        "hx: expected c_0 of shape [1, 4, 7], found [2, 4, 7]": (lstm, (x, (h, h2))),
        "hx: expected h_0 of shape [1, 7], found [1, 4, 7]": (lstm, (x[:, 0], (h, h))),
        "hx: expected h_0 of shape [2, 6, 7], found [2, 4, 7]": (stack, (x, (h2, h2))),
        "hx: expected h_0 of shape [1, 2, 7], found [1, 4, 7]": (lstm, (packed, (h, h))),
        "h0: expected torch.float32 like x, found torch.float64": (lstm, (x, (h.double(), h))),
        "lengths: expected None beside a PackedSequence": (lstm, (packed, None, lengths[:2])),
        "lengths: expected an int64 tensor of shape [4], found torch.int64 [3]": (
            lstm,
            (x, None, lengths[:3]),
        ),
        "lengths: expected an int64 tensor of shape [4], found torch.int32 [4]": (
            lstm,
            (x, None, lengths.int()),
        ),
        "lengths: expected values in 1..6, found 0..3": (lstm, (x, None, lengths - 1)),
        "lengths: expected values in 1..4, found 2..5": (
            stack,
            (x[:4].transpose(0, 1), None, lengths + 1),
        ),
    }


@pytest.mark.parametrize("message", refused_calls())
def test_bad_calls_are_named(message: str) -> None:
    lstm, arguments = refused_calls()[message]
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        lstm(*arguments)
    assert "\n" not in str(caught.value)


def test_dropout_without_a_second_layer_warns_as_nn_lstm_does() -> None:
    for make in (WeightDroppedLSTM, nn.LSTM):
        with pytest.warns(UserWarning, match=r"dropout=0.5.*num_layers=1"):
            make(I, H, dropout=0.5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {
            "num_layers": 2,
            "bias": False,
            "batch_first": True,
            "dropout": 0.5,
            "bidirectional": True,
        },
    ],
)
def test_repr_is_that_of_nn_lstm_and_the_rate(options: dict[str, Any]) -> None:
    expected = repr(nn.LSTM(I, H, **options))
    found = repr(WeightDroppedLSTM(I, H, **options, drop_p=0.25))
    assert found == f"WeightDropped{expected.removesuffix(')')}, drop_p=0.25)"


def test_repr_names_sizes_and_rates() -> None:
    modules = [EmbeddingDropout(4, 2, 0.1), VariationalDropout(0.3)]
    assert [repr(module) for module in modules] == [
        "EmbeddingDropout(4, 2, drop_p=0.1)",
        "VariationalDropout(drop_p=0.3)",
    ]
