"""Which pieces of a text speak for a class, and which against it.

Explained is the log-odds of a class, log p - log(1 - p): with two classes the difference of the two
logits. One logit alone would not do, as softmax forgets what all of them share.

The baseline is the same text with every word dropped: embeddings of zeros behind `xxbos`, which
stays. That is what a dropped word is in training (`EmbeddingDropout`), so the model has met it,
while the embedding of `xxpad` was never trained, and that of `xxunk` is a word: what unknown words
say would be hidden.

The whole document is one sequence here. The forward function is that of prediction, in float32 (or
the weights' wider type), and gradients go through the borders of chunks, where training cuts them.

Source: Sundararajan, Taly, Yan 2017, arXiv:1703.01365 (integrated gradients); Shrikumar et al.
2016, arXiv:1605.01713 (gradient x input).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ulmfit_fast import functional
from ulmfit_fast.chunks import JOINED_TOKENS, plan_chunks
from ulmfit_fast.errors import InputError
from ulmfit_fast.interpret.examination import Attribution
from ulmfit_fast.interpret.pieces import pieces_of
from ulmfit_fast.model import TextClassifier
from ulmfit_fast.text.messages import Ids
from ulmfit_fast.training.trainer import ULMFiTTrainer

METHODS = ("integrated_gradients", "gradient_x_input")
#: Points between the baseline and the text: a median gap of 2 % on IMDb, a small model.
N_STEPS = 32
#: Where the gap is greater, four times as many are taken.
MOST_GAP = 0.05

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TokenScores:
    """What the tokens of a document add to the log-odds of a class.

    Attributes:
        values: of each token; float64, shape [T]. 0 of the first, which is `xxbos`.
        difference: log-odds of the document less those of the baseline.
    """

    values: Floats
    difference: float

    @property
    def gap(self) -> float:
        """What the sum misses of the difference, a share of it; nan if there is no difference."""
        missed = abs(float(self.values.sum()) - self.difference)
        if missed == 0.0:
            return 0.0
        return missed / abs(self.difference) if self.difference else math.nan


@dataclass(frozen=True)
class _Point:
    """A place between the baseline (0) and a document (1), and its weight in the integral."""

    document: int
    place: float
    weight: float


def attribute(
    trainer: ULMFiTTrainer,
    texts: Sequence[str],
    labels: Sequence[str] | None = None,
    *,
    method: str = METHODS[0],
    n_steps: int = N_STEPS,
) -> list[Attribution]:
    """Say which pieces of texts speak for a class, and which against it.

    Args:
        trainer: with a classifier.
        texts: documents.
        labels: class to explain for each; None takes the most probable.
        method: "integrated_gradients", or the cheaper "gradient_x_input": one gradient, at the text
            itself, whose sum is no more than a first guess of the difference.
        n_steps: points of the integral; four times as many for a text with a gap above 5 %.

    Returns:
        attributions: the pieces of each give its text again. Marks of the rules (`xxmaj`, `xxup`,
            `xxrep`, `xxwrep`) are credited to the piece they mark.

    Raises:
        InputError: no classifier, no such class or method, another number of labels than of texts,
            or the classifier's answers are not numbers.
    """
    if labels is not None and len(labels) != len(texts):
        raise InputError(
            f"{len(texts)} texts and {len(labels)} labels: give one label for each text, or none"
        )
    if not texts:
        return []
    chosen = labels or [prediction.label for prediction in trainer.predict(texts)]
    model, tokenizer = trainer.classifier, trainer.tokenizer
    if model is None or tokenizer is None:
        raise InputError("no classifier: call train_classifier, or load a classifier")
    for label in chosen:
        if label not in trainer.labels:
            known = ", ".join(trainer.labels[:10])
            raise InputError(f"no class {label!r} in the model (classes: {known})")
    classes = [trainer.labels.index(label) for label in chosen]
    documents = tokenizer.encode(texts)
    scored = score_tokens(model, documents, classes, method=method, n_steps=n_steps)
    rough = [k for k, scores in enumerate(scored) if scores.gap > MOST_GAP]
    if rough and method == METHODS[0]:
        finer = score_tokens(
            model, [documents[k] for k in rough], [classes[k] for k in rough], n_steps=4 * n_steps
        )
        for k, scores in zip(rough, finer, strict=True):
            scored[k] = scores
    return [
        Attribution(
            label, pieces_of(text, tokenizer.spans(text), scores.values), method, scores.gap
        )
        for text, label, scores in zip(texts, chosen, scored, strict=True)
    ]


def score_tokens(
    model: TextClassifier,
    documents: Sequence[Ids],
    classes: Sequence[int],
    *,
    method: str = METHODS[0],
    n_steps: int = N_STEPS,
) -> list[TokenScores]:
    """Score the tokens of documents; a document's scores do not depend on those beside it.

    Args:
        model: left as it is, whatever mode it is in.
        documents: ids of each, `xxbos` first.
        classes: class to explain for each.
        method: as for attribute.
        n_steps: as for attribute.

    Numbers: the integral by Gauss-Legendre quadrature, summed in float64. Memory: what a forward
        pass with gradients takes for the longest document, or for 4,608 tokens if that is more.

    Raises:
        InputError: no such method, fewer than one step, or answers that are not numbers.
    """
    if method not in METHODS:
        raise InputError(f"no method {method!r}: choose one of {', '.join(METHODS)}")
    if n_steps < 1:
        raise InputError(f"n_steps is {n_steps}: give at least 1")
    frozen = _frozen_copy(model)
    sums = [np.zeros(len(ids)) for ids in documents]
    ends = np.zeros((len(documents), 2))  # log-odds of baseline and document
    points = list(_points(len(documents), method, n_steps))
    points.sort(key=lambda point: -len(documents[point.document]))
    for batch in _batches(points, [len(ids) for ids in documents]):
        values, products = _log_odds_and_products(frozen, documents, classes, batch)
        for row, point in enumerate(batch):
            n = len(documents[point.document])
            sums[point.document] += point.weight * products[row, :n]
            if point.place in (0.0, 1.0):
                ends[point.document, int(point.place)] = values[row]
    if np.isnan(ends).any():
        raise InputError(
            "the classifier's answers are not numbers (nan): its weights are damaged; train it "
            "again at a lower learning rate"
        )
    differences = (ends[:, 1] - ends[:, 0]).tolist()
    return [TokenScores(total, d) for total, d in zip(sums, differences, strict=True)]


def log_odds(logits: Tensor, classes: Tensor) -> Tensor:
    """Return log p - log(1 - p) of a class of each row; logits [B, C], classes [B] -> [B]."""
    own = logits.gather(1, classes[:, None])
    others = torch.ones_like(logits, dtype=torch.bool).scatter(1, classes[:, None], False)
    rest = logits.masked_fill(~others, -math.inf).logsumexp(dim=1)
    return own[:, 0] - rest


def _points(n_documents: int, method: str, n_steps: int) -> Iterator[_Point]:
    """Yield the points of every document; its ends are there in any case, to measure the gap."""
    nodes, weights = np.polynomial.legendre.leggauss(n_steps)
    for document in range(n_documents):
        yield _Point(document, 0.0, 0.0)
        yield _Point(document, 1.0, 0.0 if method == METHODS[0] else 1.0)
        if method == METHODS[0]:
            for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True):
                yield _Point(document, (node + 1) / 2, weight / 2)  # from [-1, 1] to [0, 1]


def _batches(points: Sequence[_Point], lengths: Sequence[int]) -> Iterator[Sequence[_Point]]:
    """Yield points, those of the longest documents first, as rows of padded batches."""
    start = 0
    while start < len(points):
        longest = lengths[points[start].document]
        end = start + max(1, JOINED_TOKENS // longest)
        yield points[start:end]
        start = end


def _frozen_copy(model: TextClassifier) -> TextClassifier:
    """Return a copy in eval() that shares the weights, none of which asks for a gradient."""
    memo: dict[int, Any] = {id(buffer): buffer for buffer in model.buffers()}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
    return copy.deepcopy(model, memo).eval()


def _log_odds_and_products(
    model: TextClassifier,
    documents: Sequence[Ids],
    classes: Sequence[int],
    batch: Sequence[_Point],
) -> tuple[Floats, Floats]:
    """Return the log-odds at each point [B], and gradient x (word less baseline) [B, T]."""
    device = next(model.parameters()).device
    lengths = [len(documents[point.document]) for point in batch]
    ids = np.full((len(batch), max(lengths)), model.config.pad_id, dtype=np.int64)
    for row, point in enumerate(batch):
        ids[row, : lengths[row]] = documents[point.document]
    functional.check_ids(torch.from_numpy(ids), model.config.vocab_size)
    with torch.inference_mode(False), torch.autocast(device.type, enabled=False):
        words = model.encoder.embedding(torch.from_numpy(ids).to(device).t()).detach()  # [T, B, E]
        baseline = torch.zeros_like(words)
        baseline[0] = words[0]
        places = words.new_tensor([point.place for point in batch])[:, None]
        with torch.enable_grad():
            embedded = torch.lerp(baseline, words, places).requires_grad_()
            wanted = torch.tensor([classes[point.document] for point in batch], device=device)
            values = log_odds(_logits(model, embedded, lengths), wanted)
            (gradient,) = torch.autograd.grad(values.sum(), embedded)
        products = (gradient * (words - baseline)).sum(dim=2, dtype=torch.float64)
    return values.detach().double().cpu().numpy(), products.t().cpu().numpy()


def _logits(model: TextClassifier, embedded: Tensor, lengths: Sequence[int]) -> Tensor:
    """Return what the classifier says of embedded documents [T, B, E], each one whole sequence."""
    plans = [plan_chunks([n], n, model.bptt, model.max_len) for n in lengths]
    start = torch.tensor([plan.first_kept * model.bptt for plan in plans], device=embedded.device)
    end = torch.tensor(list(lengths), device=embedded.device)
    output, _ = model.encoder.run(embedded)
    wide = output.to(torch.promote_types(output.dtype, torch.float32))
    return model.classify(functional.concat_pool(wide.transpose(0, 1), start, end))
