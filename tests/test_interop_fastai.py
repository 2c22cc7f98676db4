"""AWD_LSTM for fastai: fastai's parameters, outputs, gradients, dropouts, and its test cases."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numerics import relative_error
from torch import Tensor, nn

pytest.importorskip("fastai")
from fastai.text.models.awdlstm import AWD_LSTM as FASTAI_AWD_LSTM
from fastai.text.models.core import (
    _model_meta,
    get_language_model,
)
from fastai_models import (
    LM_CONFIG,
    language_data,
    language_learner,
    seed_everything,
    without_dropout,
)

from ulmfit_fast.errors import InputError
from ulmfit_fast.interop.fastai import AWD_LSTM, EmbeddingDropout

pytestmark = pytest.mark.peer


def pair(*sizes: int, seed: int = 0, **options: Any) -> tuple[nn.Module, nn.Module]:
    """Return fastai's model and ours, made with one seed."""
    models = []
    for arch in (FASTAI_AWD_LSTM, AWD_LSTM):
        torch.manual_seed(seed)
        models.append(arch(*sizes, **options))
    return models[0], models[1]


# Parameters and files


@pytest.mark.parametrize("bidir", [False, True])
def test_one_seed_draws_fastais_parameters_under_its_names_in_its_order(bidir: bool) -> None:
    theirs, ours = pair(20, 8, 12, 3, bidir=bidir)
    for kind in ("named_parameters", "state_dict"):
        expected, found = dict(getattr(theirs, kind)()), dict(getattr(ours, kind)())
        assert list(found) == list(expected)
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_whole_language_model_is_drawn_as_fastais() -> None:
    models = []
    for arch in (FASTAI_AWD_LSTM, AWD_LSTM):
        torch.manual_seed(3)
        models.append(get_language_model(arch, 20, LM_CONFIG).state_dict())
    assert list(models[0]) == list(models[1])
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])


def test_state_dicts_load_by_name_in_both_directions() -> None:
    theirs, ours = FASTAI_AWD_LSTM(20, 8, 12, 2), AWD_LSTM(20, 8, 12, 2)
    ids = torch.randint(20, (3, 5))
    for source, target in ((theirs, ours), (ours, theirs)):
        source.encoder.weight.data.uniform_()
        target.load_state_dict(source.state_dict())
        for model in (source, target):
            model.eval().reset()
        torch.testing.assert_close(target(ids), source(ids), rtol=1e-5, atol=1e-6)


def test_pretrained_files_of_fastai_load_as_they_do_there(tmp_path: Path) -> None:
    dls = language_data()
    vocab = [*dls.vocab[::-1], "another"][3:]
    file = tmp_path / "models" / "general.pth"
    file.parent.mkdir()
    torch.save(get_language_model(FASTAI_AWD_LSTM, len(vocab), LM_CONFIG).state_dict(), file)
    file.with_suffix(".pkl").write_bytes(pickle.dumps(vocab))
    loaded = [
        language_learner(arch, dls, tmp_path, pretrained_fnames=["general", "general"])
        for arch in (FASTAI_AWD_LSTM, AWD_LSTM)
    ]
    expected, found = (learn.model.state_dict() for learn in loaded)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    trained = [[p.requires_grad for p in learn.model.parameters()] for learn in loaded]
    assert trained[1] == trained[0]
    assert loaded[1].model[1].decoder.weight is loaded[1].model[0].encoder.weight


def test_it_is_registered_with_fastais_settings_and_pretrained_weights() -> None:
    assert _model_meta[AWD_LSTM] == _model_meta[FASTAI_AWD_LSTM]


# Outputs, state and gradients


def run(model: nn.Module, batches: list[Tensor], weight: Tensor) -> dict[str, Tensor]:
    """Return outputs, last state and gradients of calls one after another."""
    model.zero_grad()
    model.reset()
    found = {}
    for i, ids in enumerate(batches):
        y = model(ids)
        found[f"y{i}"] = y.detach()
        (y * weight[: len(ids), : y.shape[1]].to(y)).sum().backward()
    for layer, (h, c) in enumerate(model.hidden):
        found |= {f"h{layer}": h, f"c{layer}": c}
    return found | {f"d {name}": p.grad.clone() for name, p in model.named_parameters()}


@settings(max_examples=12, deadline=None)
@given(
    sizes=st.tuples(st.integers(2, 30), st.integers(1, 5), st.integers(1, 6), st.integers(1, 3)),
    bidir=st.booleans(),
    shapes=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 6)), min_size=1, max_size=3),
    training=st.booleans(),
    seed=st.integers(0, 99),
)
def test_outputs_state_and_gradients_are_fastais(
    sizes: tuple[int, ...],
    bidir: bool,
    shapes: list[tuple[int, int]],
    training: bool,
    seed: int,
) -> None:
    V, E, H, L = sizes
    theirs, ours = pair(V, 2 * E, 2 * H, L, seed=seed, bidir=bidir)
    batches = [torch.randint(V, shape) for shape in shapes]
    weight = torch.randn(4, 6, 2 * E)
    results = []
    for model in (ours, theirs):
        with without_dropout(model):
            results.append(run(model.train(training), batches, weight))
    assert results[0].keys() == results[1].keys()
    for name in results[0]:
        assert relative_error(results[0][name], results[1][name]) < 1e-5, name


def test_float64_is_fastais_to_the_last_digits() -> None:
    theirs, ours = (model.double().eval() for model in pair(20, 8, 12, 3))
    batches, weight = [torch.randint(20, (3, 7))], torch.randn(3, 7, 8)
    expected, found = run(theirs, batches, weight), run(ours, batches, weight)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-12, atol=1e-13)


def test_the_state_goes_on_where_the_precision_changes() -> None:
    model = AWD_LSTM(20, 8, 12, 2).eval()
    ids = torch.randint(20, (3, 5))
    model(ids)
    expected = model(ids)
    model.reset()
    with torch.autocast("cpu", torch.bfloat16):
        y = model(ids)
        assert y.dtype == torch.bfloat16
        assert [(h.dtype, c.dtype) for h, c in model.hidden] == [
            (torch.bfloat16, torch.float32)
        ] * 2
    found = model(ids)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.01)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_16_bits_runs(dtype: torch.dtype) -> None:
    model = AWD_LSTM(20, 8, 12, 2).to(dtype)
    y = model(torch.randint(20, (3, 5)))
    y.float().sum().backward()
    assert y.dtype == dtype
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters())


# Dropouts


def draws(model: nn.Module, ids: Tensor, n: int) -> Tensor:
    """Return what n calls from a zero state give; float64, shape [n, numbers]."""
    found = []
    with torch.no_grad():
        for _ in range(n):
            model.reset()
            found.append(model(ids).flatten())
    return torch.stack(found).double()


def z_of_means(x: Tensor, y: Tensor) -> Tensor:
    """Return how many standard errors, of 1e-6 at least, the means of two samples are apart."""
    return (x.mean(0) - y.mean(0)) / (x.var(0) / len(x) + y.var(0) / len(y) + 1e-12).sqrt()


N_DRAWS = 400


@pytest.mark.parametrize("name", ["embed_p", "input_p", "hidden_p", "weight_p"])
def test_dropouts_have_fastais_distribution(name: str) -> None:
    seed_everything(0)
    chances = dict.fromkeys(["embed_p", "input_p", "hidden_p", "weight_p"], 1e-9) | {name: 0.4}
    theirs, ours = pair(6, 4, 6, 2, **chances)
    for model in (theirs, ours):
        for p in model.parameters():
            p.data.mul_(3)  # so that what is dropped shows in what comes out
    ids = torch.tensor([[2, 3, 4, 2, 5]])
    expected, found = draws(theirs, ids, N_DRAWS), draws(ours, ids, N_DRAWS)
    assert float(found.var(0).max()) > 1e-5
    # Means and variances of 20 numbers: four standard errors apart in one run of 800.
    assert float(z_of_means(found, expected).abs().max()) < 4
    spread = [(x - x.mean(0)).square() for x in (found, expected)]
    assert float(z_of_means(*spread).abs().max()) < 4


def test_wrong_dropouts_fail_that_comparison() -> None:
    seed_everything(0)
    chances = dict.fromkeys(["embed_p", "input_p", "hidden_p"], 1e-9)
    theirs, wrong = pair(6, 4, 6, 2, weight_p=0.4, **chances)
    wrong.rnns[1].weight_p = 0.2
    for model in (theirs, wrong):
        for p in model.parameters():
            p.data.mul_(3)
    ids = torch.tensor([[2, 3, 4, 2, 5]])
    expected, found = draws(theirs, ids, N_DRAWS), draws(wrong, ids, N_DRAWS)
    spread = [(x - x.mean(0)).square() for x in (found, expected)]
    assert max(float(z_of_means(*both).abs().max()) for both in ((found, expected), spread)) > 4


def test_nothing_is_dropped_in_eval() -> None:
    model = AWD_LSTM(20, 8, 12, 2).eval()
    ids = torch.randint(20, (3, 5))
    state = torch.get_rng_state()
    first = model(ids)
    model.reset()
    assert torch.equal(model(ids), first)
    assert torch.equal(torch.get_rng_state(), state)


# Copies and refusals


def test_it_survives_deepcopy_pickle_and_averaging() -> None:
    model = AWD_LSTM(20, 8, 12, 2)
    ids = torch.randint(20, (3, 5))
    model(ids).sum().backward()
    model.eval().reset()
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    copies.append(torch.optim.swa_utils.AveragedModel(model).module)
    for other in copies:
        model.reset()
        assert other.encoder_dp.emb is other.encoder
        assert torch.equal(other(ids), model(ids))


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        ((20, 8, 12, 0), {}, "n_layers: expected an integer of at least 1, found 0"),
        ((20, 8.0, 12, 2), {}, "emb_sz: expected an integer of at least 1, found 8.0"),
        (
            (20, 8, 12, 2),
            {"weight_p": 1.0},
            "weight_p: expected a chance in [0, 1), found 1; lower",
        ),
        ((20, 8, 12, 2), {"hidden_p": 1.5}, "hidden_p: expected a chance in [0, 1), found 1.5"),
        ((20, 8, 13, 2), {"bidir": True}, "n_hid: expected an even number with bidir, found 13"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    sizes: tuple[int, ...], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as raised:
        AWD_LSTM(*sizes, **options)
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


def test_an_embedding_with_options_that_are_not_offered_is_refused() -> None:
    with pytest.raises(InputError, match="max_norm is not offered"):
        EmbeddingDropout(nn.Embedding(10, 7, max_norm=1.0), 0.5)
