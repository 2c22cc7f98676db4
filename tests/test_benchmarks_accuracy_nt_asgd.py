"""Recipes of the language-model benchmark: when averaging begins, rates, and what is measured."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.accuracy import nt_asgd
from benchmarks.accuracy.language_model import Words
from benchmarks.accuracy.perplexity import token_nats
from ulmfit_fast.model import AWDLSTMConfig, Dropouts, LanguageModel
from ulmfit_fast.training.precision import choose_precision

NO_DROPOUT = Dropouts(0.0, 0.0, 0.0, 0.0, 0.0)


def small_model() -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(AWDLSTMConfig(20, 8, 12, 2, 0, NO_DROPOUT))


def gradients(model: LanguageModel, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize(
    ("losses", "begins_after"),
    [
        ([9, 8, 7, 6, 5, 4, 3, 2, 1], None),  # always better
        ([5, 4, 4.5, 4.4, 4.3, 4.2, 4.1, 4.05], 8),  # 4.05 > 4, six epochs before
        ([5, 4, 4.5, 4.4, 4.3, 4.2, 3.9], None),  # better again in time
        ([1, 2, 2, 2, 2], None),  # too few epochs to tell
        ([1, 2, 2, 2, 2, 2, 2], 7),  # the sixth loss has five before it: not more than five
    ],
)
def test_averaging_begins_when_validation_has_stopped_getting_better(
    losses: list[float], begins_after: int | None
) -> None:
    trigger = nt_asgd.NonMonotone(5)
    told = [trigger.add(loss) for loss in losses]
    expected = len(losses) if begins_after is None else begins_after - 1
    assert told.index(True) if True in told else len(told) == expected
    assert (True in told) == (begins_after is not None)


@given(st.lists(st.floats(0, 10), max_size=20), st.integers(1, 6))
def test_the_rule_is_that_of_awd_lstm_lm(losses: list[float], n: int) -> None:
    trigger, best_val_loss = nt_asgd.NonMonotone(n), list[float]()
    for val_loss in losses:
        expected = len(best_val_loss) > n and val_loss > min(best_val_loss[:-n])
        best_val_loss.append(val_loss)
        assert trigger.add(val_loss) is expected


def test_the_rate_follows_the_length_of_a_batch() -> None:
    model = small_model()
    settings = nt_asgd.RecipeSettings(lr=2.0, clip=1e9, weight_decay=0.0)
    recipe = nt_asgd.NTASGD(model, settings, bptt=70)
    bias = model.decoder_bias
    before = bias.detach().clone()
    gradients(model, 1)
    assert bias.grad is not None
    moved = 2.0 * 35 / 70 * bias.grad
    recipe.step(35)
    torch.testing.assert_close(bias.detach(), before - moved)
    assert bias.grad is None


def test_gradients_are_clipped_together() -> None:
    model = small_model()
    recipe = nt_asgd.NTASGD(model, nt_asgd.RecipeSettings(1.0, weight_decay=0.0), bptt=70)
    before = [p.detach().clone() for p in model.parameters()]
    gradients(model, 1)
    recipe.step(70)
    moved = torch.cat([(a - b).flatten() for a, b in zip(before, model.parameters(), strict=True)])
    assert moved.norm().item() == pytest.approx(0.25, rel=1e-3)


@pytest.mark.parametrize(("name", "first"), [("nt-asgd", 1), ("adam-average", 0)])
def test_the_average_is_that_of_the_weights_since_it_began(name: str, first: int) -> None:
    """torch's ASGD with t0=0 begins its mean with the second step; so it did for the paper."""
    model = small_model()
    recipe = nt_asgd.make_recipe(name, model, bptt=70, n_steps=10)
    for loss in (1.0, *[2.0] * 5):
        gradients(model, 0)
        recipe.step(70)
        recipe.epoch_ended(loss)
    assert recipe.averaging_since is None
    recipe.epoch_ended(2.0)
    assert recipe.averaging_since == 7
    seen = []
    for seed in range(3):
        gradients(model, seed)
        recipe.step(70)
        seen.append(model.decoder_bias.detach().clone())
    with recipe.averaged():
        expected = torch.stack(seen[first:]).mean(dim=0)
        torch.testing.assert_close(model.decoder_bias.detach(), expected)
    torch.testing.assert_close(model.decoder_bias.detach(), seen[-1], rtol=0, atol=0)


def test_adam_without_averaging_never_begins_one_and_follows_the_triangle() -> None:
    model = small_model()
    recipe = nt_asgd.make_recipe("adam", model, bptt=70, n_steps=20)
    rates = []
    for _ in range(20):
        gradients(model, 0)
        recipe.step(70)
        rates.append(recipe.optimizer.param_groups[0]["lr"])
        recipe.epoch_ended(float(len(rates)))
    assert recipe.averaging_since is None
    assert max(rates) == pytest.approx(nt_asgd.RECIPES["adam"].lr)
    assert rates[-1] < rates[2]


def test_every_token_but_the_first_is_measured_once() -> None:
    model = small_model().eval()
    ids = np.random.default_rng(0).integers(0, 20, 53)
    precision = choose_precision("fp32", torch.device("cpu"))
    logits, _ = model(torch.from_numpy(ids[None, :-1]))
    expected = torch.nn.functional.cross_entropy(
        logits[0], torch.from_numpy(ids[1:]), reduction="none"
    )
    whole = token_nats(model, ids, precision, streams=1, bptt=7)
    torch.testing.assert_close(whole, expected.detach(), rtol=1e-4, atol=1e-5)
    cut = token_nats(model, ids, precision, streams=5, bptt=7)
    assert len(cut) == 52
    # The first stream has the same past; the others begin with one token of it.
    torch.testing.assert_close(cut[:11], whole[:11], rtol=1e-4, atol=1e-5)


def test_the_words_are_those_of_the_published_vocabulary() -> None:
    text = " \n = A = \n b <unk> a \n"
    words = Words({"train": text, "valid": "b c \n", "test": "d"})
    assert words.vocabulary == ["<eos>", "=", "A", "b", "<unk>", "a", "c", "d"]
    assert words.ids["train"].tolist() == [0, 1, 2, 1, 0, 3, 4, 5, 0]
    assert words.ids["test"].tolist() == [7, 0]
