"""Batches: every token and every row once, the same for the same seed, shared out between ranks."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ulmfit_fast.errors import InputError
from ulmfit_fast.text import batches as batches_module
from ulmfit_fast.text import row as row_module
from ulmfit_fast.text.batches import ClassifierBatches, LMStream
from ulmfit_fast.text.corpus import Corpus

document_lengths = st.lists(st.integers(1, 40), min_size=1, max_size=30)


def numbered(lengths: list[int]) -> Corpus:
    """Make a corpus whose ids are all different: the id is the position."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Corpus(np.arange(offsets[-1], dtype=np.int32), offsets)


def in_plain_numpy(stream: LMStream, epoch: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Batches as the docstring has them: lay out all documents, cut into streams, step along."""
    corpus, order = stream.corpus, np.arange(len(stream.corpus))
    if stream._shuffle:
        draw = np.random.default_rng([stream._seed % 2**64, epoch, 0])
        order = draw.permutation(len(corpus))
    row = np.concatenate([corpus[int(i)] for i in order]).astype(np.int64)
    L = stream.stream_length
    streams = np.stack([row[b * L :][: L + 1] for b in range(stream.batch_size)])
    streams = streams[stream.rows.start : stream.rows.stop]
    ends = np.cumsum(stream._lengths(epoch)).tolist()
    return [
        (streams[:, begin:end], streams[:, begin + 1 : end + 1])
        for begin, end in zip([0, *ends], ends, strict=False)
    ]


@settings(derandomize=True, max_examples=400, deadline=None)
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=60).filter(lambda n: sum(n) >= 12),
    st.integers(1, 9),
    st.integers(2, 12),
    st.tuples(st.booleans(), st.booleans()),
    st.sampled_from([(0, 1), (0, 2), (1, 2), (2, 3)]),
    st.tuples(st.integers(1, 400), st.integers(1, 9)),
    st.data(),
)
def test_batches_are_those_of_plain_numpy(
    lengths: list[int],
    batch_size: int,
    bptt: int,
    options: tuple[bool, bool],
    ranks: tuple[int, int],
    at_a_time: tuple[int, int],
    data: st.DataObject,
) -> None:
    """Whatever is read at a time, from any batch on, also where documents are empty."""
    shuffle, variable = options
    rank, world_size = ranks
    stream = LMStream(
        numbered(lengths), batch_size, bptt, seed=3, shuffle=shuffle, variable=variable,
        rank=rank, world_size=world_size,
    )  # fmt: skip
    expected = in_plain_numpy(stream, 1)
    start = data.draw(st.integers(0, len(expected)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches_module, "_BLOCK_TOKENS", at_a_time[0])
        patch.setattr(row_module, "_DOCUMENTS_AT_A_TIME", at_a_time[1])
        found = list(stream.batches(1, start))
    assert len(found) == len(expected) - start
    for (x, y), (expected_x, expected_y) in zip(found, expected[start:], strict=True):
        assert np.array_equal(x.numpy(), expected_x)
        assert np.array_equal(y.numpy(), expected_y)
        assert x.is_contiguous()
        assert y.is_contiguous()


def test_an_epoch_needs_memory_for_the_order_of_documents_alone() -> None:
    corpus = numbered([200] * 20_000)
    stream = LMStream(corpus, 64, 70, seed=0)
    tracemalloc.start()
    for _ in stream.batches(0):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < corpus.ids.nbytes / 2


def test_a_corpus_shorter_than_a_window_is_one_short_batch() -> None:
    ((x, y),) = LMStream(numbered([3, 4]), 64, 70, seed=0, shuffle=False).batches(0)
    assert x.tolist() == [[0, 1, 2, 3, 4, 5]]
    assert y.tolist() == [[1, 2, 3, 4, 5, 6]]


@settings(derandomize=True, max_examples=300, deadline=None)
@given(
    document_lengths.filter(lambda lengths: sum(lengths) >= 20),
    st.integers(1, 9),
    st.integers(2, 12),
    st.integers(1, 4),
    st.booleans(),
    st.booleans(),
    st.integers(0, 3),
)
def test_an_epoch_reads_every_token_once_over_all_ranks(
    lengths: list[int],
    batch_size: int,
    bptt: int,
    world_size: int,
    shuffle: bool,
    variable: bool,
    epoch: int,
) -> None:
    corpus = numbered(lengths)
    seen: list[int] = []
    n_batches = set()
    for rank in range(world_size):
        stream = LMStream(
            corpus,
            batch_size,
            bptt,
            seed=3,
            shuffle=shuffle,
            variable=variable,
            rank=rank,
            world_size=world_size,
        )
        batches = list(stream.batches(epoch))
        n_batches.add(len(batches))
        assert len(batches) == stream.n_batches(epoch)
        for x, y in batches:
            assert x.dtype == y.dtype == torch.int64
            assert x.shape == y.shape
            assert x.shape[0] == len(stream.rows)
            assert torch.equal(x[:, 1:], y[:, :-1])
            seen += x.flatten().tolist()
        rows = torch.cat([x for x, _ in batches], dim=1)
        following = torch.cat([y for _, y in batches], dim=1)
        assert torch.equal(rows[:, 1:], following[:, :-1])
        if not shuffle:
            assert torch.equal(following, rows + 1)
    assert len(n_batches) == 1
    assert len(seen) == len(set(seen))
    # Left out: the last token, which is only a target, what does not fill all streams, one step.
    n_streams = stream.batch_size
    assert corpus.n_tokens - 1 - len(seen) < n_streams + n_streams
    assert len(seen) >= n_streams * (stream.stream_length - 1)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(document_lengths.filter(lambda lengths: sum(lengths) >= 60), st.booleans())
def test_a_stream_resumes_at_any_batch(lengths: list[int], variable: bool) -> None:
    stream = LMStream(numbered(lengths), 2, 7, seed=1, variable=variable)
    whole = [x.tolist() for x, _ in stream.batches(2)]
    for start in range(len(whole) + 1):
        assert [x.tolist() for x, _ in stream.batches(2, start)] == whole[start:]


def test_epochs_and_seeds_differ_and_repeat() -> None:
    corpus = numbered([11, 7, 23, 5, 19, 2, 31, 13] * 5)

    def read(seed: int, epoch: int, **options: bool) -> list[list[list[int]]]:
        return [x.tolist() for x, _ in LMStream(corpus, 4, 10, seed=seed, **options).batches(epoch)]

    assert read(0, 0) == read(0, 0)
    assert read(0, 0) != read(0, 1)
    assert read(0, 0) != read(1, 0)
    assert read(-1, 0) == read(-1, 0)
    assert read(0, 0, shuffle=False) == read(1, 5, shuffle=False)


@pytest.mark.parametrize("world_size", [2, 3, 9])
def test_ranks_read_together_what_one_process_reads(world_size: int) -> None:
    """Also where the streams cannot be shared out equally, or a rank has none."""
    corpus = numbered([17, 9, 30, 4] * 20)
    whole = LMStream(corpus, 8, 10, seed=5, variable=True)
    shares = [
        LMStream(corpus, 8, 10, seed=5, variable=True, rank=rank, world_size=world_size).batches(1)
        for rank in range(world_size)
    ]
    for (x, _), *parts in zip(whole.batches(1), *shares, strict=True):
        assert torch.equal(x, torch.cat([part for part, _ in parts]))


@settings(derandomize=True, max_examples=100, deadline=None)
@given(document_lengths, st.integers(2, 9), st.integers(1, 5), st.booleans())
def test_ranks_share_out_the_documents_of_every_batch(
    lengths: list[int], batch_size: int, world_size: int, train: bool
) -> None:
    corpus, labels = numbered(lengths), [i % 3 for i in range(len(lengths))]
    whole = ClassifierBatches(corpus, labels, batch_size, seed=1, train=train)
    made = [
        ClassifierBatches(
            corpus, labels, batch_size, seed=1, train=train, rank=rank, world_size=world_size
        )
        for rank in range(world_size)
    ]
    n_documents = [0] * world_size
    for batch, *parts in zip(whole.batches(2), *(m.batches(2) for m in made), strict=True):
        together = torch.cat([part.rows for part in parts])
        assert sorted(together.tolist()) == sorted(batch.rows.tolist())
        for rank, part in enumerate(parts):
            n_documents[rank] += len(part.rows)
            assert torch.equal(part.all_lengths, batch.lengths)
            assert part.labels is not None
            assert part.labels.tolist() == [labels[row] for row in part.rows.tolist()]
            assert len(part.ids) == len(part.lengths) == max(1, len(part.rows))
            assert set(part.lengths.tolist()) <= set(batch.lengths.tolist())
    if not train:
        assert made[0].counts() == n_documents


def test_lengths_vary_as_in_awd_lstm() -> None:
    stream = LMStream(numbered([5_000] * 200), 1, 70, seed=0, variable=True)
    lengths = np.array([x.shape[1] for x, _ in stream.batches(0)][:-1])
    halved = lengths < 50
    assert 0.03 < halved.mean() < 0.07
    assert abs(lengths[~halved].mean() - 69.5) < 0.5
    assert abs(lengths[~halved].std() - 5) < 0.4
    assert abs(lengths[halved].mean() - 34.5) < 0.5
    assert lengths.min() >= 5


@pytest.mark.peer
def test_batches_equal_fastais_loader() -> None:
    text_all = pytest.importorskip("fastai.text.all", reason="peer: requirements/peers.txt")
    corpus = numbered([40, 13, 55, 8, 70, 31, 22, 90])
    documents = [torch.from_numpy(corpus[i].astype(np.int64)) for i in range(len(corpus))]
    loader = text_all.LMDataLoader(
        documents, lens=[len(d) for d in documents], bs=4, seq_len=10, shuffle=False
    )
    stream = LMStream(corpus, 4, 10, seed=0, shuffle=False)
    theirs = [(x.tolist(), y.tolist()) for x, y in loader]
    ours = [(x.tolist(), y.tolist()) for x, y in stream.batches(0)]
    assert ours == theirs


def test_a_last_batch_of_one_step_is_left_out() -> None:
    """Its difference of neighbouring steps (TAR) would be a mean over nothing."""
    lengths = [x.shape[1] for x, _ in LMStream(numbered([43]), 2, 10, seed=0).batches(0)]
    assert lengths == [10, 10]
    lengths = [x.shape[1] for x, _ in LMStream(numbered([45]), 2, 10, seed=0).batches(0)]
    assert lengths == [10, 10, 2]


def test_a_tiny_corpus_gets_fewer_streams() -> None:
    assert LMStream(numbered([100]), 64, 10, seed=0).batch_size == 9
    assert LMStream(numbered([5]), 64, 70, seed=0).batch_size == 1
    assert LMStream(numbered([1_000]), 64, 10, seed=0).batch_size == 64


@pytest.mark.parametrize(
    ("lengths", "options", "message"),
    [
        ([2], {}, "has 2 tokens, at least 3 are needed"),
        ([50], {"batch_size": 0}, "batch_size is 0"),
        ([50], {"bptt": 1}, "bptt 1"),
        ([50], {"rank": 2, "world_size": 2}, "rank 2 is not in"),
    ],
)
def test_streams_refuse(lengths: list[int], options: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        LMStream(numbered(lengths), **{"batch_size": 2, "bptt": 5, "seed": 0, **options})  # type: ignore[arg-type]


@settings(derandomize=True, max_examples=300, deadline=None)
@given(document_lengths, st.integers(2, 9), st.booleans(), st.integers(0, 3))
def test_every_row_comes_once_padded_at_the_end(
    lengths: list[int], batch_size: int, train: bool, epoch: int
) -> None:
    corpus = numbered(lengths)
    labels = [i % 3 for i in range(len(lengths))]
    loader = ClassifierBatches(corpus, labels, batch_size, train=train, seed=4, pad_id=-7)
    batches = list(loader.batches(epoch))
    assert len(batches) == loader.n_batches(epoch)
    rows = torch.cat([batch.rows for batch in batches]).tolist()
    assert sorted(rows) == list(range(len(lengths)))
    for batch in batches:
        assert batch.ids.dtype == batch.lengths.dtype == batch.rows.dtype == torch.int64
        assert batch.labels is not None
        assert batch.labels.tolist() == [labels[row] for row in batch.rows]
        assert batch.lengths.tolist() == sorted(batch.lengths.tolist(), reverse=True)
        assert batch.ids.shape == (len(batch.rows), int(batch.lengths.max()))
        for ids, length, row in zip(batch.ids, batch.lengths, batch.rows, strict=True):
            assert ids[:length].tolist() == corpus[int(row)].tolist()
            assert (ids[length:] == -7).all()
    assert batches[0].ids.shape[1] == max(lengths)
    sizes = [len(batch.rows) for batch in batches]
    if train and len(lengths) > 1:
        assert min(sizes) > 1
        assert max(sizes) <= batch_size + 1
    elif not train:
        all_lengths = torch.cat([batch.lengths for batch in batches]).tolist()
        assert all_lengths == sorted(lengths, reverse=True)
        assert max(sizes) <= batch_size


def test_training_order_is_a_function_of_seed_and_epoch() -> None:
    corpus = numbered(list(range(1, 60)))

    def order(seed: int, epoch: int) -> list[int]:
        loader = ClassifierBatches(corpus, None, 4, seed=seed, train=True)
        batches = list(loader.batches(epoch))
        assert all(batch.labels is None for batch in batches)
        return torch.cat([batch.rows for batch in batches]).tolist()

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)


def test_batches_hold_documents_of_like_length() -> None:
    generator = np.random.default_rng(0)
    corpus = numbered(generator.integers(1, 500, size=2_000).tolist())
    loader = ClassifierBatches(corpus, None, 16, train=True)
    padded = sum(batch.ids.numel() for batch in loader.batches())
    assert padded < 1.1 * corpus.n_tokens


@pytest.mark.parametrize(
    ("lengths", "labels", "options", "message"),
    [
        ([], None, {}, "there is no text"),
        ([3, 4], [1], {}, "2 texts have 1 labels"),
        ([3, 4], [1, 0], {"batch_size": 1, "train": True}, "batch_size is 1: give at least 2"),
    ],
)
def test_classifier_batches_refuse(
    lengths: list[int], labels: list[int] | None, options: dict[str, int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        ClassifierBatches(numbered(lengths), labels, **{"batch_size": 2, **options})  # type: ignore[arg-type]
