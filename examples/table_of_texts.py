"""A table of texts, some with a label: train a classifier on it, look at it, use it.

    python examples/table_of_texts.py

The command line does the same: `ulmfit-fast train texts.csv`.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path

from docstrings import labelled_docstrings

from ulmfit_fast import TrainConfig, ULMFiTTrainer, read_table


def write_table(path: Path, n: int) -> None:
    """Write a table of which every third row lacks its label."""
    rows = zip(*labelled_docstrings(n), strict=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label"))
        writer.writerows((t, "" if i % 3 == 0 else label) for i, (t, label) in enumerate(rows))


def main() -> None:
    """Train on most labelled rows and measure on the others."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=150, help="of each class")
    parser.add_argument("--epochs", type=int, default=10, help="of the classifier")
    parser.add_argument("--out", type=Path, help="folder for the model")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        write_table(Path(place) / "texts.csv", options.texts)
        table = read_table(str(Path(place) / "texts.csv"), labelled=True)
        pairs = zip(table.texts, table.labels, strict=True)
        rows = [(text, label) for text, label in pairs if label is not None]
        test, train = rows[: len(rows) // 5], rows[len(rows) // 5 :]

        config = TrainConfig.preset("paper", min_freq=2)
        config = config.with_stage("pretrain", epochs=5, batch_size=8)
        config = config.with_stage("classifier", epochs=options.epochs, batch_size=8)
        trainer = ULMFiTTrainer(config, size="tiny")
        seen = {text for text, _ in test}
        trainer.pretrain([text for text in table.texts if text not in seen])  # labelled or not
        trainer.train_classifier(*zip(*train, strict=True))
        result = trainer.evaluate(*zip(*test, strict=True))
        print(f"{len(train)} labelled of {len(table.texts)} texts; accuracy {result.accuracy:.2f}")
        for text, label in test[:3]:
            answer = trainer.predict([text])[0]
            print(f"{answer.label}, in truth {label}: {text[:60]}")
        trainer.save(options.out or Path(place) / "model")


if __name__ == "__main__":
    main()
