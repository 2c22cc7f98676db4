"""The classifier in scikit-learn's tools: tags, pipelines, searches, copies, its own checks."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_training import draw_texts

import ulmfit_fast
from ulmfit_fast import InputError, ULMFiTTrainer
from ulmfit_fast.training.sizes import SIZES, ModelSize

pytest.importorskip("sklearn")
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import (
    GridSearchCV,
    KFold,
    cross_val_predict,
    cross_val_score,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks, get_tags
from sklearn.utils.validation import check_is_fitted
from sklearn_texts import enforce_texts, small_lm_config

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


def test_it_is_a_classifier_of_strings_that_scikit_learn_knows() -> None:
    tags = get_tags(small())
    assert is_classifier(small())
    assert tags.input_tags.string
    assert tags.input_tags.one_d_array
    assert not tags.input_tags.two_d_array
    assert tags.target_tags.required
    assert small().get_params() == clone(small()).get_params()
    assert clone(small(epochs=3)).set_params(lr=0.1).get_params()["lr"] == 0.1
    assert ulmfit_fast.ULMFiTClassifier is ULMFiTClassifier
    assert "ULMFiTClassifier" in dir(ulmfit_fast)


def test_unfitted_it_says_so(fitted: ULMFiTClassifier, tmp_path: Path) -> None:
    check_is_fitted(fitted)
    unfitted = clone(fitted)
    for call in (unfitted.predict, unfitted.predict_proba, unfitted.save):
        with pytest.raises(NotFittedError):
            call(tmp_path / "m" if call == unfitted.save else TEXTS)
    with pytest.raises(NotFittedError):
        unfitted.score(TEXTS, LABELS)


def test_pipeline_and_cross_validation() -> None:
    lower = FunctionTransformer(lambda texts: [text.lower() for text in texts])
    pipeline = make_pipeline(lower, small(lm_epochs=0))
    assert cross_val_score(pipeline, TEXTS, LABELS, cv=3).mean() > 0.8
    answers = cross_val_predict(small(lm_epochs=0), TEXTS, LABELS, cv=2, method="predict_proba")
    assert answers.shape == (60, 2)
    partly: list[Any] = [*LABELS[:48], *[None] * 12]
    folds = KFold(2, shuffle=True, random_state=0)
    longer = small(lm_epochs=0, epochs=20)
    scores = cross_val_score(longer, TEXTS, partly, cv=folds, error_score="raise")
    assert scores.mean() > 0.8


def test_grid_search_finds_the_same_in_one_process_and_in_two(tmp_path: Path) -> None:
    # A worker does not know the small "tiny": the base has its sizes; dropouts are the real one's.
    SIZES["tiny"] = ModelSize(40, 64, 2, 0.5)
    lm = ULMFiTTrainer(small_lm_config(), size="tiny")
    lm.pretrain(TEXTS)
    lm.save(tmp_path / "base")
    estimator = small(base=tmp_path / "base", size=None, lm_epochs=0, preset="paper")
    results = []
    for n_jobs in (1, 2):
        search = GridSearchCV(estimator, {"epochs": [1, 12]}, cv=2, n_jobs=n_jobs)
        search.fit(TEXTS, LABELS)
        results.append(search.cv_results_["mean_test_score"])
        assert search.best_params_ == {"epochs": 12}
        assert search.predict(TEXTS).tolist() == search.best_estimator_.predict(TEXTS).tolist()
    np.testing.assert_array_equal(*results)


def test_pickled_copied_and_joblibbed_estimators_answer_alike(
    fitted: ULMFiTClassifier, tmp_path: Path
) -> None:
    joblib = pytest.importorskip("joblib")
    joblib.dump(fitted, tmp_path / "m.joblib")
    expected = fitted.predict_proba(OTHER_TEXTS)
    for other in (
        pickle.loads(pickle.dumps(fitted)),
        copy.deepcopy(fitted),
        joblib.load(tmp_path / "m.joblib"),
    ):
        np.testing.assert_array_equal(other.predict_proba(OTHER_TEXTS), expected)
        assert other.get_params() == fitted.get_params()
        assert other.stages_ == fitted.stages_
    state = fitted.__getstate__()["_model"]
    assert type(state["tensors"]) is bytes
    assert b"torch" not in pickle.dumps(state)  # no object of torch is pickled
    unfitted = pickle.loads(pickle.dumps(small()))
    assert unfitted.get_params() == small().get_params()


def test_device_and_precision_may_be_set_after_fit(fitted: ULMFiTClassifier) -> None:
    other = copy.deepcopy(fitted).set_params(precision="bf16")
    first = fitted.predict_proba(OTHER_TEXTS)
    assert not np.array_equal(other.predict_proba(OTHER_TEXTS), first)
    np.testing.assert_allclose(other.predict_proba(OTHER_TEXTS), first, atol=0.05)
    with pytest.raises(InputError, match="no device 'abacus'"):
        other.set_params(device="abacus").predict(TEXTS)


def test_folders_are_those_of_the_trainer(fitted: ULMFiTClassifier, tmp_path: Path) -> None:
    fitted.save(tmp_path / "run" / "model")
    trainer = ULMFiTTrainer.load(tmp_path / "run" / "model", precision="fp32")
    expected = fitted.predict_proba(OTHER_TEXTS)
    answers = [list(row.probabilities.values()) for row in trainer.predict(OTHER_TEXTS)]
    np.testing.assert_allclose(answers, expected, atol=1e-6)
    loaded = ULMFiTClassifier.load(tmp_path / "run", precision="fp32")
    np.testing.assert_array_equal(loaded.predict_proba(OTHER_TEXTS), expected)
    trainer.save(tmp_path / "plain")  # as the command line leaves it
    plain = ULMFiTClassifier.load(tmp_path / "plain", precision="fp32")
    assert plain.classes_.tolist() == ["animal", "tool"]
    np.testing.assert_array_equal(plain.predict_proba(OTHER_TEXTS), expected)
    with pytest.raises(InputError, match="no such model directory"):
        ULMFiTClassifier.load(tmp_path / "nowhere")


# --- scikit-learn's own checks

LEARNT = {"check_classifiers_train"}  # these want it to be right
API_CHECKS = [
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_dont_overwrite_parameters",
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_estimator_tags_renamed",
    "check_estimators_fit_returns_self",
    "check_estimators_overwrite_params",
    "check_estimators_unfitted",
    "check_fit_score_takes_y",
    "check_mixin_order",
    "check_n_features_in_after_fitting",
    "check_no_attributes_set_in_init",
    "check_readonly_memmap_input",
    "check_valid_tag_types",
]
CLASSIFIER_CHECKS = [
    "check_classifiers_classes",
    "check_classifiers_one_label",
    "check_classifiers_regression_target",
    "check_classifiers_train",
    "check_dict_unchanged",
    "check_estimators_pickle",
    "check_fit1d",
    "check_fit_check_is_fitted",
    "check_fit_idempotent",
    "check_get_params_invariance",
    "check_methods_sample_order_invariance",
    "check_parameters_default_constructible",
    "check_set_params",
    "check_supervised_y_2d",
    "check_supervised_y_no_nan",
]


@pytest.mark.parametrize("name", API_CHECKS + CLASSIFIER_CHECKS)
def test_check_of_scikit_learn(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check = getattr(estimator_checks, name, None)
    if check is None:
        pytest.skip("this scikit-learn has no such check")
    monkeypatch.setattr(estimator_checks, "_enforce_estimator_tags_X", enforce_texts)
    epochs = 10 if name in LEARNT else 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check("ULMFiTClassifier", small(lm_epochs=0, epochs=epochs))
