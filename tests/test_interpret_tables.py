"""Results as pandas tables, and what notebooks show of them."""

from __future__ import annotations

import subprocess
import sys
from html.parser import HTMLParser

import pytest
import torch
from conftest import ROOT

from ulmfit_fast.interpret.tables import (
    confusion_table,
    epochs_table,
    predictions_table,
    scores_table,
)
from ulmfit_fast.training.evaluation import Evaluation, Prediction, evaluation
from ulmfit_fast.training.loop import StageResult

NAMES = ["<b>a</b>", "b & c", "ﬁ"]
PREDICTIONS = [
    Prediction("b & c", {"<b>a</b>": 0.25, "b & c": 0.75}),
    Prediction("<b>a</b>", {"<b>a</b>": 1.0, "b & c": 0.0}),
]


def result() -> Evaluation:
    labels = torch.tensor([0, 0, 1, 2])
    logits = torch.tensor([[2.0, 0, 0], [0, 2, 0], [0, 2, 0], [0, 2, 0]])
    return evaluation(logits, labels, NAMES)


def test_predictions_are_a_row_a_text() -> None:
    table = predictions_table(PREDICTIONS, ["x", "y"])
    assert list(table.columns) == ["text", "label", "probability", "p(<b>a</b>)", "p(b & c)"]
    assert table.values.tolist() == [["x", "b & c", 0.75, 0.25, 0.75], ["y", "<b>a</b>", 1, 1, 0]]
    assert predictions_table(PREDICTIONS).columns[0] == "label"
    assert list(predictions_table([]).columns) == ["label", "probability"]
    with pytest.raises(ValueError, match="texts: expected 2, found 1"):
        predictions_table(PREDICTIONS, ["x"])


def test_evaluation_is_scores_and_confusion() -> None:
    scores, confusion = scores_table(result()), confusion_table(result())
    assert list(scores.index) == list(confusion.index) == list(confusion.columns) == NAMES
    assert scores.loc["b & c"].to_dict() == pytest.approx(
        {"precision": 1 / 3, "recall": 1.0, "f1": 0.5, "n": 1}
    )
    assert scores["n"].dtype == int
    assert confusion.loc["<b>a</b>", "b & c"] == 1
    assert confusion.to_numpy().sum() == 4


def test_epochs_are_numbered_from_one() -> None:
    table = epochs_table(StageResult("classifier", epochs=[{"loss": 2.0}, {"loss": 1.0, "new": 3}]))
    assert table.index.tolist() == [1, 2]
    assert table["loss"].tolist() == [2.0, 1.0]
    assert table["new"].isna().tolist() == [True, False]
    assert len(epochs_table(StageResult("classifier"))) == 0


def test_missing_pandas_is_one_line() -> None:
    code = (
        "import sys; sys.modules['pandas'] = None\n"
        "from ulmfit_fast.interpret.tables import predictions_table\n"
        "predictions_table([])\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.stderr.splitlines()[-1] == "ImportError: tables need pandas: pip install pandas"


class Cells(HTMLParser):
    """Collects the tags and the texts of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_notebooks_show_results_escaped() -> None:
    cells = Cells(result()._repr_html_())
    assert set(cells.tags) <= {"table", "caption", "thead", "tbody", "tr", "th", "td"}
    assert cells.texts[0] == "accuracy 0.5000, loss 1.2395, 4 texts"
    assert cells.texts[1:6] == ["class", "precision", "recall", "f1", "n"]
    assert cells.texts[6:11] == ["<b>a</b>", "1", "0.5", "0.6667", "2"]
    stage = StageResult("classifier", 1.5, 1234, [{"loss": 2.5}, {"error": float("nan")}])
    texts = Cells(stage._repr_html_()).texts
    assert texts == [
        "classifier: 1.5 s, 1,234 tokens",
        "epoch",
        "loss",
        "error",
        "1",
        "2.5",
        "2",
        "nan",
    ]
    many = Evaluation(0, 0, 0, 0, [], {f"c{k}": {"f1": 0.0} for k in range(200)})
    assert Cells(many._repr_html_()).texts[-1] == "and 170 more"
