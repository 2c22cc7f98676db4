"""ULMFiT inside scikit-learn: grid search, rows without a label, a pickle-free folder.

    python examples/sklearn_grid_search.py

The language model is trained once; the search then fits classifiers on it (base, lm_epochs=0).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from docstrings import labelled_docstrings
from sklearn.metrics import classification_report
from sklearn.model_selection import GridSearchCV, train_test_split

from ulmfit_fast import TrainConfig, ULMFiTClassifier, ULMFiTTrainer


def main() -> None:
    """Search the number of epochs and the learning rate, and report on other texts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=120, help="of each class")
    parser.add_argument("--epochs", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    texts, labels = labelled_docstrings(options.texts)
    train, test, y_train, y_test = train_test_split(
        texts, labels, test_size=0.25, stratify=labels, random_state=0
    )
    with tempfile.TemporaryDirectory() as place:
        base = Path(place) / "base"
        config = TrainConfig.preset("paper").with_stage("pretrain", epochs=5, batch_size=8)
        trainer = ULMFiTTrainer(config, size="tiny")
        trainer.pretrain(train)
        trainer.save(base)

        classifier = ULMFiTClassifier(
            base=base, lm_epochs=0, preset="paper", batch_size=8, random_state=0
        )
        grid = {"epochs": options.epochs, "lr": [0.01, 0.02]}
        search = GridSearchCV(classifier, grid, cv=2, n_jobs=options.jobs)
        search.fit(train, y_train)
        print(f"best of {len(search.cv_results_['params'])}: {search.best_params_}")
        print(classification_report(y_test, search.predict(test), zero_division=0.0))

        search.best_estimator_.save(Path(place) / "model")
        loaded = ULMFiTClassifier.load(Path(place) / "model")
        print(f"accuracy of the saved one: {loaded.score(test, y_test):.2f}")


if __name__ == "__main__":
    main()
