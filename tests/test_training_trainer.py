"""The three stages, end to end on small texts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_training import draw_texts, small_config, train_all, weights_hash

from ulmfit_fast import InputError, TrainConfig, ULMFiTTrainer


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
