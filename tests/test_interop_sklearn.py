"""The classifier for scikit-learn: its interface, its data, pickling, and scikit-learn's checks."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_training import draw_texts

from ulmfit_fast import InputError, ULMFiTTrainer
from ulmfit_fast.training.sizes import SIZES, ModelSize

pytest.importorskip("sklearn")

from sklearn_texts import small_lm_config

from ulmfit_fast.interop.sklearn import ULMFiTClassifier

pytestmark = pytest.mark.peer
TEXTS, LABELS = draw_texts(60)
OTHER_TEXTS, OTHER_LABELS = draw_texts(30, seed=1)


@pytest.fixture(autouse=True)
def _small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "tiny", ModelSize(40, 64, 2, 0.1))


def small(**parameters: Any) -> ULMFiTClassifier:
    given = {"size": "tiny", "lm_epochs": 1, "epochs": 10, "batch_size": 8, "lr": 0.05}
    return ULMFiTClassifier(**{**given, "precision": "fp32", "random_state": 0, **parameters})


@pytest.fixture(scope="module")
def fitted() -> Iterator[ULMFiTClassifier]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "tiny", ModelSize(40, 64, 2, 0.1))
        yield small().fit(TEXTS, LABELS)


# --- learning


def test_it_learns_and_its_answers_belong_together(fitted: ULMFiTClassifier) -> None:
    assert fitted.score(OTHER_TEXTS, OTHER_LABELS) > 0.9
    probabilities = fitted.predict_proba(OTHER_TEXTS)
    assert probabilities.shape == (30, 2)
    assert probabilities.dtype == np.float64
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-12)
    chosen = fitted.classes_[probabilities.argmax(axis=1)]
    np.testing.assert_array_equal(fitted.predict(OTHER_TEXTS), chosen)
    assert [stage.stage for stage in fitted.stages_] == ["pretrain", "classifier"]
    assert fitted._trainer.language_model is None  # predictions need no second model


def test_the_same_random_state_gives_the_same_numbers_and_torch_is_left_alone(
    fitted: ULMFiTClassifier,
) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    again = small().fit(TEXTS, LABELS).predict_proba(OTHER_TEXTS)
    assert torch.equal(before[0], torch.get_rng_state())
    np.testing.assert_array_equal(before[1], np.random.get_state()[1])
    np.testing.assert_array_equal(again, fitted.predict_proba(OTHER_TEXTS))
    other = small(random_state=1).fit(TEXTS, LABELS).predict_proba(OTHER_TEXTS)
    assert not np.array_equal(again, other)
    drawn = [
        small(random_state=np.random.RandomState(7), epochs=1, lm_epochs=0)
        .fit(TEXTS, LABELS)
        .predict_proba(OTHER_TEXTS)
        for _ in range(2)
    ]
    np.testing.assert_array_equal(*drawn)


def test_rows_without_a_label_train_the_language_model_alone() -> None:
    labels: list[Any] = [*LABELS[:40], *[None] * 20]
    odd = [*TEXTS[:40], *["entirely other words stand here"] * 20]
    estimator = small(epochs=1).fit(odd, labels)
    assert "entirely" in estimator._trainer.tokenizer.vocab
    assert estimator.classes_.tolist() == ["animal", "tool"]
    assert estimator.stages_[1].n_tokens < 0.9 * estimator.stages_[0].n_tokens
    as_nan = small(epochs=1).fit(odd, np.array([*LABELS[:40], *[np.nan] * 20], dtype=object))
    np.testing.assert_array_equal(as_nan.predict_proba(TEXTS), estimator.predict_proba(TEXTS))
    labelled_only = small(epochs=1).fit(odd[:40], labels[:40])
    assert not np.array_equal(labelled_only.predict_proba(TEXTS), estimator.predict_proba(TEXTS))
    # score counts the rows that have a label.
    answers = estimator.predict(TEXTS)
    wrong = ["animal" if answer == "tool" else "tool" for answer in answers]
    assert estimator.score(TEXTS, [*answers[:10], *[None] * 50]) == 1
    assert estimator.score(TEXTS, [*answers[:30], *wrong[30:40], *[np.nan] * 20]) == 0.75


def test_a_base_gives_its_size_and_its_words(tmp_path: Path, fitted: ULMFiTClassifier) -> None:
    lm = ULMFiTTrainer(small_lm_config(), size="tiny")
    lm.pretrain([*TEXTS, *["the zebra is near and the zebra is old"] * 5])
    lm.save(tmp_path / "run" / "language_model")
    estimator = small(base=tmp_path / "run", size=None, lm_epochs=0, preset="paper")
    estimator.fit(TEXTS, LABELS)
    assert "zebra" in estimator._trainer.tokenizer.vocab
    assert [stage.stage for stage in estimator.stages_] == ["classifier"]
    assert estimator.score(OTHER_TEXTS, OTHER_LABELS) > 0.9
    tuned = small(base=str(tmp_path / "run" / "language_model"), size=None, lm_epochs=1, epochs=1)
    tuned.fit(TEXTS, LABELS)
    assert "zebra" not in tuned._trainer.tokenizer.vocab
    assert [stage.stage for stage in tuned.stages_] == ["language_model", "classifier"]
    fitted.save(tmp_path / "classifier")
    with pytest.raises(InputError, match=r"classifier: holds a classifier, not a language model$"):
        small(base=tmp_path / "classifier", size=None).fit(TEXTS, LABELS)


# --- what y and X may be


@pytest.mark.parametrize(
    ("y", "dtype"),
    [
        (np.array([10, 2] * 10, dtype=np.int16), np.int16),
        (np.array([True, False] * 10), np.bool_),
        (np.array(["b", "a"] * 10), "<U1"),
        (np.array(["b", "a"] * 10, dtype=object), object),
        (np.array([b"b", b"a"] * 10), "S1"),
        ([1.0, 3.0] * 9 + [np.nan, None], np.float64),
        ([10, 2] * 9 + [None, None], np.int64),
        (["b", "a"] * 9 + [np.nan, None], object),
    ],
    ids=lambda value: None if isinstance(value, list | np.ndarray) else np.dtype(value).str,
)
def test_classes_are_sorted_in_the_dtype_of_y_also_after_pickle_and_folder(
    y: Any, dtype: Any, tmp_path: Path
) -> None:
    estimator = small(lm_epochs=0, epochs=1).fit(TEXTS[:20], y)
    assert estimator.classes_.dtype == dtype
    assert estimator.classes_.tolist() == sorted(estimator.classes_.tolist())
    assert len(estimator.classes_) == 2
    answers = estimator.predict(TEXTS)
    assert answers.dtype == dtype
    estimator.save(tmp_path / "m")
    for other in (
        pickle.loads(pickle.dumps(estimator)),
        ULMFiTClassifier.load(tmp_path / "m", precision="fp32"),
    ):
        assert other.classes_.dtype == dtype
        np.testing.assert_array_equal(other.predict(TEXTS), answers)


def test_numbers_keep_their_own_order_and_meaning() -> None:
    numbers = np.array([10 if label == "animal" else 2 for label in LABELS])
    estimator = small().fit(TEXTS, numbers)
    assert estimator.classes_.tolist() == [2, 10]
    assert estimator._trainer.labels == ["2", "10"]
    wanted = [10 if label == "animal" else 2 for label in OTHER_LABELS]
    assert estimator.score(OTHER_TEXTS, wanted) > 0.9


def test_pandas_and_numpy_give_what_lists_give() -> None:
    pandas = pytest.importorskip("pandas")
    labels = [*LABELS[:50], *[None] * 10]
    expected = small(epochs=1).fit(TEXTS, labels).predict_proba(TEXTS)
    for X, y in (
        (pandas.Series(TEXTS, index=range(5, 65)), pandas.Series(labels)),
        (pandas.Series(TEXTS, dtype="string"), pandas.Series(labels, dtype="string")),
        (pandas.Series(TEXTS), pandas.Series(labels, dtype="category")),
        (np.array(TEXTS), np.array(labels, dtype=object)),
        (tuple(TEXTS), tuple(labels)),
    ):
        answers = small(epochs=1).fit(X, y).predict_proba(X)
        np.testing.assert_array_equal(answers, expected)


BAD_X = {
    "one text": "X is one text",
    (): "X has no texts",
    (1, "a"): r"X\[0\] is 1, a int: every row must be a text",
    ("a", None): r"X\[1\] is None, a NoneType",
    (b"a", "b"): r"X\[0\] is b'a', a bytes",
    5: "X is a int",
}


@pytest.mark.parametrize("X", BAD_X, ids=repr)
def test_what_is_not_texts_is_refused_in_one_line(X: Any, fitted: ULMFiTClassifier) -> None:
    given = list(X) if isinstance(X, tuple) else X
    for call in (partial(small().fit, y=["a", "b"]), fitted.predict, fitted.predict_proba):
        with pytest.raises(InputError, match=BAD_X[X]) as raised:
            call(given)
        assert "\n" not in str(raised.value)


def test_an_object_that_makes_an_array_is_taken(fitted: ULMFiTClassifier) -> None:
    class Column:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            return np.array(TEXTS, dtype=object)

    np.testing.assert_array_equal(fitted.predict(Column()), fitted.predict(TEXTS))


def test_a_row_does_not_depend_on_those_beside_it(fitted: ULMFiTClassifier) -> None:
    together = fitted.predict_proba(OTHER_TEXTS)
    alone = [fitted.predict_proba([text])[0] for text in OTHER_TEXTS]
    np.testing.assert_allclose(alone, together, atol=1e-6)


def test_a_table_and_a_sparse_matrix_are_refused(fitted: ULMFiTClassifier) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    for X in (np.array([TEXTS[:4]]), np.array([TEXTS[:4]]).T, sparse.csr_matrix((4, 2))):
        with pytest.raises(InputError, match=r"^X has shape \(\d, \d\): give a list of texts"):
            fitted.predict(X)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (None, "requires y to be passed, but the target y is None"),
        (["a"] * 3, r"X has 4 texts and y 3 labels"),
        (["a"] * 4, r"y has 1 class \(a\): at least 2 are needed"),
        ([None] * 4, r"y has 0 class"),
        ([["a", "b"]] * 4, r"y should be a 1d array, got an array of shape \(4, 2\)"),
        ([0.5, 1, 2, 3], "Unknown label type: y has fractions"),
        ([np.inf, 1, 2, 3], r"infinite label \(inf\)"),
        (["a", 1, "b", None], "y has text and 1 as labels"),
        ([1j, 2j, 1j, 2j], "y has labels of type complex128"),
    ],
)
def test_unusable_labels_are_refused_in_one_line(y: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        small().fit(TEXTS[:4], y)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"size": "huge"}, "no size 'huge': choose one of tiny"),
        ({"size": 3}, "size is 3, a int: give a text"),
        ({"tokenizer": "letters"}, "no tokenizer 'letters': choose one of word, subword"),
        ({"preset": "soup"}, "no recipe 'soup'"),
        ({"lm_epochs": -1}, "lm_epochs is -1: give a whole number of at least 0"),
        ({"epochs": 0}, "epochs is 0: give a whole number of at least 1, or None"),
        ({"epochs": True}, "epochs is True"),
        ({"epochs": "3"}, "epochs is '3'"),
        ({"epochs": 2.5}, "epochs is 2.5"),
        ({"batch_size": 1}, "batch_size is 1: give a whole number of at least 2"),
        ({"lr": float("inf")}, "lr is inf"),
        ({"lr": 0}, "lr is 0: give a learning rate above 0"),
        ({"lr": "fast"}, "lr is 'fast'"),
        ({"device": "abacus"}, "no device 'abacus'"),
        ({"precision": "fp8"}, "no precision 'fp8'"),
        ({"precision": None}, "no precision None"),
        ({"random_state": -1}, "random_state is -1: give a number from 0"),
        ({"random_state": "x"}, "random_state is 'x'"),
        ({"base": "nowhere", "size": None}, "nowhere: no such model directory"),
        ({"base": 5, "size": None}, "base is 5: give the path of a folder"),
        ({"base": "x"}, "base and size exclude each other"),
        ({"base": "x", "size": None, "tokenizer": "word"}, "base and tokenizer exclude"),
    ],
    ids=str,
)
def test_unusable_parameters_are_refused_at_fit_in_one_line(
    parameters: dict[str, Any], message: str
) -> None:
    estimator = small(**parameters)
    with pytest.raises(InputError, match=message) as raised:
        estimator.fit(TEXTS, LABELS)
    assert "\n" not in str(raised.value)
    assert not hasattr(estimator, "classes_")


# --- inside scikit-learn


# --- what stands around it


def test_a_base_and_a_pickle_leave_torchs_generator_alone(
    tmp_path: Path, fitted: ULMFiTClassifier
) -> None:
    trainer = ULMFiTTrainer(small_lm_config(), size="tiny", device="cpu")
    trainer.pretrain(TEXTS)
    trainer.save(tmp_path / "base")
    fitted.save(tmp_path / "model")
    before = torch.random.get_rng_state()
    small(base=tmp_path / "base", size=None, lm_epochs=0, epochs=1).fit(TEXTS, LABELS)
    pickle.loads(pickle.dumps(fitted))
    ULMFiTClassifier.load(tmp_path / "model")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_folder_is_loaded_in_the_precision_of_its_fit(
    tmp_path: Path, fitted: ULMFiTClassifier
) -> None:
    fitted.save(tmp_path / "model")
    again = ULMFiTClassifier.load(tmp_path / "model")
    assert again.precision == "fp32"
    np.testing.assert_array_equal(again.predict_proba(TEXTS), fitted.predict_proba(TEXTS))
    assert ULMFiTClassifier.load(tmp_path / "model", precision="auto").precision == "auto"


def test_a_width_of_text_that_no_class_needs_costs_no_memory(
    tmp_path: Path, fitted: ULMFiTClassifier
) -> None:
    header = fitted.__getstate__()["_model"]["header"]
    header["sklearn_classes"]["dtype"] = f"<U{2**28}"
    classifier = fitted._trainer.classifier
    again = ULMFiTClassifier()
    again._restore(classifier.state_dict(), header, fitted._trainer.tokenizer, "here")
    np.testing.assert_array_equal(again.classes_, fitted.classes_)
    assert again.classes_.itemsize < 100
