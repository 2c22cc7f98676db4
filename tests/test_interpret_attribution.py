"""Attribution against answers that are known: linear models, derivatives, the integral's value."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from small_training import NOUNS, draw_texts, small_config, weights_hash
from torch import nn

from ulmfit_fast import ULMFiTTrainer
from ulmfit_fast.errors import InputError
from ulmfit_fast.interpret.attribution import attribute, log_odds, score_tokens
from ulmfit_fast.interpret.pieces import word_scores
from ulmfit_fast.model import AWDLSTMConfig, TextClassifier

V, E, BPTT, MAX_LEN = 40, 6, 8, 20
DOCUMENTS = [
    np.array([2, *np.random.default_rng(n).integers(9, V, n - 1)], dtype=np.int32)
    for n in (5, 30, 1, 17, 64, 8)
]
CLASSES = [0, 1, 2, 0, 1, 2]


def make_model(*, smooth: bool = False) -> TextClassifier:
    """Return a float64 classifier; a smooth one has no kinks, in its head or its pooling."""
    torch.manual_seed(0)
    config = AWDLSTMConfig(V, E, hidden_size=10, n_layers=2)
    model = TextClassifier(config, n_classes=3, bptt=BPTT, max_len=MAX_LEN).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    if smooth:
        model.head = nn.Sequential(nn.Linear(3 * E, 3)).double()
        with torch.no_grad():
            model.head[0].weight[:, E : 2 * E] = 0  # of the largest
    return model


def forward(model: TextClassifier, document: np.ndarray, label: int) -> float:
    """Return the log-odds by the model's own forward function, in eval()."""
    model.eval()
    with torch.no_grad():
        logits = model(torch.from_numpy(document.astype(np.int64))[None])
    return float(log_odds(logits, torch.tensor([label])))


def test_log_odds_are_those_of_the_probability() -> None:
    logits = torch.randn(5, 4, dtype=torch.float64)
    classes = torch.tensor([0, 3, 1, 2, 2])
    p = logits.softmax(dim=1).gather(1, classes[:, None])[:, 0]
    torch.testing.assert_close(log_odds(logits, classes), p.logit())


@pytest.mark.parametrize("method", ["integrated_gradients", "gradient_x_input"])
def test_linear_classifier_has_the_known_scores(method: str) -> None:
    model = make_model(smooth=True)
    model.encoder.rnns = nn.ModuleList()  # pooled are the words themselves
    with torch.no_grad():
        model.head[0].weight[:, :E] = 0  # of the last
        model.head[0].weight[2], model.head[0].bias[2] = 0, -1e6  # log-odds: of the first two
    table, weight = model.encoder.embedding.weight, model.head[0].weight
    scored = score_tokens(model, DOCUMENTS, [0] * len(DOCUMENTS), method=method, n_steps=3)
    for document, scores in zip(DOCUMENTS, scored, strict=True):
        n = len(document)
        start = max(0, -(-(n - MAX_LEN) // BPTT)) * BPTT  # first pooled token
        expected = table[document] @ (weight[0] - weight[1])[2 * E :] / (n - start)
        expected[:start] = 0
        expected[0] = 0  # xxbos stays in the baseline
        np.testing.assert_allclose(scores.values, expected.detach().numpy(), atol=1e-12)
        assert scores.gap < 1e-9


def test_smooth_classifier_is_complete_to_float64s_tolerance() -> None:
    model = make_model(smooth=True)
    for scores in score_tokens(model, DOCUMENTS, CLASSES, n_steps=100):
        assert scores.values.sum() == pytest.approx(scores.difference, rel=1e-9, abs=1e-12)
        assert scores.gap < 1e-9


def test_more_steps_close_the_gap_of_a_classifier_with_kinks() -> None:
    missed = []
    for n_steps in (4, 400):
        scored = score_tokens(make_model(), DOCUMENTS, CLASSES, n_steps=n_steps)
        missed.append(max(abs(scores.values.sum() - scores.difference) for scores in scored))
    assert missed[1] < 1e-4
    assert missed[1] < missed[0] / 20


def test_difference_is_that_of_the_forward_function() -> None:
    model = make_model()
    scored = score_tokens(model, DOCUMENTS, CLASSES, n_steps=2)
    expected = [forward(model, d, c) for d, c in zip(DOCUMENTS, CLASSES, strict=True)]
    with torch.no_grad():
        model.encoder.embedding.weight[3:] = 0  # every word dropped, xxbos kept
    baseline = [forward(model, d, c) for d, c in zip(DOCUMENTS, CLASSES, strict=True)]
    found = [scores.difference for scores in scored]
    np.testing.assert_allclose(found, np.subtract(expected, baseline), rtol=1e-9)
    assert found[2] == 0.0  # a document of xxbos alone
    assert scored[2].gap == 0.0


def test_gradients_go_through_the_borders_of_chunks() -> None:
    """The derivative of the forward function by one word's embedding, by central differences."""
    model = make_model()
    document = np.array([2, *range(9, 35)], dtype=np.int32)  # 27 tokens, 4 chunks, none twice
    (scores,) = score_tokens(model, [document], [1], method="gradient_x_input")
    for place in (1, 7, 8, 20, 26):
        row, step, values = int(document[place]), 1e-6, []
        original = model.encoder.embedding.weight.detach()[row].clone()
        for sign in (1, -1):
            with torch.no_grad():
                model.encoder.embedding.weight[row] = original * (1 + sign * step)
            values.append(forward(model, document, 1))
        with torch.no_grad():
            model.encoder.embedding.weight[row] = original
        derivative = (values[0] - values[1]) / (2 * step)
        assert scores.values[place] == pytest.approx(derivative, rel=1e-5, abs=1e-9)
    assert abs(scores.values[1]) > 0  # older than what is pooled


@pytest.mark.parametrize("method", ["integrated_gradients", "gradient_x_input"])
def test_batch_gives_what_single_documents_give(method: str) -> None:
    model = make_model()
    together = score_tokens(model, DOCUMENTS, CLASSES, method=method, n_steps=8)
    for document, label, scores in zip(DOCUMENTS, CLASSES, together, strict=True):
        (alone,) = score_tokens(model, [document], [label], method=method, n_steps=8)
        assert len(scores.values) == len(document)
        np.testing.assert_allclose(scores.values, alone.values, rtol=1e-9, atol=1e-12)
        assert scores.difference == pytest.approx(alone.difference, rel=1e-9)


def test_model_is_left_as_it_is() -> None:
    model = make_model().train()
    before = weights_hash(model)
    with torch.no_grad():
        score_tokens(model, DOCUMENTS, CLASSES, n_steps=2)
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert weights_hash(model) == before


@pytest.fixture(scope="module")
def trainer() -> ULMFiTTrainer:
    """Return a classifier that finds nearly all of the planted words."""
    trainer = ULMFiTTrainer(small_config().with_stage("classifier", epochs=12), size="tiny")
    trainer.train_classifier(*draw_texts(400))
    assert trainer.evaluate(*draw_texts(60, seed=1)).accuracy > 0.9
    return trainer


@pytest.mark.parametrize("method", ["integrated_gradients", "gradient_x_input"])
def test_planted_keyword_has_the_highest_score(trainer: ULMFiTTrainer, method: str) -> None:
    texts, labels = draw_texts(30, seed=5)
    n_right = 0
    for attribution in attribute(trainer, texts, labels, method=method):
        best = word_scores(attribution.tokens)[0].word
        n_right += best in NOUNS[attribution.label]
    assert n_right >= 27


def test_pieces_give_the_text_again(trainer: ULMFiTTrainer) -> None:
    texts = [
        "",
        " \n ",
        "  The DOG is red!!!!  <br />OK ",
        "Cat\u202e\x1b[31m &amp; saw",
        "the " * 90,
    ]
    for text, found in zip(texts, attribute(trainer, texts, n_steps=4), strict=True):
        assert "".join(piece.text for piece in found.tokens) == text
        assert found.label in trainer.labels
        assert found.method == "integrated_gradients"


def test_sum_is_the_difference_for_a_trained_model(trainer: ULMFiTTrainer) -> None:
    texts, _ = draw_texts(10, seed=6)
    assert max(found.gap for found in attribute(trainer, texts)) < 0.05


def test_rough_integrals_are_made_finer(trainer: ULMFiTTrainer) -> None:
    texts, labels = draw_texts(10, seed=6)
    documents = trainer.tokenizer.encode(texts)
    classes = [trainer.labels.index(label) for label in labels]
    raw = score_tokens(trainer.classifier, documents, classes, n_steps=1)
    found = attribute(trainer, texts, labels, n_steps=1)
    assert max(scores.gap for scores in raw) > 0.05
    for scores, attribution in zip(raw, found, strict=True):
        assert (attribution.gap == pytest.approx(scores.gap)) == (scores.gap <= 0.05)


def test_subword_model_is_explained_too() -> None:
    texts, labels = draw_texts(60)
    config = small_config().with_stage("classifier", epochs=1)
    trainer = ULMFiTTrainer(config, size="tiny", tokenizer_kind="subword")
    trainer.train_classifier(texts, labels)
    text = "The HAMMER is  old!!!! unbelievably жук &amp; old old old"
    (found,) = attribute(trainer, [text])
    assert "".join(piece.text for piece in found.tokens) == text
    assert {"hammer", "old"} <= {word.word for word in word_scores(found.tokens)}


def test_classes_speak_against_each_other(trainer: ULMFiTTrainer) -> None:
    (animal,) = attribute(trainer, ["The cat is old"], ["animal"])
    (tool,) = attribute(trainer, ["The cat is old"], ["tool"])
    for a, b in zip(animal.tokens, tool.tokens, strict=True):
        assert a.score == pytest.approx(-b.score, abs=1e-5)


def test_wrong_arguments_are_refused(trainer: ULMFiTTrainer) -> None:
    with pytest.raises(InputError, match=r"no class 'plant' in the model \(classes: animal, tool"):
        attribute(trainer, ["a"], ["plant"])
    with pytest.raises(InputError, match="no method 'shap': choose one of integrated_gradients"):
        attribute(trainer, ["a"], method="shap")
    with pytest.raises(InputError, match="n_steps is 0"):
        attribute(trainer, ["a"], n_steps=0)
    with pytest.raises(InputError, match="no classifier"):
        attribute(ULMFiTTrainer(small_config(), size="tiny"), ["a"])
    for labels in ([], ["animal"], ["animal"] * 3):
        with pytest.raises(InputError, match=rf"2 texts and {len(labels)} labels: give one label"):
            attribute(trainer, ["a", "b"], labels)
    with pytest.raises(InputError, match="0 texts and 1 labels"):
        attribute(trainer, [], ["animal"])
    assert attribute(trainer, []) == []


def test_answers_that_are_no_numbers_are_said(trainer: ULMFiTTrainer) -> None:
    broken = copy.deepcopy(trainer)
    with torch.no_grad():
        broken.classifier.head[-1].weight[0, 0] = torch.nan
    with pytest.raises(InputError, match=r"answers are not numbers \(nan\): its weights"):
        attribute(broken, ["The cat is big"], ["animal"])
