"""Batches of a corpus: contiguous streams for a language model, padded rows for a classifier.

Both are functions of (seed, epoch): any batch of any epoch can be made again, so a run resumes at a
batch number and a run on several ranks needs no message between them.

B batch, T time, L tokens of one stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ..errors import InputError
from .corpus import Corpus
from .row import Reader, document_numbers, readers_at
from .rules import PAD_ID

# Seeds of the two draws of an epoch, so that jitter does not depend on how documents fell.
_ORDER, _JITTER = 0, 1
# fastai: documents of a training epoch are sorted by length within groups of so many batches.
_BATCHES_A_GROUP = 50

# Tokens of all streams that are read at a time: 2 MB, which costs little and fits a cache.
_BLOCK_TOKENS = 1 << 19

Positions = npt.NDArray[np.int64]
Block = npt.NDArray[np.int32]


def share_of(n_rows: int, rank: int, world_size: int) -> range:
    """Return which rows of a batch are a rank's: neighbours, as many as another's or one more."""
    return range(n_rows * rank // world_size, n_rows * (rank + 1) // world_size)


def _generator(seed: int, epoch: int, draw: int) -> np.random.Generator:
    return np.random.default_rng([seed % 2**64, epoch, draw])


class LMStream:
    """Batches for a language model.

    The documents of an epoch, in an order drawn for that epoch, are laid end to end and cut into
    batch_size streams of L tokens; batch k holds the next T tokens of each stream, so a row
    continues where it ended. The last tokens that do not fill all streams are left out, and so is
    a last batch of a single step. Ranks share out the streams: what they read together does not
    depend on how many they are.

    Args:
        corpus: documents.
        batch_size: streams of all ranks together. Fewer are used where the corpus is too small to
            give each stream bptt tokens; read `batch_size` after, and `rows` for those of this
            rank, which may be none.
        bptt: tokens of a row.
        seed: decides the orders and lengths of all epochs.
        shuffle: draw an order of documents for each epoch; False keeps the corpus's.
        variable: draw T as in AWD-LSTM: from N(bptt or, 5 times in 100, bptt / 2; 5), at least 5.
        rank: this process, in [0, world_size).
        world_size: processes that train together.

    Raises:
        InputError: batch_size or bptt is not positive, or the corpus has too few tokens.

    Source: fastai's LMDataLoader; Merity, Keskar, Socher 2017, arXiv:1708.02182, section 5.
    """

    def __init__(
        self,
        corpus: Corpus,
        batch_size: int,
        bptt: int,
        *,
        seed: int,
        shuffle: bool = True,
        variable: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size < 1 or bptt < 2:
            raise InputError(
                f"batch_size is {batch_size} and bptt {bptt}: give at least 1 stream of 2 tokens"
            )
        if not 0 <= rank < world_size:
            raise InputError(f"rank {rank} is not in [0, {world_size}): check the launcher")
        if corpus.n_tokens < 3:
            raise InputError(
                f"the language-model text has {corpus.n_tokens} tokens, at least 3 are needed: "
                "give more text"
            )
        self.corpus = corpus
        usable = corpus.n_tokens - 1
        self.batch_size = max(1, min(batch_size, usable // bptt))
        self.world_size = world_size
        self.rows = share_of(self.batch_size, rank, world_size)
        self.bptt = bptt
        self._seed, self._shuffle, self._variable = seed, shuffle, variable
        self.stream_length = usable // self.batch_size

    def _lengths(self, epoch: int) -> list[int]:
        """Draw T of each batch of an epoch; their sum is L, or L - 1."""
        left = self.stream_length
        lengths: list[int] = []
        generator = _generator(self._seed, epoch, _JITTER)
        while left > 1:
            length = self.bptt
            if self._variable:
                mean = self.bptt if generator.random() < 0.95 else self.bptt / 2
                length = max(5, int(generator.normal(mean, 5)))
            lengths.append(min(length, left))
            left -= lengths[-1]
        return lengths

    def n_batches(self, epoch: int) -> int:
        """Return the batches of an epoch; the same on all ranks."""
        return len(self._lengths(epoch))

    def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield the batches of an epoch from number start on.

        Yields:
            x: int64 [B, T], B the streams of this rank.
            y: int64 [B, T], the token that follows each of x.
        """
        lengths = self._lengths(epoch)
        if start >= len(lengths):
            return
        readers = self._readers(epoch, sum(lengths[:start]))
        steps = max(1, _BLOCK_TOKENS // max(1, len(self.rows)))
        # Tokens to come, of all streams; its column 0 is the last of the block before.
        block = np.empty((len(self.rows), 0), dtype=np.int32)
        for first, last in _blocks(lengths, start, steps):
            n_tokens = sum(lengths[first:last])
            block = _next_block(readers, block, n_tokens)
            position = 0
            for length in lengths[first:last]:
                x, y = block[:, position : position + length], block[:, position + 1 :][:, :length]
                yield torch.from_numpy(x.astype(np.int64)), torch.from_numpy(y.astype(np.int64))
                position += length

    def _readers(self, epoch: int, position: int) -> list[Reader]:
        """Return a reader of each stream of this rank, from a position in the stream on."""
        order = document_numbers(len(self.corpus))
        if self._shuffle:
            _generator(self._seed, epoch, _ORDER).shuffle(order)
        places = [stream * self.stream_length + position for stream in self.rows]
        return readers_at(self.corpus.ids, self.corpus.offsets, order, places)


def _blocks(lengths: Sequence[int], start: int, steps: int) -> Iterator[tuple[int, int]]:
    """Yield (first, last + 1) of neighbouring batches that have about so many steps together."""
    first, n_steps = start, 0
    for i in range(start, len(lengths)):
        n_steps += lengths[i]
        if n_steps >= steps:
            yield first, i + 1
            first, n_steps = i + 1, 0
    if first < len(lengths):
        yield first, len(lengths)


def _next_block(readers: Sequence[Reader], block: Block, n_tokens: int) -> Block:
    """Read n_tokens more of each stream, behind the last column of the block before."""
    following = np.empty((len(readers), 1 + n_tokens), dtype=np.int32)
    kept = min(1, block.shape[1])
    following[:, :kept] = block[:, block.shape[1] - kept :]
    for row, reader in zip(following, readers, strict=True):
        reader.read(row[kept:])
    return following


@dataclass(frozen=True)
class ClassifierBatch:
    """Documents of one batch, the longest first.

    Attributes:
        ids: int64 [B, T], padded at the end.
        lengths: int64 [B], tokens of each row, on the CPU.
        labels: int64 [B], or None.
        rows: int64 [B], the index of each document in the corpus. None at all, nor labels, where
            the batch has fewer documents than there are ranks: ids then have one that is another
            rank's, so that there is something to run.
        all_lengths: int64, tokens of each document of all ranks.
    """

    ids: torch.Tensor
    lengths: torch.Tensor
    labels: torch.Tensor | None
    rows: torch.Tensor
    all_lengths: torch.Tensor


class ClassifierBatches:
    """Batches of documents of like length.

    In training the documents are shuffled, sorted by length within groups of 50 batches and the
    batches shuffled, all anew each epoch; the batch with the longest document comes first, so that
    memory is at its peak at once. Otherwise all documents come once, the longest first.

    Args:
        corpus: documents.
        labels: class of each document, or None.
        batch_size: documents of a batch, of all ranks together. In training a last batch of one
            document joins the one before (batch normalisation needs two), which then has
            batch_size + 1.
        seed: decides the orders of all epochs.
        train: shuffle.
        pad_id: fills rows up to T.
        rank: this process, in [0, world_size).
        world_size: processes that share out the documents of each batch, every one of them long
            and short ones.

    Raises:
        InputError: labels and corpus differ in length, the corpus is empty, or batch_size is too
            small.
    """

    def __init__(
        self,
        corpus: Corpus,
        labels: Sequence[int] | None,
        batch_size: int,
        *,
        seed: int = 0,
        train: bool = False,
        pad_id: int = PAD_ID,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if not len(corpus):
            raise InputError("there is no text to make batches of: give at least one")
        if labels is not None and len(labels) != len(corpus):
            raise InputError(f"{len(corpus)} texts have {len(labels)} labels: give one label each")
        if batch_size < (2 if train else 1):
            raise InputError(f"batch_size is {batch_size}: give at least {2 if train else 1}")
        self.corpus = corpus
        self.labels = None if labels is None else torch.as_tensor(labels, dtype=torch.int64)
        self.batch_size = batch_size
        self.train = train
        self.pad_id = pad_id
        self.rank, self.world_size = rank, world_size
        self._seed = seed
        self._lengths = corpus.lengths()

    def n_batches(self, epoch: int = 0) -> int:
        """Return the batches of an epoch; the same in every epoch."""
        n_full, rest = divmod(len(self.corpus), self.batch_size)
        return n_full + (rest > 0 if not (self.train and n_full) else rest > 1)

    def counts(self) -> list[int]:
        """Return how many documents each rank has; without train, where all come once."""
        sizes = [len(batch) for batch in self._order(0)]
        return [
            sum(len(range(rank, size, self.world_size)) for size in sizes)
            for rank in range(self.world_size)
        ]

    def _order(self, epoch: int) -> list[Positions]:
        """Return the documents of each batch of an epoch."""
        if not self.train:
            return self._cut(np.argsort(-self._lengths, kind="stable"))
        generator = _generator(self._seed, epoch, _ORDER)
        order = generator.permutation(len(self.corpus))
        longest = int(np.argmax(self._lengths[order]))
        order[[0, longest]] = order[[longest, 0]]
        group = self.batch_size * _BATCHES_A_GROUP
        grouped = [order[start : start + group] for start in range(0, len(order), group)]
        by_length = [g[np.argsort(-self._lengths[g], kind="stable")] for g in grouped]
        batches = self._cut(np.concatenate(by_length))
        inner = [batches[i + 1] for i in generator.permutation(max(0, len(batches) - 2))]
        return [batches[0], *inner, *batches[1:][-1:]]

    def _cut(self, order: Positions) -> list[Positions]:
        bounds = list(range(self.batch_size, len(order), self.batch_size))
        if self.train and bounds and len(order) - bounds[-1] == 1:
            bounds.pop()
        return np.split(order, bounds)

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[ClassifierBatch]:
        """Yield the batches of an epoch from number start on."""
        for everyones in self._order(epoch)[start:]:
            own = everyones[self.rank :: self.world_size]
            shown = own if len(own) else everyones[-1:]
            lengths = self._lengths[shown]
            ids = np.full((len(shown), int(lengths.max())), self.pad_id, dtype=np.int64)
            for i, row in enumerate(shown):
                ids[i, : lengths[i]] = self.corpus[int(row)]
            picked = torch.from_numpy(own)
            yield ClassifierBatch(
                ids=torch.from_numpy(ids),
                lengths=torch.from_numpy(lengths),
                labels=None if self.labels is None else self.labels[picked],
                rows=picked,
                all_lengths=torch.from_numpy(self._lengths[everyones]),
            )
