"""The whole examination of a classifier, on small and on odd data."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_training import LIGHT, draw_texts, small_config

from ulmfit_fast import ULMFiTTrainer
from ulmfit_fast.errors import InputError
from ulmfit_fast.interpret.examination import Examination
from ulmfit_fast.interpret.examination_json import to_json
from ulmfit_fast.interpret.examine import ExamineOptions, examine
from ulmfit_fast.interpret.parts import Part
from ulmfit_fast.model import TextClassifier

HTML = '<script>alert("x")</script> the \x1b[31m cat\x00 \u202e &amp; dog'

WRONG = (7, 19, 28, 33, 41, 52)


def parts_of_data() -> dict[str, Part]:
    """Return parts with wrong labels in the test part, and texts that stand in two parts."""
    train, labels = draw_texts(300)
    test, test_labels = draw_texts(60, seed=1)
    for row in WRONG:
        test_labels[row] = "tool" if test_labels[row] == "animal" else "animal"
    test[3], test_labels[3] = f"  {train[0].upper()} ", labels[0]
    return {
        "test": Part([*test, HTML, "of what no one knows"], [*test_labels, "tool", "tool"]),
        "train": Part(train, labels),
        "valid": Part(*draw_texts(30, seed=2)),
        "unlabelled": Part([test[5], "something else"]),
    }


@pytest.fixture(scope="module")
def parts() -> dict[str, Part]:
    return parts_of_data()


@pytest.fixture(scope="module")
def trainer(parts: dict[str, Part]) -> ULMFiTTrainer:
    trainer = ULMFiTTrainer(small_config().with_stage("classifier", epochs=12), size="tiny")
    trainer.train_classifier(parts["train"].texts, parts["train"].labels)
    return trainer


@pytest.fixture(scope="module")
def found(trainer: ULMFiTTrainer, parts: dict[str, Part]) -> Examination:
    return examine(trainer, parts)


def test_figures_are_those_of_evaluate(
    trainer: ULMFiTTrainer, parts: dict[str, Part], found: Examination
) -> None:
    expected = trainer.evaluate(parts["test"].texts, parts["test"].labels)
    assert (found.part, found.n, found.labels) == ("test", 62, ("animal", "tool"))
    assert found.accuracy == pytest.approx(expected.accuracy)
    assert found.loss == pytest.approx(expected.loss, rel=1e-4)
    assert found.confusion == tuple(map(tuple, expected.confusion))
    for scores in found.classes:
        values = {key: getattr(scores, key) for key in ("precision", "recall", "f1", "n")}
        assert values == pytest.approx(expected.per_class[scores.name])
    assert found.accuracy_interval[0] < found.accuracy <= found.accuracy_interval[1]


def test_answers_are_those_of_predict(
    trainer: ULMFiTTrainer, parts: dict[str, Part], found: Examination
) -> None:
    predictions = trainer.predict(parts["test"].texts)
    for row, (answer, prediction) in enumerate(zip(found.answers, predictions, strict=True)):
        assert answer.row == row
        assert found.labels[answer.answer] == prediction.label
        assert found.labels[answer.label] == parts["test"].labels[row]
        assert answer.probability == pytest.approx(prediction.probabilities[prediction.label])


def test_mistakes_are_explained_and_have_neighbours(
    trainer: ULMFiTTrainer, parts: dict[str, Part], found: Examination
) -> None:
    wrong = [a for a in found.answers if a.label != a.answer]
    assert len(wrong) == len(found.mistakes) >= 1
    probabilities = [m.probability for m in found.mistakes]
    assert probabilities == sorted(probabilities, reverse=True)
    for mistake in found.mistakes:
        assert mistake.label != mistake.answer == mistake.attribution.label
        assert (
            "".join(t.text for t in mistake.attribution.tokens) == parts["test"].texts[mistake.row]
        )
        similarities = [n.similarity for n in mistake.nearest]
        assert len(similarities) == 3
        assert similarities == sorted(similarities, reverse=True)
        assert all(parts["train"].labels[n.row] == n.label for n in mistake.nearest)


def test_neighbours_are_the_nearest_by_cosine(
    trainer: ULMFiTTrainer, parts: dict[str, Part], found: Examination
) -> None:
    def features(text: str) -> np.ndarray:
        ids = torch.from_numpy(trainer.tokenizer.encode([text])[0].astype(np.int64))[None]
        with torch.no_grad():
            pooled, _ = trainer.classifier.eval().encode(ids, [ids.shape[1]])
        return pooled[0].double().numpy()

    mistake = found.mistakes[0]
    own = features(parts["test"].texts[mistake.row])
    all_train = np.stack([features(text) for text in parts["train"].texts])
    cosine = all_train @ own / np.linalg.norm(all_train, axis=1) / np.linalg.norm(own)
    np.testing.assert_allclose(
        [n.similarity for n in mistake.nearest], np.sort(cosine)[:-4:-1], atol=1e-5
    )
    np.testing.assert_allclose(
        cosine[[n.row for n in mistake.nearest]], np.sort(cosine)[:-4:-1], atol=1e-5
    )


def test_planted_label_errors_are_suspected(found: Examination) -> None:
    suspected = [(s.part, s.row) for s in found.suspects]
    planted = {("test", row) for row in WRONG}
    assert len(planted & set(suspected)) >= 3
    assert len(set(suspected) - planted) <= 2
    own = [s.probability for s in found.suspects]
    assert own == sorted(own)
    assert all(s.label != s.suggestion for s in found.suspects)


def test_parts_and_duplicates_are_described(parts: dict[str, Part], found: Examination) -> None:
    assert [o.name for o in found.overview] == ["train", "valid", "test", "unlabelled"]
    assert [o.n for o in found.overview] == [300, 30, 62, 2]
    assert found.overview[3].classes == {}
    assert all(sum(o.length_counts) == o.n for o in found.overview)
    assert "something" in found.overview[3].unknown_words
    assert found.n_duplicates["train, test"] >= 1
    assert found.n_duplicates["test, unlabelled"] == 1


def test_examination_is_the_same_again(
    trainer: ULMFiTTrainer, parts: dict[str, Part], found: Examination
) -> None:
    trainer.classifier.train()
    again = examine(trainer, dict(reversed(parts.items())))
    assert trainer.classifier.training
    assert to_json(again) == to_json(found)


def test_amounts_are_bounded(trainer: ULMFiTTrainer, parts: dict[str, Part]) -> None:
    options = ExamineOptions(
        n_explained=1, n_mistakes=2, n_suspects=2, n_duplicates=1, n_characters=10, n_neighbours=2,
        method="gradient_x_input",
    )  # fmt: skip
    labels = ["tool" if label == "animal" else "animal" for label in parts["test"].labels]
    turned = {**parts, "test": Part(parts["test"].texts, labels)}
    found = examine(trainer, turned, options)
    assert len(found.mistakes) == 2
    assert found.mistakes[0].attribution.method == "gradient_x_input"
    assert len(found.mistakes[0].nearest) == 2
    assert found.mistakes[1].attribution is None
    assert found.mistakes[1].nearest == ()
    assert len(found.suspects) == 2
    assert len(found.duplicates) == 1
    assert max(len(a.text) for a in found.answers) == 10
    short = examine(trainer, turned, replace(options, most_tokens=3))
    assert short.mistakes[0].attribution is None
    assert short.mistakes[0].nearest


def test_empty_test_part_leaves_the_validation_part(
    trainer: ULMFiTTrainer, parts: dict[str, Part]
) -> None:
    found = examine(trainer, {"valid": parts["valid"], "test": Part([])})
    assert (found.part, found.n) == ("valid", 30)
    assert all(mistake.nearest == () for mistake in found.mistakes)
    assert [o.n for o in found.overview] == [30, 0]


def test_wrong_parts_are_refused(trainer: ULMFiTTrainer) -> None:
    cases = {
        "nothing to examine": {"train": Part(["a"], ["tool"]), "test": Part([])},
        "no part 'dev': name them train, valid": {"dev": Part(["a"], ["tool"])},
        "test: 2 texts and 1 labels": {"test": Part(["a", "b"], ["tool"])},
        "'plant', which training does not have": {"test": Part(["a"], ["plant"])},
    }
    for message, wrong in cases.items():
        with pytest.raises(InputError, match=message):
            examine(trainer, wrong)
    with pytest.raises(InputError, match="no classifier"):
        examine(ULMFiTTrainer(small_config(), size="tiny"), {"test": Part(["a"], ["tool"])})


def untrained(trainer: ULMFiTTrainer, names: list[str]) -> ULMFiTTrainer:
    """Return a trainer with a random classifier of other classes."""
    other = ULMFiTTrainer(trainer.config, size="tiny")
    torch.manual_seed(0)
    config = trainer.classifier.config.with_dropouts(LIGHT)
    other.tokenizer, other.labels = trainer.tokenizer, names
    other.classifier = TextClassifier(config, len(names), bptt=12, max_len=24)
    return other


def test_one_class_answered_only(trainer: ULMFiTTrainer) -> None:
    other = untrained(trainer, ["a", "b", "c"])
    with torch.no_grad():
        other.classifier.head[-1].weight[1] += 100 * torch.ones(50)
    texts, _ = draw_texts(20)
    found = examine(other, {"test": Part(texts, ["a"] * 20)})
    assert found.accuracy == 0
    assert found.confusion == ((0, 20, 0), (0, 0, 0), (0, 0, 0))
    assert len(found.mistakes) == 20


def test_a_damaged_model_is_not_measured(trainer: ULMFiTTrainer) -> None:
    other = untrained(trainer, ["a", "b"])
    with torch.no_grad():
        other.classifier.head[-1].weight[0, 0] = torch.nan
    texts, _ = draw_texts(20)
    with pytest.raises(InputError, match="probabilities of 20 of 20 texts are not numbers"):
        examine(other, {"test": Part(texts, ["a"] * 20)})


def test_ten_thousand_rows_of_200_classes_take_seconds(trainer: ULMFiTTrainer) -> None:
    names = [f"class {k:03}" for k in range(200)]
    other = untrained(trainer, names)
    texts, _ = draw_texts(10_000, seed=3)
    labels = [names[k % 200] for k in range(10_000)]
    start = time.process_time()
    other.predict(texts)
    predicting = time.process_time() - start
    found = examine(other, {"test": Part(texts, labels)})
    assert time.process_time() - start - 2 * predicting < 8
    assert len(found.answers) == 10_000
    assert len(to_json(found)) < 8e6
