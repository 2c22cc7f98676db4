"""From a csv file to predictions in ten lines of Python, and why the first text got its answer.

    python examples/csv_to_predictions.py

The file is one of docstrings, made here; `classify` takes any csv file with texts and labels.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path

from docstrings import labelled_docstrings

from ulmfit_fast import TrainConfig, ULMFiTTrainer, read_table
from ulmfit_fast.interpret.attribution import attribute
from ulmfit_fast.interpret.pieces import word_scores
from ulmfit_fast.interpret.tables import predictions_table


def classify(path: str, new_texts: list[str], epochs: int) -> None:
    """Train on a csv file, predict new texts."""
    table = read_table(path, labelled=True)
    config = TrainConfig.preset("paper", min_freq=2).with_stage("pretrain", epochs=5, batch_size=8)
    config = config.with_stage("classifier", epochs=epochs, batch_size=8)
    trainer = ULMFiTTrainer(config, size="tiny")
    trainer.pretrain(table.texts)
    trainer.train_classifier(table.texts, table.labels)
    predicted = predictions_table(trainer.predict(new_texts), new_texts)
    print(predicted.round(3).to_string(max_colwidth=40))

    (why,) = attribute(trainer, new_texts[:1])
    words = ", ".join(f"{word.word} {word.score:+.2f}" for word in word_scores(why.tokens)[:5])
    print(f"{why.label} because of: {words}")


def main() -> None:
    """Write the csv file and classify texts that are not in it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=150, help="of each class")
    parser.add_argument("--epochs", type=int, default=10, help="of the classifier")
    options = parser.parse_args()
    texts, labels = labelled_docstrings(options.texts)
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "texts.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(
                [("text", "label"), *zip(texts[5:], labels[5:], strict=True)]
            )
        classify(str(path), texts[:5], options.epochs)


if __name__ == "__main__":
    main()
