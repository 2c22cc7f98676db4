"""Classify texts with an exported model, without torch: onnxruntime and ulmfit_fast.text.

    ulmfit-fast export runs/reviews --to onnx --out reviews.onnx
    python examples/onnx_predict.py reviews.onnx "a wonderful film" "two dull hours"

prints one line of JSON for each text. `ulmfit_fast.text` imports no torch; with a word-level model
it needs numpy only, with a subword model also `tokenizers`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from ulmfit_fast.text import load_tokenizer

BATCH = 32


class OnnxClassifier:
    """A classifier that `ulmfit-fast export` wrote, with its tokenizer beside it."""

    def __init__(self, path: str | Path) -> None:
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        about = json.loads(self.session.get_modelmeta().custom_metadata_map["ulmfit_fast"])
        if about["kind"] != "classifier":
            raise SystemExit(f"{path}: a language model; export a classifier")
        self.labels, self.pad_id = about["labels"], about["pad_id"]
        self.tokenizer = load_tokenizer(Path(path).with_name(about["tokenizer"]))
        if self.tokenizer.fingerprint() != about["tokenizer_fingerprint"]:
            raise SystemExit(f"{path}: {about['tokenizer']} belongs to another model")

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """Return the probability of every class for each text, [texts, classes]."""
        rows = self.tokenizer.encode(texts)
        lengths = np.array([len(row) for row in rows])
        found = np.empty((len(rows), len(self.labels)))
        longest_first = np.argsort(-lengths)  # neighbours of one length need little padding
        for start in range(0, len(rows), BATCH):
            batch = longest_first[start : start + BATCH]
            ids = np.full((len(batch), lengths[batch].max()), self.pad_id, dtype=np.int64)
            for row, k in enumerate(batch):
                ids[row, : lengths[k]] = rows[k]
            (logits,) = self.session.run(None, {"ids": ids, "lengths": lengths[batch]})
            shares = np.exp(logits - logits.max(axis=1, keepdims=True))
            found[batch] = shares / shares.sum(axis=1, keepdims=True)
        return found

    def predict(self, texts: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yield text, label and the probability of every class."""
        for text, row in zip(texts, self.probabilities(texts), strict=True):
            shares = dict(zip(self.labels, row.tolist(), strict=True))
            yield {"text": text, "label": self.labels[row.argmax()], "probabilities": shares}


def main() -> None:
    """Classify the arguments after the first."""
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    for line in OnnxClassifier(sys.argv[1]).predict(sys.argv[2:]):
        sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
