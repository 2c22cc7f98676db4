"""What whole steps read: token streams and documents, of real files or drawn from a seed.

Sizes: V vocabulary, B batch rows, T tokens of a row or of a chunk.
"""

from __future__ import annotations

import csv
import functools
import io
import lzma
import random
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ulmfit_fast.text import PAD_ID, SPECIALS, Tokenizer, WordTokenizer, train_tokenizer

SEED = 1
#: Characters of a text file, and rows of a file of documents, that are read.
N_CHARS, N_ROWS = 4_000_000, 2_000
#: Mean tokens of a review of IMDb, of a question of TREC; the long tail of the former as the
#: standard deviation of the logarithm, and the longest document of a batch.
LONG_MEAN, LONG_SPREAD, LONGEST = 270, 0.7, 1450
SHORT_MEAN, SHORT_SPREAD = 12, 4
N_CLASSES = {"long": 2, "short": 6}


@dataclass(frozen=True)
class Case:
    """One kind of work, and its sizes.

    Attributes:
        name: in tables and for --only.
        kind: "language model" or "classifier" (training), "inference" or "predict".
        documents: "long" (IMDb) or "short" (TREC); "" for a language model.
        n_docs: documents of one call.
    """

    name: str
    kind: str
    documents: str = ""
    n_docs: int = 0
    V: int = 30000
    B: int = 64
    T: int = 72
    E: int = 400
    H: int = 1152

    @property
    def n_classes(self) -> int:
        """Classes of the documents."""
        return N_CLASSES[self.documents]

    @property
    def trains(self) -> bool:
        """Whether a call is a training step."""
        return self.kind in ("language model", "classifier")

    def tiny(self) -> Case:
        """Return the same kind of work in a fraction of a second."""
        n_docs = min(self.n_docs, 5)
        return replace(self, n_docs=n_docs, V=120, B=4, T=3, E=8, H=12)

    def sizes(self) -> dict[str, int]:
        """Return legend letter -> size."""
        return {letter: getattr(self, letter) for letter in "VBTEH"}


CASES = (
    Case("lm-30k", "language model"),
    Case("lm-60k", "language model", V=60000),
    Case("lm-60k-bs72", "language model", V=60000, B=72),
    Case("classifier-long", "classifier", "long", n_docs=32, B=32),
    Case("classifier-short", "classifier", "short", n_docs=64),
    Case("inference-long", "inference", "long", n_docs=128),
    Case("inference-short", "inference", "short", n_docs=512),
    Case("predict", "predict", "short", n_docs=1),
)


@dataclass(frozen=True)
class Files:
    """Real texts; None: drawn ids.

    Attributes:
        lm: text, plain or .xz.
        long: csv with columns label and text, plain or .xz.
        short: lines of TREC, plain or .xz.
    """

    lm: Path | None = None
    long: Path | None = None
    short: Path | None = None


@dataclass(frozen=True)
class Batch:
    """What one training step reads.

    Attributes:
        ids: shape [B, T], padded at the end.
        targets: next tokens [B, T], or classes [B].
        lengths: tokens of each document, on the CPU; None for a language model.
        chunked: ids as fastai pads them, by whole chunks in front; equal to ids where it does not.
    """

    ids: Tensor
    targets: Tensor
    lengths: Tensor | None
    chunked: Tensor

    @property
    def n_tokens(self) -> int:
        """Tokens without padding."""
        return self.ids.numel() if self.lengths is None else int(self.lengths.sum())


def read(file: Path, encoding: str = "utf-8") -> str:
    """Return the text of a file, plain or .xz."""
    content = file.read_bytes()
    if file.suffix == ".xz":
        content = lzma.decompress(content)
    return content.decode(encoding)


def draw_ids(n: int, V: int, generator: torch.Generator) -> Tensor:
    """Draw tokens as frequent as words are (Zipf-Mandelbrot); no special ones; int64 [n]."""
    n_special = min(len(SPECIALS), V // 2)
    weights = 1.0 / (torch.arange(V - n_special) + 2.7)
    return n_special + torch.multinomial(weights, n, replacement=True, generator=generator)


@functools.cache
def lm_batches(case: Case, files: Files, n_batches: int) -> list[Batch]:
    """Return consecutive batches of B streams."""
    n_each = n_batches * case.T + 1
    if files.lm is None:
        ids = draw_ids(case.B * n_each, case.V, torch.Generator().manual_seed(SEED))
    else:
        text = read(files.lm)[:N_CHARS]
        found = train_tokenizer([text], max_vocab=case.V - 8, min_freq=1).encode([text])[0]
        ids = torch.from_numpy(found.astype("int64"))
    if len(ids) < case.B * n_each:
        raise SystemExit(f"--text has {len(ids)} tokens, {case.B * n_each} are needed")
    streams = ids[: len(ids) // case.B * case.B].view(case.B, -1)
    return [
        Batch(x := streams[:, start : start + case.T].contiguous(), y.contiguous(), None, x)
        for start in range(0, n_batches * case.T, case.T)
        for y in [streams[:, start + 1 : start + 1 + case.T]]
    ]


@functools.cache
def labelled_texts(case: Case, files: Files) -> list[tuple[str, str]]:
    """Return (label, text) of the file of the case's kind of documents, shuffled."""
    if case.documents == "long":
        with_header = csv.DictReader(io.StringIO(read(files.long), newline=""))
        rows = [(row["label"], row["text"]) for row in with_header]
    else:
        lines = read(files.short, "latin-1").splitlines()
        rows = [(line.split(":")[0], line.partition(" ")[2]) for line in lines]
    random.Random(SEED).shuffle(rows)
    return rows[:N_ROWS]


def draw_lengths(case: Case, generator: torch.Generator) -> Tensor:
    """Draw the tokens of each document."""
    normal = torch.randn(case.n_docs, generator=generator)
    if case.documents == "short":
        return (SHORT_MEAN + SHORT_SPREAD * normal).round().long().clamp(min=4)
    scale = case.T / CASES[0].T  # as many chunks in a tiny case
    middle = torch.tensor(LONG_MEAN * scale).log() - LONG_SPREAD**2 / 2
    longest = round(LONGEST * scale)
    lengths = (middle + LONG_SPREAD * normal).exp().round().long().clamp(min(10, longest), longest)
    lengths[0] = longest
    return lengths


@functools.cache
def documents(case: Case, files: Files) -> tuple[list[Tensor], Tensor]:
    """Return the ids of n_docs documents, int64, and their classes; the longest comes first."""
    generator = torch.Generator().manual_seed(SEED)
    if (files.long if case.documents == "long" else files.short) is None:
        lengths = draw_lengths(case, generator).tolist()
        docs = list(draw_ids(sum(lengths), case.V, generator).split(lengths))
        labels = torch.arange(len(docs)) % case.n_classes
    else:
        rows = labelled_texts(case, files)
        texts = [text for _, text in rows]
        tokenizer = train_tokenizer(texts, max_vocab=case.V - 8, min_freq=1)
        docs = [torch.from_numpy(ids.astype("int64")) for ids in tokenizer.encode(texts)]
        names = sorted({label for label, _ in rows})
        labels = torch.tensor([names.index(label) for label, _ in rows])
        first = max(range(len(docs)), key=lambda i: len(docs[i]))
        chosen = [first, *[i for i in range(len(docs)) if i != first]][: case.n_docs]
        docs, labels = [docs[i] for i in chosen], labels[chosen]
    order = sorted(range(len(docs)), key=lambda i: -len(docs[i]))
    return [docs[i] for i in order], labels[order]


def batch_of(docs: list[Tensor], labels: Tensor, T: int) -> Batch:
    """Pad documents, the longest first, as our batches and as fastai's Pad_Chunk do."""
    lengths = torch.tensor([len(doc) for doc in docs])
    ids = torch.nn.utils.rnn.pad_sequence(docs, batch_first=True, padding_value=PAD_ID)
    chunked = torch.full_like(ids, PAD_ID)
    for row, doc in enumerate(docs):
        front = (ids.shape[1] - len(doc)) // T * T
        chunked[row, front : front + len(doc)] = doc
    return Batch(ids, labels, lengths, chunked)


def batches(case: Case, files: Files, n_batches: int) -> list[Batch]:
    """Return what the training steps of a case read, in this order, again and again."""
    if case.kind == "language model":
        return lm_batches(case, files, n_batches)
    return [batch_of(*documents(case, files), case.T)]


def checked_batch(case: Case, batch: Batch) -> Batch:
    """Return a part of a batch on which fastai pools what we pool, small enough to check.

    Its longest document is whole chunks: else fastai 2.8 takes the last vectors of rows from
    elsewhere (tests/test_model.py).
    """
    if batch.lengths is None:
        T = min(case.T, 3)
        ids = batch.ids[:, :T].contiguous()
        return Batch(ids, batch.targets[:, :T].contiguous(), None, ids)
    cut = [
        row[: min(n, 2 * case.T)]
        for row, n in zip(batch.ids[:8], batch.lengths.tolist(), strict=False)
    ]
    return batch_of(cut, batch.targets[: len(cut)], case.T)


@functools.cache
def predicted_text(case: Case, files: Files) -> tuple[str, Tokenizer]:
    """Return a text of some 40 words, and a tokenizer with V words that knows them."""
    if files.long is not None:
        found = labelled_texts(replace(case, documents="long"), files)[0][1]
        text = " ".join(found.split()[:40])
    else:
        text = (
            "I did not expect much of this film, but the two leads are wonderful together and "
            "it's hard to look away; the story, slow at first, ends in a scene that nobody in "
            "the cinema will forget soon. Don't miss it!"
        )
    known = train_tokenizer([text], min_freq=1).vocab
    known = [word for word in known if word != "xxfake"]
    rest = (f"word{i}" for i in range(case.V))
    return text, WordTokenizer([*known, *rest][: max(case.V, len(known))])
