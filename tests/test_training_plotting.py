"""The pictures of a trainer: they show what its stages did, without a log file."""

from __future__ import annotations

import numpy as np
import pytest
from small_training import draw_texts, small_config, train_all

from ulmfit_fast import InputError, ULMFiTTrainer
from ulmfit_fast.training.observer import Observer


@pytest.fixture(scope="module")
def trainer() -> ULMFiTTrainer:
    return train_all(small_config("paper"))


def test_rates_are_those_of_the_schedule_with_gaps_where_frozen(trainer: ULMFiTTrainer):
    axes = trainer.plot_rates().axes
    assert [a.get_title(loc="left") for a in axes] == [
        "Language model, from scratch", "Language model, fine-tuned", "Classifier"
    ]  # fmt: skip
    lines = {line.get_label(): line.get_ydata() for line in axes[2].get_lines()}
    told = trainer.history.stages[2].points
    for group in ("embedding", "rnn0", "head"):
        rates = np.array([point.rates[group] for point in told])
        assert np.array_equal(lines[group], np.where(rates > 0, rates, np.nan), equal_nan=True)
    assert np.isnan(lines["embedding"][0])
    assert not np.isnan(lines["head"]).any()
    assert trainer.plot_rates(log=True).axes[0].get_yscale() == "log"


def test_losses_and_metrics_have_a_point_an_epoch(trainer: ULMFiTTrainer):
    losses = trainer.plot_losses().axes
    metrics = trainer.plot_metrics().axes
    for stage, loss_axes, metric_axes in zip(trainer.history.stages, losses, metrics, strict=True):
        lines = {line.get_label(): line for line in loss_axes.get_lines()}
        valid = [epoch.metrics["valid_loss"] for epoch in stage.epochs]
        assert list(lines["validation"].get_ydata()) == valid
        name = "accuracy" if stage.name == "classifier" else "perplexity"
        shown = metric_axes.get_lines()[0].get_ydata()
        assert list(shown) == [epoch.metrics[name] for epoch in stage.epochs]
        kept = next(line for line in metric_axes.get_lines() if line.get_label() == "kept")
        assert list(kept.get_ydata()) == [stage.metrics[name]]


def test_confusion_shows_the_counts(trainer: ULMFiTTrainer):
    evaluation = trainer.evaluate(*draw_texts(40, seed=5))
    figure = trainer.plot_confusion(evaluation)
    shown = [int(text.get_text()) for text in figure.axes[0].texts]
    assert shown == [count for row in evaluation.confusion for count in row]
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_observers_always_hold_the_history():
    class Other(Observer):
        pass

    other = Other()
    trainer = ULMFiTTrainer(small_config(), size="tiny", observers=[other])
    assert trainer.observers == [trainer.history, other]
    trainer.observers = []
    assert trainer.observers == [trainer.history]
    trainer.observers = [*trainer.observers, other]
    assert trainer.observers == [trainer.history, other]


def test_a_trainer_without_a_stage_says_so():
    trainer = ULMFiTTrainer(small_config(), size="tiny")
    for plot in (trainer.plot_losses, trainer.plot_rates, trainer.plot_metrics):
        with pytest.raises(InputError, match="train one first"):
            plot()
