"""Is an exported file the model? Both compute the same documents, and the logits are compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ulmfit_fast.errors import InputError
from ulmfit_fast.interop.export_files import Exported, Model
from ulmfit_fast.interop.exportable import zero_state
from ulmfit_fast.model import TextClassifier

#: Documents of a batch, in turn: one alone, and several of different lengths with padding.
ROWS = (1, 3, 8)
#: Tokens of a call of a language model, whose state passes on, and most tokens of its documents.
LM_TOKENS, LM_LONGEST = 70, 200
#: Largest difference of a logit where only the order of sums differs, for logits of at most 1;
#: it grows with them.
TOLERANCE = 1e-4
#: Largest difference of a probability that 8-bit weights may make; found on real texts: 0.036
#: (benchmarks/results/accuracy/onnx-export--*.json).
TOLERANCE_INT8 = 0.1

Ids = npt.NDArray[np.int64]
#: One call: (ids [B, T], lengths [B]) -> logits [B, C] of a classifier, (ids [B, T], state) ->
#: logits [B, T, V], state of a language model.
Step = Callable[[Tensor, Any], Any]


@dataclass(frozen=True)
class ExportCheck:
    """How near an exported file comes to the model.

    Attributes:
        n_texts: documents that both computed.
        n_tokens: of all documents.
        shortest: tokens of the shortest document.
        longest: tokens of the longest one.
        largest_logit: largest absolute logit of the model, in float32.
        max_difference: largest absolute difference of a logit from the model's.
        graph_difference: the same from a model whose weights were rounded like the file's.
        max_probability_difference: largest difference of a class's or token's probability.
        agreement: share of documents (of a language model: of tokens) with the same first choice.
    """

    n_texts: int
    n_tokens: int
    shortest: int
    longest: int
    largest_logit: float
    max_difference: float
    graph_difference: float
    max_probability_difference: float
    agreement: float


def check_documents(exported: Exported, texts: Sequence[str], seed: int = 0) -> list[Ids]:
    """Return the ids of texts, or of drawn documents around every length that matters.

    Args:
        exported: what shall be checked.
        texts: documents; none draws some.
        seed: of the drawing.

    Raises:
        InputError: texts without a tokenizer.
    """
    if texts:
        if exported.tokenizer is None:
            raise InputError("texts to check with need a tokenizer: export a trainer, not a model")
        return [ids.astype(np.int64) for ids in exported.tokenizer.encode(texts)]
    model = exported.model
    lengths = [1, 2, 17, LM_TOKENS, LM_LONGEST]
    if isinstance(model, TextClassifier):
        n, longest = model.bptt, model.max_len
        lengths = [1, 2, n - 1, n, n + 1, longest, longest + 1, longest + n, longest + 2 * n + 1]
    draw = np.random.default_rng(seed)
    return [draw.integers(3, model.config.vocab_size, size=max(1, n)) for n in lengths]


def compare(
    step: Step, trained: Model, rounded: Model | None, documents: Sequence[Ids]
) -> ExportCheck:
    """Compare what a file computes with what the model computes.

    Args:
        step: one call of the file.
        trained: the model.
        rounded: the model with weights rounded like the file's; None where they are the same.
        documents: ids of each; at least one.
    """
    documents = sorted(documents, key=len)
    largest = {"logit": 0.0, "difference": 0.0, "graph": 0.0, "probability": 0.0}
    n_same = n_all = 0
    for batch in _batches(documents):
        found, wanted, held = (
            _logits(one, trained, batch) for one in (step, trained, rounded or trained)
        )
        for x, y, near in zip(found, wanted, held, strict=True):
            differences = {
                "logit": y,
                "difference": x - y,
                "graph": x - near,
                "probability": x.softmax(dim=-1) - y.softmax(dim=-1),
            }
            for name, values in differences.items():
                value = float(values.abs().nan_to_num(nan=float("inf")).max())
                largest[name] = max(largest[name], value)
            n_same += int((x.argmax(dim=-1) == y.argmax(dim=-1)).sum())
            n_all += y[..., 0].numel()
    return ExportCheck(
        n_texts=len(documents),
        n_tokens=sum(map(len, documents)),
        shortest=len(documents[0]),
        longest=len(documents[-1]),
        largest_logit=largest["logit"],
        max_difference=largest["difference"],
        graph_difference=largest["graph"],
        max_probability_difference=largest["probability"],
        agreement=n_same / n_all,
    )


def require_near(check: ExportCheck, what: str, *, int8: bool = False) -> None:
    """Raise InputError if an exported file is too far from its model.

    Args:
        check: what was found.
        what: name of the file.
        int8: whether its weights are 8-bit: then probabilities count.
    """
    where, found = "a logit", check.graph_difference
    allowed = TOLERANCE * max(1.0, check.largest_logit)
    if int8:
        where, found, allowed = "a probability", check.max_probability_difference, TOLERANCE_INT8
    if not (math.isfinite(found) and found <= allowed):
        raise InputError(
            f"{what}: not written: {where} differs by {found:.2g} from the model's, allowed are "
            f"{allowed:.2g} (over {check.n_texts} texts); export the model with other options"
        )


def _batches(documents: Sequence[Ids]) -> Iterator[Sequence[Ids]]:
    """Yield neighbours, ROWS of them in turn."""
    start = k = 0
    while start < len(documents):
        n_rows = ROWS[k % len(ROWS)]
        yield documents[start : start + n_rows]
        start, k = start + n_rows, k + 1


@torch.no_grad()
def _logits(step: Step, model: Model, batch: Sequence[Ids]) -> list[Tensor]:
    """Return the logits of a batch: of a classifier at once, of a language model in pieces."""
    if isinstance(model, TextClassifier):
        lengths = torch.tensor([len(ids) for ids in batch])
        padded = torch.full((len(batch), int(lengths.max())), model.config.pad_id)
        for row, ids in zip(padded, batch, strict=True):
            row[: len(ids)] = torch.from_numpy(ids)
        return [step(padded, lengths)]
    length = min(LM_LONGEST, *map(len, batch))
    rows = torch.from_numpy(np.stack([ids[:length] for ids in batch]))
    state = zero_state(model.encoder, len(batch))
    found = []
    for piece in torch.split(rows, LM_TOKENS, dim=1):
        logits, state = step(piece, state)
        found.append(logits)
    return found
