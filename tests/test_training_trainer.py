"""The three stages, end to end on small texts."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace

import pytest
import torch

from ulmfit_fast import InputError, TrainConfig, TrainingError, ULMFiTTrainer
from ulmfit_fast.model import AWDLSTMConfig, Dropouts, LanguageModel, LossParts, TextClassifier
from ulmfit_fast.optim import layerwise_adamw
from ulmfit_fast.training import loop, tasks
from ulmfit_fast.training.progress import Observer

NOUNS = {"animal": ["cat", "dog", "horse", "cow"], "tool": ["saw", "drill", "hammer", "file"]}
LIGHT = Dropouts().scaled(0.2)


def draw_texts(n: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Draw texts whose class shows in their nouns."""
    rng = random.Random(seed)
    labels = [rng.choice(list(NOUNS)) for _ in range(n)]
    texts = []
    for label in labels:
        a, b = rng.choice(NOUNS[label]), rng.choice(NOUNS[label])
        filler = " ".join(
            rng.choice(["old", "big", "red", "near"]) for _ in range(rng.randint(1, 9))
        )
        texts.append(f"The {a} is {filler} and the {b} is not")
    return texts, labels


def small_config(recipe: str = "fastai", **overrides: object) -> TrainConfig:
    config = TrainConfig.preset(recipe, min_freq=1, bptt=12, max_len=24, **overrides)
    config = config.with_stage("pretrain", epochs=2, batch_size=8, lr=0.01, dropouts=LIGHT)
    config = config.with_stage("language_model", epochs=2, batch_size=8, lr=0.01, dropouts=LIGHT)
    return config.with_stage("classifier", epochs=4, batch_size=16, dropouts=LIGHT)


def weights_hash(module: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for value in module.state_dict().values():
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def train_all(config: TrainConfig, observers: tuple[Observer, ...] = ()) -> ULMFiTTrainer:
    texts, labels = draw_texts(160)
    valid_texts, valid_labels = draw_texts(40, seed=1)
    trainer = ULMFiTTrainer(config, size="tiny", observers=observers)
    trainer.pretrain(texts[:80], valid_texts)
    trainer.finetune_lm(texts, valid_texts)
    trainer.train_classifier(texts, labels, valid_texts, valid_labels)
    return trainer


@pytest.fixture(scope="module")
def trained() -> ULMFiTTrainer:
    return train_all(small_config("paper").with_stage("classifier", epochs=8))


def test_the_classifier_learns_and_predicts_in_order(trained: ULMFiTTrainer) -> None:
    texts, labels = draw_texts(50, seed=2)
    result = trained.evaluate(texts, labels)
    assert result.accuracy > 0.9
    assert result.error == pytest.approx(1 - result.accuracy)
    assert result.n == sum(map(sum, result.confusion)) == 50
    predictions = trained.predict(texts)
    right = [p.label == label for p, label in zip(predictions, labels, strict=True)]
    assert sum(right) / 50 == pytest.approx(result.accuracy)
    assert all(sum(p.probabilities.values()) == pytest.approx(1) for p in predictions)
    one_by_one = [trained.predict([text])[0] for text in texts[:5]]
    for alone, together in zip(one_by_one, predictions, strict=False):
        assert alone.probabilities == pytest.approx(together.probabilities, abs=1e-5)
    assert trained.predict([]) == []


@pytest.mark.parametrize("recipe", ["paper", "fastai"])
def test_the_same_seed_gives_the_same_weights(recipe: str) -> None:
    config = small_config(recipe, seed=3)
    first, second = train_all(config), train_all(config)
    other = train_all(replace(config, seed=4))
    assert weights_hash(first.classifier) == weights_hash(second.classifier)
    assert weights_hash(first.language_model) == weights_hash(second.language_model)
    assert weights_hash(first.classifier) != weights_hash(other.classifier)


def test_training_leaves_the_callers_generator_alone() -> None:
    texts, labels = draw_texts(20)
    torch.manual_seed(11)
    before = torch.get_rng_state()
    config = small_config().with_stage("classifier", epochs=1)
    ULMFiTTrainer(config, size="tiny").train_classifier(texts, labels)
    assert torch.equal(before, torch.get_rng_state())


def test_language_model_stages_lower_the_perplexity() -> None:
    texts, _ = draw_texts(200)
    valid, _ = draw_texts(40, seed=1)
    config = small_config().with_stage("pretrain", epochs=4)
    trainer = ULMFiTTrainer(config, size="tiny")
    first = trainer.pretrain(texts, valid)
    second = trainer.finetune_lm(texts, valid)
    assert first.epochs[-1]["perplexity"] < 0.5 * first.epochs[0]["perplexity"]
    assert second.best["perplexity"] < first.best["perplexity"]
    assert first.n_tokens > 0
    assert first.seconds > 0


@pytest.mark.parametrize("kind", ["classifier", "language_model"])
def test_saved_models_load_with_the_same_outputs(
    trained: ULMFiTTrainer, kind: str, tmp_path
) -> None:
    trained.save(tmp_path / "m", kind)
    loaded = ULMFiTTrainer.load(tmp_path / "m")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m"]
    if kind == "classifier":
        texts, _ = draw_texts(10, seed=5)
        assert loaded.predict(texts) == trained.predict(texts)
        assert loaded.labels == ["animal", "tool"]
        assert loaded.config == trained.config
    else:
        texts, _ = draw_texts(30)
        loaded.finetune_lm(texts)
        assert loaded.tokenizer is not None
        assert "cat" in loaded.tokenizer.vocab


class Recorder(Observer):
    def __init__(self) -> None:
        self.events: list[tuple] = []

    def stage_started(self, stage: str, n_steps: int, description: str) -> None:
        self.events.append(("start", stage, n_steps))

    def step(self, stage: str, step: int, loss: float, n_tokens: int, lr: float) -> None:
        self.events.append(("step", stage, step, loss, n_tokens, lr))

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
        run, update = loop.Fit.run, loop.Fit._update

        def spy_run(fit: loop.Fit) -> loop.StageResult:
            self.groups = fit.groups
            self.first = {k: [p.detach().clone() for p in g] for k, g in fit.groups.items()}
            self.moved, self.rates = [], []
            return run(fit)

        def spy_update(fit: loop.Fit, parts: LossParts) -> None:
            self.rates.append({g["layer"]: g["lr"] for g in fit.optimizer.param_groups})
            update(fit, parts)

        monkeypatch.setattr(loop.Fit, "run", spy_run)
        monkeypatch.setattr(loop.Fit, "_update", spy_update)

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
    optimizer = layerwise_adamw(
        classifier.layer_groups(),
        classifier.undecayed_parameters(),
        weight_decay=0.5,
        betas=(0.9, 0.99),
        eps=1e-8,
    )
    decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    for name, parameter in classifier.named_parameters():
        is_norm = name in ("head.0.weight", "head.0.bias", "head.4.weight", "head.4.bias")
        assert decays[id(parameter)] == (0.0 if is_norm else 0.5), name


def test_a_loss_that_is_not_finite_stops_before_the_weights_change(monkeypatch) -> None:
    texts, _ = draw_texts(60)
    seen = []
    losses = tasks.LanguageModelTask.losses

    def broken(self, epoch):
        for step, (parts, n) in enumerate(losses(self, epoch)):
            if step == 2:
                seen.append((self.model, weights_hash(self.model)))
                parts = replace(parts, total=parts.total * float("nan"))
            yield parts, n

    monkeypatch.setattr(tasks.LanguageModelTask, "losses", broken)
    with pytest.raises(TrainingError, match="stage pretrain, step 3: the loss is nan"):
        ULMFiTTrainer(small_config(), size="tiny").pretrain(texts)
    model, before = seen[0]
    assert weights_hash(model) == before


def test_a_loss_that_is_read_seldom_is_still_found(monkeypatch) -> None:
    """As on a GPU, where the loss is read every 20 steps."""
    texts, _ = draw_texts(60)
    losses = tasks.LanguageModelTask.losses
    monkeypatch.setattr(loop, "CPU_STEPS_BETWEEN_READS", 1000)

    def broken(self, epoch):
        for parts, n in losses(self, epoch):
            scale = float("nan") if epoch == 1 else 1.0
            yield replace(parts, cross_entropy=parts.cross_entropy * scale), n

    monkeypatch.setattr(tasks.LanguageModelTask, "losses", broken)
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


def test_a_new_language_model_takes_the_old_classifier_away() -> None:
    texts, labels = draw_texts(40)
    trainer = ULMFiTTrainer(small_config(), size="tiny")
    trainer.pretrain(texts)
    trainer.train_classifier(texts, labels)
    trainer.finetune_lm(["entirely other words stand here"] * 20)
    with pytest.raises(InputError, match="no classifier"):
        trainer.predict(texts)


def test_a_loaded_classifier_is_the_start_of_the_next(trained: ULMFiTTrainer, tmp_path) -> None:
    trained.save(tmp_path / "m", "classifier")
    config = small_config().with_stage("classifier", epochs=1, lr=1e-9)
    loaded = ULMFiTTrainer.load(tmp_path / "m", config=config)
    texts, labels = draw_texts(40, seed=8)
    loaded.train_classifier(texts, [label.upper() for label in labels])
    assert loaded.labels == ["ANIMAL", "TOOL"]
    before = trained.classifier.encoder.rnns[0].weight_hh_l0
    assert torch.allclose(loaded.classifier.encoder.rnns[0].weight_hh_l0, before, atol=1e-5)


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


def test_unusable_calls_are_refused_in_one_line() -> None:
    texts, labels = draw_texts(10)
    trainer = ULMFiTTrainer(small_config(), size="tiny")
    calls = {
        "no size 'huge': choose one of tiny, small, base": lambda: ULMFiTTrainer(size="huge"),
        "no device 'abacus': give cpu or cuda": lambda: ULMFiTTrainer(device="abacus"),
        "no recipe 'soup': choose one of paper, fastai": lambda: TrainConfig.preset("soup"),
        "classifier epochs is 0: give at least 1": (
            lambda: small_config().with_stage("classifier", epochs=0)
        ),
        "pretrain lr is -1: give a learning rate above 0": (
            lambda: small_config().with_stage("pretrain", lr=-1)
        ),
        "classifier batch_size is 1: give at least 2": (
            lambda: small_config().with_stage("classifier", batch_size=1)
        ),
        "text 2 has no label: leave it out here": (
            lambda: trainer.train_classifier(texts, [labels[0], None, *labels[2:]])
        ),
        "10 texts and 0 labels": lambda: trainer.train_classifier(texts, labels, texts),
        "no language model to fine-tune": lambda: trainer.finetune_lm(texts),
        "no classifier: call train_classifier": lambda: trainer.predict(texts),
        "no classifier to save": lambda: trainer.save("nowhere", "classifier"),
        "the labels hold 1 class (a): at least 2 are needed": (
            lambda: trainer.train_classifier(texts, ["a"] * 10)
        ),
        "10 texts and 9 labels": lambda: trainer.train_classifier(texts, labels[:9]),
        "text 2 has label 'moon', which training does not have (classes: animal, tool)": (
            lambda: trainer.train_classifier(texts, labels, texts[:2], ["tool", "moon"])
        ),
    }
    for message, call in calls.items():
        with pytest.raises(InputError) as raised:
            call()
        assert str(raised.value).startswith(message)
        assert "\n" not in str(raised.value)


def test_config_survives_json_and_names_odd_fields() -> None:
    config = small_config("paper", seed=9)
    assert TrainConfig.from_dict(config.to_dict()) == config
    with pytest.raises(InputError, match="fields: turbo"):
        TrainConfig.from_dict({**config.to_dict(), "turbo": True})
    assert len(config.to_dict()) <= 20
