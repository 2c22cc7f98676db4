"""A classifier in a folder that the Hugging Face Hub understands, with its model card.

    python examples/hub_round_trip.py

With an account, `model.push_to_hub("owner/name")` sends the folder, and
`TextClassifier.from_pretrained("owner/name")` loads it anywhere.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from docstrings import labelled_docstrings

from ulmfit_fast import TrainConfig, ULMFiTTrainer
from ulmfit_fast.interop.hub import TextClassifier


def main() -> None:
    """Train, write the folder, read it, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=120, help="of each class")
    parser.add_argument("--epochs", type=int, default=12)
    options = parser.parse_args()
    texts, labels = labelled_docstrings(options.texts)
    n_test = len(texts) // 5
    config = TrainConfig.preset("paper").with_stage("pretrain", epochs=4, batch_size=8)
    config = config.with_stage("classifier", epochs=options.epochs, batch_size=8)
    trainer = ULMFiTTrainer(config, size="tiny")
    trainer.pretrain(texts[n_test:])
    trainer.train_classifier(texts[n_test:], labels[n_test:])
    result = trainer.evaluate(texts[:n_test], labels[:n_test])

    model = TextClassifier.from_trainer(
        trainer,
        name="docstrings",
        license="apache-2.0",
        language="en",
        data="Docstrings of three packages of Python's standard library.",
    )
    model.card = model.card.with_evaluation(result, f"{n_test} held-out docstrings")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "docstrings"
        model.save_pretrained(folder)
        print(*sorted(path.name for path in folder.iterdir()), sep="  ")
        print((folder / "README.md").read_text())
        loaded = TextClassifier.from_pretrained(folder)
    assert loaded.predict(texts[:n_test]) == model.predict(texts[:n_test])
    print("The loaded model gives the same probabilities, to the last bit.")


if __name__ == "__main__":
    main()
