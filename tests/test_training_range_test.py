"""The range test: its suggestions against fastai's, the real loop's rates, the model untouched."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_training import LIGHT, draw_texts, small_config

from ulmfit_fast import TrainConfig
from ulmfit_fast.errors import InputError, TrainingError
from ulmfit_fast.model import LanguageModel
from ulmfit_fast.schedule import discriminative_rates
from ulmfit_fast.text import train_tokenizer
from ulmfit_fast.training import range_test
from ulmfit_fast.training.documents import class_names, labelled_batches, token_streams
from ulmfit_fast.training.range_test import RangeTest, find_learning_rate
from ulmfit_fast.training.rate_suggestions import minimum, steep, suggest, valley
from ulmfit_fast.training.sizes import model_size, new_language_model
from ulmfit_fast.training.steps import Task
from ulmfit_fast.training.tasks import ClassifierTask, LanguageModelTask
from ulmfit_fast.training.transfer import classifier_from

# --- suggestions

curves = st.one_of(
    st.lists(st.floats(0.0078125, 50, width=32), min_size=6, max_size=90),
    st.lists(st.sampled_from((1.0, 2.0, 3.0)), min_size=6, max_size=40),  # with equal losses
    st.integers(6, 90).map(lambda n: [float(n - i) for i in range(n)]),  # falling all the time
    st.integers(6, 90).map(lambda n: [float(1 + i) for i in range(n)]),  # rising all the time
)


@pytest.mark.peer
@settings(max_examples=150, deadline=None)
@given(curves, st.floats(-7, -3), st.floats(0.01, 0.2))
def test_suggestions_are_those_of_fastai(losses: list[float], first: float, factor: float) -> None:
    schedule = pytest.importorskip("fastai.callback.schedule")
    rates = [10 ** (first + factor * i) for i in range(len(losses))]
    # fastai computes in float32; what it is given is what ours is given.
    rates32, losses32 = torch.tensor(rates), torch.tensor(losses)
    rates, losses = rates32.tolist(), losses32.tolist()
    n = len(rates)
    theirs = schedule.valley(rates32, losses32, n)[0]
    # A run of two losses at the beginning has fastai's place -1, which wraps round to the last.
    assert valley(rates, losses) == (rates[0] if theirs == rates[-1] else theirs)
    assert minimum(rates, losses) == pytest.approx(
        schedule.minimum(rates32, losses32, n)[0], rel=1e-6
    )
    # Where two slopes differ by float32's rounding alone, fastai's choice is as good.
    found, theirs = steep(rates, losses), schedule.steep(rates32, losses32, n)[0]
    slopes = np.diff(losses) / np.diff(np.log(rates))
    slope = {rate: float(s) for rate, s in zip(rates, slopes, strict=False)}
    assert slope[found] == slopes.min()
    assert slope[theirs] == pytest.approx(slope[found], rel=1e-4, abs=1e-4)


def test_suggestions_of_a_curve_as_they_look() -> None:
    rates = [10.0**k for k in range(-6, 3)]
    losses = [9.0, 8.9, 8.5, 6.0, 4.0, 3.5, 5.0, 20.0, 90.0]
    found = suggest(rates, losses)
    assert found.steep == 1e-4  # 8.5 to 6.0
    assert found.minimum == pytest.approx(1e-2)
    assert found.valley == 1e-4


# --- the test itself


def language_model_task(config: TrainConfig, n_texts: int = 120) -> LanguageModelTask:
    texts, _ = draw_texts(n_texts)
    tokenizer = train_tokenizer(texts, min_freq=1)
    torch.manual_seed(0)
    model = new_language_model(model_size("tiny"), tokenizer, LIGHT)
    streams = token_streams(tokenizer, texts, None, "pretrain", config)
    return LanguageModelTask(model, *streams, config, "pretrain")


def classifier_task(config: TrainConfig) -> ClassifierTask:
    texts, labels = draw_texts(160)
    tokenizer = train_tokenizer(texts, min_freq=1)
    torch.manual_seed(0)
    model = new_language_model(model_size("tiny"), tokenizer, LIGHT)
    names = class_names(labels)
    batches = labelled_batches(tokenizer, (texts, labels), names, config, train=True)
    classifier = classifier_from(
        model.encoder, len(names), LIGHT, bptt=config.bptt, max_len=config.max_len
    )
    return ClassifierTask(classifier, batches, None, config)


@pytest.fixture(scope="module")
def config() -> TrainConfig:
    return small_config()


@pytest.fixture(scope="module")
def of_language_model(config: TrainConfig) -> RangeTest:
    task = language_model_task(config)
    return find_learning_rate(task, config, from_scratch=True, n_steps=60, highest=1e3)


def test_rates_grow_by_one_factor_until_the_loss_bursts(of_language_model: RangeTest) -> None:
    found = of_language_model
    factors = np.diff(np.log(found.rates))
    assert found.rates[0] == 1e-7
    assert factors == pytest.approx(np.full(len(factors), math.log(1e10) / 60))
    assert found.has_burst
    assert found.losses[-1] > 4 * min(found.losses) >= found.losses[-2]
    assert len(found.rates) == len(found.losses) == len(found.raw_losses) < 60


def test_losses_are_smoothed_as_in_fastai(of_language_model: RangeTest) -> None:
    average = torch.tensor(0.0)
    for i, raw in enumerate(of_language_model.raw_losses):  # fastai's AvgSmoothLoss
        average = torch.lerp(torch.tensor(raw), average, 0.98)
        smoothed = float(average) / (1 - 0.98 ** (i + 1))
        assert of_language_model.losses[i] == pytest.approx(smoothed, rel=1e-5)


def test_suggestions_leave_out_the_ends_of_the_curve(of_language_model: RangeTest) -> None:
    found = of_language_model
    assert found.suggestions == suggest(found.rates[6:-5], found.losses[6:-5])
    assert 1e-5 < found.suggestions.valley < 1
    assert found.layers == ["rnn0", "rnn1", "embedding"]


def test_one_rate_trains_and_the_last_one_does_not(
    config: TrainConfig, of_language_model: RangeTest
) -> None:
    task = language_model_task(config)

    def mean_loss(rate: float) -> float:
        found = find_learning_rate(
            task, config, from_scratch=True, lowest=rate, highest=rate * 1.0001, n_steps=40
        )
        return float(np.mean(found.raw_losses[-5:]))

    good, tiny = mean_loss(of_language_model.suggestions.valley), mean_loss(1e-7)
    assert good < tiny - 0.5
    assert of_language_model.raw_losses[-1] > tiny


@pytest.mark.parametrize("of", [language_model_task, classifier_task])
@pytest.mark.parametrize("recipe", ["fastai", "paper"])
def test_layers_keep_their_ratios_and_the_frozen_stay(
    of: object, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(recipe)
    task: Task = of(config)  # type: ignore[operator]
    told = []
    set_rates = range_test.set_rates

    def telling(optimizer: torch.optim.Optimizer, rates: dict, betas: tuple) -> None:
        set_rates(optimizer, rates, betas)
        told.append((rates, betas, {g["layer"] for g in optimizer.param_groups if g["frozen"]}))

    monkeypatch.setattr(range_test, "set_rates", telling)
    scratch = task.stage == "pretrain"
    found = find_learning_rate(task, config, from_scratch=scratch, n_steps=20, highest=1e-3)
    assert len(told) == 20
    decay = 1.0 if scratch else config.lr_decay
    groups = list(task.model.layer_groups())
    for (rates, betas, frozen), rate in zip(told, found.rates, strict=True):
        expected = discriminative_rates(rate, len(groups), decay)
        assert list(rates) == groups
        assert list(rates.values()) == pytest.approx(list(expected))
        assert betas == config.betas
        assert frozen == set(groups) - set(found.layers)
    assert found.layers == (groups if scratch else ["head"])


@pytest.mark.parametrize("of", [language_model_task, classifier_task])
@pytest.mark.parametrize("ends", ["burst", "all steps", "error"])
def test_the_model_is_as_it_was(
    of: object, ends: str, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    task: Task = of(config)  # type: ignore[operator]
    task.model.eval()
    first = next(task.model.parameters())
    first.requires_grad_(False)
    before = copy.deepcopy(task.model.state_dict())
    generator = torch.get_rng_state()
    scratch = task.stage == "pretrain"
    if ends == "error":

        def interrupt(done: int, total: int) -> None:
            if done == 7:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            find_learning_rate(task, config, from_scratch=scratch, progress=interrupt)
    else:
        highest = 1e4 if ends == "burst" else 1e-3
        find_learning_rate(task, config, from_scratch=scratch, n_steps=40, highest=highest)
    after = task.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert not any(module.training for module in task.model.modules())
    assert not first.requires_grad
    assert all(p.requires_grad for p in task.model.parameters() if p is not first)
    assert all(p.grad is None for p in task.model.parameters())


def test_the_same_test_gives_the_same_curve(config: TrainConfig) -> None:
    task = classifier_task(config)
    first = find_learning_rate(task, config, from_scratch=False, n_steps=30)
    torch.manual_seed(5)
    assert find_learning_rate(task, config, from_scratch=False, n_steps=30) == first


def test_goes_on_over_several_epochs(config: TrainConfig) -> None:
    task = language_model_task(config, n_texts=20)
    assert task.n_batches(0) < 10
    found = find_learning_rate(task, config, from_scratch=True, n_steps=30, highest=1e-4)
    assert len(found.rates) == 30
    assert not found.has_burst


def test_a_loss_that_is_not_finite_ends_the_test(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = language_model_task(config)
    loss = LanguageModel.loss
    n_calls = 0

    def bursting(self: LanguageModel, *arguments: object) -> object:
        nonlocal n_calls
        n_calls += 1
        parts, state = loss(self, *arguments)
        if n_calls > 25:
            parts = type(parts)(parts.total * math.nan, parts.cross_entropy * math.nan)
        return parts, state

    monkeypatch.setattr(LanguageModel, "loss", bursting)
    found = find_learning_rate(task, config, from_scratch=True, n_steps=60, highest=1e-3)
    assert len(found.rates) == 25
    assert found.has_burst
    with pytest.raises(TrainingError, match="after 0 of 60 steps"):
        find_learning_rate(task, config, from_scratch=True, n_steps=60)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lowest": 0.0}, "rates from 0 to 10"),
        ({"lowest": 1.0, "highest": 0.5}, "rates from 1 to 0.5"),
        ({"highest": math.inf}, "rates from 1e-07 to inf"),
        ({"lowest": math.nan}, "rates from nan"),
        ({"n_steps": 19}, "at least 20"),
    ],
)
def test_bad_settings_are_refused(
    config: TrainConfig, values: dict[str, float], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        find_learning_rate(language_model_task(config, 20), config, from_scratch=True, **values)
