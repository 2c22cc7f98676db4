"""Results as pandas tables. pandas comes with `datasets`; it is imported when a table is made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ulmfit_fast.training.evaluation import Evaluation, Prediction
from ulmfit_fast.training.loop import StageResult

if TYPE_CHECKING:
    from pandas import DataFrame


def predictions_table(
    predictions: Sequence[Prediction], texts: Sequence[str] | None = None
) -> DataFrame:
    """Return a row for each text: text, label, probability, and p(CLASS) of every class.

    Args:
        predictions: of `ULMFiTTrainer.predict`.
        texts: what they were made of; None leaves the column out.

    Raises:
        ValueError: lists of unequal length.
        ImportError: pandas is not installed.
    """
    if texts is not None and len(texts) != len(predictions):
        raise ValueError(f"texts: expected {len(predictions)}, found {len(texts)}")
    columns: dict[str, Any] = {} if texts is None else {"text": list(texts)}
    columns["label"] = [prediction.label for prediction in predictions]
    columns["probability"] = [p.probabilities[p.label] for p in predictions]
    for name in predictions[0].probabilities if predictions else ():
        columns[f"p({name})"] = [p.probabilities[name] for p in predictions]
    frame: DataFrame = _pandas().DataFrame(columns)
    return frame


def scores_table(evaluation: Evaluation) -> DataFrame:
    """Return a row for each class, by name: precision, recall, f1 and n."""
    frame: DataFrame = _pandas().DataFrame.from_dict(evaluation.per_class, orient="index")
    return frame.astype({"n": int}).rename_axis("class")


def confusion_table(evaluation: Evaluation) -> DataFrame:
    """Return counts: a row for each true class, a column for each answer."""
    names = list(evaluation.per_class)
    pandas = _pandas()
    frame: DataFrame = pandas.DataFrame(
        evaluation.confusion,
        index=pandas.Index(names, name="class"),
        columns=pandas.Index(names, name="answer"),
    )
    return frame


def epochs_table(result: StageResult) -> DataFrame:
    """Return a row for each epoch of a stage, from 1, with its metrics."""
    pandas = _pandas()
    numbers = pandas.RangeIndex(1, len(result.epochs) + 1, name="epoch")
    frame: DataFrame = pandas.DataFrame(result.epochs, index=numbers)
    return frame


def _pandas() -> Any:
    try:
        import pandas
    except ImportError as error:
        raise ImportError("tables need pandas: pip install pandas") from error
    return pandas
