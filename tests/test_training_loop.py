"""The loop: which layers move when and how fast, what observers see, when a stage gives up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from small_training import draw_texts, small_config, train_all, weights_hash

from ulmfit_fast import TrainingError, ULMFiTTrainer
from ulmfit_fast.model import AWDLSTMConfig, LanguageModel, LossParts, TextClassifier
from ulmfit_fast.optim import layer_param_groups
from ulmfit_fast.training import loop, steps, tasks
from ulmfit_fast.training.observer import Observer, Step


class Recorder(Observer):
    def __init__(self) -> None:
        self.events: list[tuple] = []

    def stage_started(self, stage: str, n_steps: int, description: str) -> None:
        self.events.append(("start", stage, n_steps))

    def step(self, step: Step) -> None:
        self.events.append(("step", step.stage, step.step, step.loss, step.n_tokens, step.lr))

    def epoch_ended(self, stage: str, epoch: int, metrics: dict[str, float]) -> None:
        self.events.append(("epoch", stage, epoch, metrics))

    def stage_ended(self, stage: str, seconds: float, metrics: dict[str, float]) -> None:
        self.events.append(("end", stage, metrics))


@pytest.mark.parametrize("recipe", ["paper", "fastai"])
def test_observers_see_every_step_and_epoch(recipe: str) -> None:
    recorder = Recorder()
    train_all(small_config(recipe, seed=1), observers=(recorder,))
    for stage in ("pretrain", "language_model", "classifier"):
        events = [e for e in recorder.events if e[1] == stage]
        n_steps = events[0][2]
        assert [e[2] for e in events if e[0] == "step"] == list(range(1, n_steps + 1))
        n_epochs = 4 if stage == "classifier" else 2
        assert [e[2] for e in events if e[0] == "epoch"] == list(range(1, n_epochs + 1))
        assert events[-1][0] == "end"
        assert all(e[4] > 0 and e[5] > 0 for e in events if e[0] == "step")


class Watch(Observer):
    """Notes which layer groups have moved at the end of each epoch, and every layer's rate."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.moved: list[list[str]] = []
        self.rates: list[dict[str, float]] = []
        run, step = loop.Fit.run, steps.EagerSteps.step

        def spy_run(fit: loop.Fit) -> loop.StageResult:
            self.groups = fit.groups
            self.first = {k: [p.detach().clone() for p in g] for k, g in fit.groups.items()}
            self.moved, self.rates = [], []
            return run(fit)

        def spy_step(of: steps.EagerSteps, *arguments: Any) -> LossParts:
            self.rates.append({g["layer"]: g["lr"] for g in of.optimizer.param_groups})
            return step(of, *arguments)

        monkeypatch.setattr(loop.Fit, "run", spy_run)
        monkeypatch.setattr(steps.EagerSteps, "step", spy_step)

    def epoch_ended(self, stage: str, epoch: int, metrics: dict[str, float]) -> None:
        def moved(name: str) -> bool:
            pairs = zip(self.groups[name], self.first[name], strict=True)
            return any(not torch.equal(p, old) for p, old in pairs)

        self.moved.append([name for name in self.groups if moved(name)])

    def largest(self, layer: str) -> float:
        return max(rates[layer] for rates in self.rates)


def test_gradual_unfreezing_moves_one_more_group_an_epoch(monkeypatch) -> None:
    watch = Watch(monkeypatch)
    texts, labels = draw_texts(60)
    trainer = ULMFiTTrainer(small_config("paper"), size="tiny", observers=[watch])
    trainer.pretrain(texts)
    assert watch.moved[0] == ["rnn0", "rnn1", "embedding"]
    trainer.train_classifier(texts, labels)
    assert watch.moved == [
        ["head"],
        ["rnn1", "head"],
        ["rnn0", "rnn1", "head"],
        ["embedding", "rnn0", "rnn1", "head"],
    ]


def test_observers_are_told_every_groups_rate_and_zero_where_it_is_frozen() -> None:
    told: list[Step] = []

    class Rates(Observer):
        def step(self, step: Step) -> None:
            told.append(step)

    texts, labels = draw_texts(60)
    trainer = ULMFiTTrainer(small_config("paper"), size="tiny", observers=[Rates()])
    trainer.pretrain(texts)
    told.clear()
    trainer.train_classifier(texts, labels)
    first, last = (next(s for s in told if s.epoch == epoch) for epoch in (1, 4))
    assert [name for name, rate in first.rates.items() if rate] == ["head"]
    assert last.rates["head"] == pytest.approx(last.rates["rnn1"] * 2.6)
    assert last.lr == last.rates["head"]
    assert [s.step for s in told] == list(range(1, len(told) + 1))


@pytest.mark.parametrize("recipe", ["paper", "fastai"])
def test_every_stage_trains_its_layers_at_the_recipes_rates(monkeypatch, recipe: str) -> None:
    watch = Watch(monkeypatch)
    config = small_config(recipe).with_stage("pretrain", lr=0.03)
    texts, labels = draw_texts(300)
    trainer = ULMFiTTrainer(config, size="tiny", observers=[watch])
    trainer.train_classifier(texts, labels)  # from scratch: all layers at pretraining's rate
    assert all("embedding" in moved for moved in watch.moved)
    assert watch.largest("embedding") == watch.largest("head") == pytest.approx(0.03, rel=0.1)
    trainer = ULMFiTTrainer(config, size="tiny", observers=[watch])
    trainer.pretrain(texts)
    assert watch.largest("rnn0") == watch.largest("embedding") == pytest.approx(0.03, rel=0.1)
    trainer.finetune_lm(texts)
    decay = 2.6 if recipe == "paper" else 1.0
    assert watch.largest("rnn1") == pytest.approx(watch.largest("embedding") / decay)
    assert watch.largest("rnn0") == pytest.approx(watch.largest("rnn1") / decay)
    assert watch.largest("embedding") == pytest.approx(0.01, rel=0.1)
    trainer.train_classifier(texts, labels)
    lr = config.classifier.lr
    assert watch.largest("head") == pytest.approx(lr, rel=0.1)
    last = watch.rates[-1]
    assert last["rnn1"] == pytest.approx(last["head"] / 2.6)
    assert last["embedding"] == pytest.approx(last["head"] / 2.6**3)
    end = watch.rates[-len(watch.rates) // 4 :]  # four epochs, of which the last has all layers
    assert max(r["head"] for r in end) == pytest.approx(
        lr / 20 if recipe == "fastai" else lr, rel=0.1
    )


def test_weight_decay_spares_what_fastai_spares() -> None:
    model = LanguageModel(AWDLSTMConfig(8, 4, 4, 2))
    assert [id(p) for p in model.undecayed_parameters()] == [id(model.decoder_bias)]
    classifier = TextClassifier(AWDLSTMConfig(8, 4, 4, 2), 2)
    groups = layer_param_groups(
        classifier.layer_groups(),
        lr=1.0,
        weight_decay=0.5,
        undecayed=classifier.undecayed_parameters(),
    )
    decays = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
    for name, parameter in classifier.named_parameters():
        is_norm = name in ("head.0.weight", "head.0.bias", "head.4.weight", "head.4.bias")
        assert decays[id(parameter)] == (0.0 if is_norm else 0.5), name
    rates = {g["layer"]: g["lr"] for g in groups}
    assert rates == pytest.approx(
        {"head": 1.0, "rnn1": 1 / 2.6, "rnn0": 2.6**-2, "embedding": 2.6**-3}
    )


def break_losses(monkeypatch: pytest.MonkeyPatch, task: type, bad: set[int]) -> list[str]:
    """Make the loss of some steps NaN; return hashes of the weights before every step."""
    hashes: list[str] = []
    loss = task.loss

    def broken(self, inputs, state):
        hashes.append(weights_hash(self.model))
        parts, state = loss(self, inputs, state)
        if len(hashes) in bad:
            nan = float("nan")
            parts = replace(parts, total=parts.total * nan)
            state = state and [(h * nan, c * nan) for h, c in state]
        return parts, state

    monkeypatch.setattr(task, "loss", broken)
    return hashes


def test_three_losses_in_a_row_that_are_not_finite_stop_before_the_weights_change(
    monkeypatch,
) -> None:
    texts, _ = draw_texts(60)
    hashes = break_losses(monkeypatch, tasks.LanguageModelTask, {3, 4, 5})
    message = "stage pretrain, step 5: 3 steps in a row had a loss or gradient not finite"
    with pytest.raises(TrainingError, match=message):
        ULMFiTTrainer(small_config(), size="tiny").pretrain(texts)
    assert hashes[2] == hashes[3] == hashes[4] != hashes[1]


def test_an_epoch_without_a_finite_loss_has_no_loss_of_zero(monkeypatch) -> None:
    texts, labels = draw_texts(32)
    config = small_config().with_stage("classifier", epochs=1)
    break_losses(monkeypatch, tasks.ClassifierTask, {1, 2})
    with pytest.raises(TrainingError, match="stage classifier, step 2: the train_loss is nan"):
        ULMFiTTrainer(config, size="tiny").train_classifier(texts, labels)


@pytest.mark.parametrize("reads", [1, 1000])
def test_a_language_models_step_that_is_not_finite_changes_nothing(monkeypatch, reads: int) -> None:
    """Nor does the LSTM's state go on from it; also where losses are read seldom, as on a GPU."""
    monkeypatch.setattr(loop, "CPU_STEPS_BETWEEN_READS", reads)
    texts, _ = draw_texts(60)
    hashes = break_losses(monkeypatch, tasks.LanguageModelTask, {3, 5})
    result = ULMFiTTrainer(small_config(), size="tiny").pretrain(texts)
    assert hashes[2] == hashes[3] != hashes[4] == hashes[5] != hashes[6]
    assert [epoch.get("skipped_steps", 0) for epoch in result.epochs] == [2, 0]
    assert all(0 < epoch["train_loss"] < 10 for epoch in result.epochs)


def test_a_classifiers_running_means_do_not_take_a_step_that_is_not_finite(monkeypatch) -> None:
    texts, labels = draw_texts(60)
    head = tasks.TextClassifier.loss
    n_steps = 0

    def broken(self, *arguments):
        nonlocal n_steps
        n_steps += 1
        if n_steps != 2:
            return head(self, *arguments)
        with torch.no_grad():
            self.head[0].running_mean.fill_(float("nan"))
        parts, rest = head(self, *arguments)
        return replace(parts, total=parts.total * float("inf")), rest

    monkeypatch.setattr(tasks.TextClassifier, "loss", broken)
    trainer = ULMFiTTrainer(small_config(), size="tiny")
    result = trainer.train_classifier(texts, labels, texts, labels)
    assert trainer.classifier.head[0].running_mean.isfinite().all()
    assert sum(epoch.get("skipped_steps", 0) for epoch in result.epochs) == 1


def test_a_loss_that_is_read_seldom_is_still_found(monkeypatch) -> None:
    """As on a GPU, where the loss is read every 20 steps."""
    texts, _ = draw_texts(60)
    loss = tasks.LanguageModelTask.loss
    monkeypatch.setattr(loop, "CPU_STEPS_BETWEEN_READS", 1000)
    n_steps = 0

    def broken(self, inputs, state):
        nonlocal n_steps
        n_steps += 1
        parts, state = loss(self, inputs, state)
        scale = float("nan") if n_steps == 2 else 1.0
        return replace(parts, cross_entropy=parts.cross_entropy * scale), state

    monkeypatch.setattr(tasks.LanguageModelTask, "loss", broken)
    with pytest.raises(TrainingError, match=r"stage pretrain, step .*: the train_loss is nan"):
        ULMFiTTrainer(small_config(), size="tiny").pretrain(texts)


def test_steps_and_tokens_add_up_when_losses_are_read_seldom(monkeypatch) -> None:
    monkeypatch.setattr(loop, "CPU_STEPS_BETWEEN_READS", 4)
    texts, _ = draw_texts(100)
    recorder = Recorder()
    trainer = ULMFiTTrainer(small_config(), size="tiny", observers=[recorder])
    result = trainer.pretrain(texts)
    steps = [e for e in recorder.events if e[0] == "step"]
    n_steps = recorder.events[0][2]
    an_epoch = n_steps // 2
    read = [n for n in range(1, n_steps + 1) if n % 4 == 0 or n % an_epoch == 0]
    assert [e[2] for e in steps] == read
    assert sum(e[4] for e in steps) == result.n_tokens


def test_patience_stops_a_stage_and_the_best_weights_stay(monkeypatch) -> None:
    errors = iter([0.5, 0.2, 0.3, 0.4, 0.1])
    hashes = []

    def validate(self):
        hashes.append(weights_hash(self.model))
        return {"error": next(errors), "valid_loss": 1.0}

    monkeypatch.setattr(tasks.ClassifierTask, "validate", validate)
    texts, labels = draw_texts(40)
    config = small_config(patience=2).with_stage("classifier", epochs=9)
    trainer = ULMFiTTrainer(config, size="tiny")
    result = trainer.train_classifier(texts, labels, texts, labels)
    assert [epoch["error"] for epoch in result.epochs] == [0.5, 0.2, 0.3, 0.4]
    assert result.best["error"] == 0.2
    assert weights_hash(trainer.classifier) == hashes[1]


def test_a_step_hands_out_losses_without_their_history(monkeypatch) -> None:
    """It would keep nodes of the backward pass on their stream, which a capture cannot have."""
    found: list[LossParts] = []
    step = steps.EagerSteps.step

    def spy(of: steps.EagerSteps, *arguments: Any) -> LossParts:
        found.append(step(of, *arguments))
        return found[-1]

    monkeypatch.setattr(steps.EagerSteps, "step", spy)
    ULMFiTTrainer(small_config(), size="tiny").pretrain(draw_texts(30)[0])
    assert found
    assert all(x.grad_fn is None for parts in found for x in vars(parts).values())
