"""A server's answers are those of ULMFiTTrainer.predict."""

from __future__ import annotations

import random

import pytest
from serving import small_trainer
from small_training import draw_texts

from ulmfit_fast import InputError, ULMFiTTrainer
from ulmfit_fast.serve.predictor import Predictor
from ulmfit_fast.training.evaluation import Prediction

# Largest distance of a probability between two batches of the same text: of sums of a product in
# another order. Set 2026-11-25 at ten times what these sizes show.
ROUNDING = {"fp32": 2e-6, "bf16": 2e-2}


def classify(predictor: Predictor, texts: list[str]) -> list[Prediction]:
    return predictor.classify(predictor.encode(texts))


@pytest.mark.parametrize("precision", ROUNDING)
def test_a_batch_of_one_request_is_the_trainers_to_the_last_bit(precision: str) -> None:
    trainer = small_trainer(precision)
    predictor = Predictor(trainer)
    texts, _ = draw_texts(trainer.config.classifier.batch_size, seed=3)
    for n in (1, 2, 7, len(texts)):
        found = classify(predictor, texts[:n])
        # Longest first, as the batcher hands them over; the order of the rows is the trainer's.
        assert found == trainer.predict(texts[:n])
        assert classify(predictor, texts[:n]) == found


@pytest.mark.parametrize("precision", ROUNDING)
def test_other_texts_in_the_batch_change_no_more_than_rounding(precision: str) -> None:
    trainer = small_trainer(precision)
    predictor = Predictor(trainer)
    texts, _ = draw_texts(60, seed=4)
    alone = [trainer.predict([text])[0] for text in texts]
    draw = random.Random(0)
    for _ in range(5):
        picked = draw.sample(range(60), draw.randint(2, 60))
        for i, found in zip(picked, classify(predictor, [texts[i] for i in picked]), strict=True):
            expected = pytest.approx(alone[i].probabilities, abs=ROUNDING[precision])
            assert found.probabilities == expected


def test_a_language_model_is_not_served() -> None:
    with pytest.raises(InputError, match="no classifier to serve"):
        Predictor(ULMFiTTrainer(size="tiny", device="cpu"))
