"""Embeddings of a sentence encoder that stays as it is, and a logistic regression on them.

    --sentence-model FOLDER    model.onnx (or onnx/model.onnx) and tokenizer.json, as the ONNX
                               exports of sentence-transformers have them; nothing is downloaded

The encoder's last hidden states are averaged over the tokens of a text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ulmfit_fast.errors import InputError

from .baselines import Fitted, logistic_regression, valid_of
from .classify import Parts

WHY_NOT = "no model here; give --sentence-model FOLDER with model.onnx and tokenizer.json"
MAX_TOKENS, BATCH = 256, 32


def model_file(folder: Path) -> Path:
    """Return the encoder of a folder.

    Raises:
        InputError: the folder has none, or no tokenizer.
    """
    for file in (folder / "model.onnx", folder / "onnx" / "model.onnx"):
        if file.is_file() and (folder / "tokenizer.json").is_file():
            return file
    raise InputError(f"{folder}: has no model.onnx with a tokenizer.json: check --sentence-model")


def hash_of(folder: Path) -> str:
    """Return what names the encoder's content."""
    return hashlib.sha256(model_file(folder).read_bytes()).hexdigest()[:16]


class Encoder:
    """An encoder in ONNX and its tokenizer."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(MAX_TOKENS)
        self.tokenizer.enable_padding()
        self.session = onnxruntime.InferenceSession(
            str(model_file(folder)), providers=["CPUExecutionProvider"]
        )
        self.inputs = [each.name for each in self.session.get_inputs()]

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return the mean of the last hidden states over each text's tokens; shape [n, E]."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        rows: list[Any] = [None] * len(texts)
        for start in range(0, len(order), BATCH):
            picked = order[start : start + BATCH]
            encoded = self.tokenizer.encode_batch([texts[i] for i in picked])
            mask = np.array([each.attention_mask for each in encoded], dtype=np.int64)
            values = {
                "input_ids": np.array([each.ids for each in encoded], dtype=np.int64),
                "attention_mask": mask,
                "token_type_ids": np.zeros_like(mask),
            }
            hidden = self.session.run(None, {name: values[name] for name in self.inputs})[0]
            sums = (hidden * mask[:, :, None]).sum(axis=1)
            for i, vector in zip(picked, sums / mask.sum(axis=1, keepdims=True), strict=True):
                rows[i] = vector
        return np.stack(rows)


def fit(parts: Parts, seed: int, *, folder: Path) -> Fitted:
    """Fit a logistic regression to the embeddings; nothing is random."""
    return logistic_regression(Encoder(folder).embed, parts.train, valid_of(parts))
