"""ULMFiT as a classifier of scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.torch import load, save

from ulmfit_fast.errors import InputError
from ulmfit_fast.interop.model_folder import (
    Companions,
    checked,
    companions_of,
    header_of,
    read_folder,
    restore,
    trainer_of,
)
from ulmfit_fast.interop.sklearn_data import Labels, is_missing, labels_of, names_of, texts_of
from ulmfit_fast.interop.sklearn_parameters import check_parameters, draw_seed, new_trainer
from ulmfit_fast.text.tokenizer import tokenizer_of
from ulmfit_fast.training.checkpoint import save_model
from ulmfit_fast.training.device import choose_device
from ulmfit_fast.training.loop import StageResult
from ulmfit_fast.training.precision import PrecisionName, choose_precision
from ulmfit_fast.training.progress import ConsoleProgress
from ulmfit_fast.training.trainer import ULMFiTTrainer

# After sklearn_data, which says what to install where there is no scikit-learn.
from sklearn.base import BaseEstimator, ClassifierMixin  # isort: skip
from sklearn.utils.validation import check_is_fitted  # isort: skip


MOST_BYTES_A_CLASS = 2**16  # a folder made to harm may ask for any width


# The parameters are a dataclass, which writes the __init__ that scikit-learn reads them from.
@dataclass(kw_only=True, eq=False, repr=False)
class ULMFiTClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Text classifier by ULMFiT: a language model of all texts, then a classifier of the labels.

    X is a list, 1-d array or pandas Series of str. y holds text or whole numbers, and None or NaN
    for rows without a label: the language model learns from these too. What is None below is
    chosen by the texts, as `ulmfit-fast train` chooses it. fit holds no rows out: the weights after
    the last epoch are kept.

    Attributes:
        base: folder of a language model, or of the run that made it, to start from, or "english",
            which comes with the package; None trains one on the texts of fit alone.
        size: of a new model, "tiny", "small" or "base".
        tokenizer: of a new model, "word" or "subword"; None takes "word".
        preset: recipe, "paper" or "fastai".
        lm_epochs: epochs of the language model; 0 leaves it as it is in base, or out.
        epochs: epochs of the classifier.
        batch_size: rows of a batch in every stage.
        lr: largest learning rate of the classifier.
        random_state: seed, numpy RandomState, or None for another result in every fit. torch's
            generators are left as they are.
        device: "cpu" or "cuda"; None takes a GPU where torch sees one. May be set after fit.
        precision: "auto", "bf16" or "fp32".
        verbose: 1 shows progress.
        classes_: after fit, the classes, sorted, in the dtype of y.
        stages_: after fit, what each stage did: seconds, tokens and metrics.

    Without n_features_in_, as scikit-learn's own vectorizers of text: a text has no columns.
    """

    base: str | Path | None = None
    size: str | None = None
    tokenizer: str | None = None
    preset: str | None = None
    lm_epochs: int | None = None
    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    random_state: Any = None
    device: str | None = None
    precision: PrecisionName = "auto"
    verbose: int = 0

    def fit(self, X: Any, y: Any) -> ULMFiTClassifier:
        """Fit language model and classifier.

        Args:
            X: texts.
            y: a label for each, or None or NaN.

        Returns:
            self.

        Raises:
            InputError: a parameter, a text or a label cannot be used; a ValueError of one line.
            TrainingError: the loss is not finite.
        """
        check_parameters(self)
        texts = texts_of(X)
        labels, is_labelled = labels_of(y, len(texts))
        classes, indices = np.unique(labels, return_inverse=True)
        names = names_of(classes)
        if len(classes) < 2:
            found = f"y has {len(classes)} class ({', '.join(names)})"
            raise InputError(f"{found}: at least 2 are needed")
        progress = ConsoleProgress() if self.verbose else None
        trainer = new_trainer(self, texts, len(indices), draw_seed(self.random_state))
        trainer.observers = [progress] if progress else []
        try:
            stages = self._fit_language_model(trainer, texts)
            chosen = [text for text, keep in zip(texts, is_labelled, strict=True) if keep]
            # Numbers of equal length: in alphabetical order, the classes keep their own.
            ordered = [f"{index:09d}" for index in indices]
            stages.append(trainer.train_classifier(chosen, ordered))
        finally:
            if progress:
                progress.close()
        trainer.labels = names
        trainer.observers = []
        trainer.language_model = None  # its encoder was copied; predictions need no more
        self.classes_: Labels = classes
        self.stages_: list[StageResult] = stages
        self._trainer = trainer
        return self

    def predict_proba(self, X: Any) -> npt.NDArray[np.float64]:
        """Return the probability of every class, [texts, classes] in the order of classes_.

        Raises:
            NotFittedError: fit was not called.
            InputError: X holds no texts.
        """
        check_is_fitted(self)
        rows = self._placed_trainer().predict(texts_of(X))
        values = np.array([list(row.probabilities.values()) for row in rows], dtype=np.float64)
        return np.asarray(values / values.sum(axis=1, keepdims=True))  # sums of float32 are not 1

    def predict(self, X: Any) -> Labels:
        """Return the most probable class of each text, in the dtype of classes_; as above."""
        chosen = self.predict_proba(X).argmax(axis=1)
        return self.classes_[chosen]  # type: ignore[no-any-return]

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the accuracy on the rows that have a label.

        Raises:
            NotFittedError: fit was not called.
            InputError: X holds no texts, y does not fit them or has no label.
        """
        check_is_fitted(self)
        texts = texts_of(X)
        labels, is_labelled = labels_of(y, len(texts))
        if not is_labelled.any():
            raise InputError("y has no label: there is nothing to measure the answers on")
        answers = self.predict(
            [text for text, keep in zip(texts, is_labelled, strict=True) if keep]
        )
        weights = None if sample_weight is None else np.asarray(sample_weight)[is_labelled]
        return float(np.average(answers == labels, weights=weights))

    def save(self, path: str | Path) -> None:
        """Write a model folder, which load, `ulmfit-fast predict` and ULMFiTTrainer read.

        Raises:
            NotFittedError: fit was not called.
            InputError: something else than a model stands at path.
        """
        check_is_fitted(self)
        model, companions = self._parts()
        tensors = dict(model.state_dict())
        save_model(Path(path), tensors, header_of(model, companions), companions.tokenizer)

    @classmethod
    def load(cls, path: str | Path, **parameters: Any) -> ULMFiTClassifier:
        """Return a fitted classifier from a model folder, or from the folder of a run.

        Args:
            path: the folder.
            parameters: of the class; of those of the fit, the folder has only the precision.

        Raises:
            InputError: no classifier is there, or it is damaged.
        """
        tensors, header, tokenizer = read_folder(Path(path), "classifier")
        _, companions = checked(header, tokenizer, str(path))
        estimator = cls(**{"precision": companions.settings.precision, **parameters})
        check_parameters(estimator)
        estimator._restore(tensors, header, tokenizer, str(path))
        return estimator

    def __sklearn_tags__(self) -> Any:
        """Say that X is texts, not a table."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.one_d_array = True
        tags.input_tags.string = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """Return what pickle and joblib write: of the model bytes in safetensors' format."""
        state = dict(super().__getstate__())
        if "_trainer" in state:
            del state["_trainer"]
            model, companions = self._parts()
            tensors = {
                name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()
            }
            state["_model"] = {
                "tensors": save(tensors),
                "header": header_of(model, companions),
                "tokenizer": companions.tokenizer.content(),
            }
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what __getstate__ returned; the model goes to its device when it is first used."""
        state = dict(state)
        model = state.pop("_model", None)
        super().__setstate__(state)
        if model is not None:
            tokenizer = tokenizer_of(model["tokenizer"])
            self._restore(load(model["tensors"]), model["header"], tokenizer, "pickled model")

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_trainer")

    def _parts(self) -> tuple[Any, Companions]:
        """Return the model and what stands beside it, with the classes as they are."""
        companions = companions_of(self._trainer, "classifier")
        classes = {"dtype": self.classes_.dtype.str, "values": _plain(self.classes_)}
        return self._trainer.classifier, replace(companions, extra={"sklearn_classes": classes})

    def _restore(self, tensors: Any, header: Any, tokenizer: Any, where: str) -> None:
        """Take a model that was read."""
        model, companions = restore(tensors, header, tokenizer, where)
        self._trainer = trainer_of(model, companions, device="cpu")
        if not hasattr(self, "classes_"):
            self.classes_ = _classes_of(companions, where)

    def _placed_trainer(self) -> ULMFiTTrainer:
        """Return the trainer on the device and in the precision that the parameters ask for."""
        trainer, device = self._trainer, choose_device(self.device)
        choose_precision(self.precision, device)
        if trainer.device != device and trainer.classifier is not None:
            trainer.classifier.to(device)
            trainer.device = device
        trainer.config = replace(trainer.config, precision=self.precision)
        return trainer

    def _fit_language_model(self, trainer: ULMFiTTrainer, texts: list[str]) -> list[StageResult]:
        if self.lm_epochs == 0:
            return []
        fit = trainer.pretrain if self.base is None else trainer.finetune_lm
        return [fit(texts)]


def _plain(classes: Labels) -> list[Any]:
    """Return classes as JSON values; bytes become text."""
    return [
        label.decode("latin-1") if isinstance(label, bytes) else label for label in classes.tolist()
    ]


def _classes_of(companions: Companions, where: str) -> Labels:
    """Return the classes of a model: as they were in fit, else the labels as text.

    Raises:
        InputError: they do not fit the labels.
    """
    labels = list(companions.labels)
    known = companions.extra.get("sklearn_classes")
    if known is None:
        return np.array(labels)
    try:
        dtype = np.dtype(known["dtype"])
        if dtype.itemsize > MOST_BYTES_A_CLASS:
            dtype = np.dtype(dtype.kind)  # as wide as the classes are
        values = [v.encode("latin-1") if dtype.kind == "S" else v for v in known["values"]]
        classes = np.array(values, dtype=dtype)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{where}: config.json has unusable sklearn_classes") from error
    if names_of(classes) != labels or any(is_missing(value) for value in classes):
        raise InputError(f"{where}: config.json has sklearn_classes that do not fit its labels")
    return classes
