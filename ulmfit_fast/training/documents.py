"""Texts to batches of ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ulmfit_fast.errors import InputError
from ulmfit_fast.text.batches import ClassifierBatches, LMStream
from ulmfit_fast.text.corpus import Corpus, Texts
from ulmfit_fast.text.tokenizer import Tokenizer
from ulmfit_fast.text.vocab import Progress
from ulmfit_fast.text.workers import n_processes
from ulmfit_fast.training.config import StageConfig, StageName, TrainConfig
from ulmfit_fast.training.launch import local_world_size
from ulmfit_fast.training.ranks import ALONE, Ranks


def class_names(labels: Sequence[str]) -> list[str]:
    """Return the different labels in alphabetical order.

    Raises:
        InputError: a text without a label, or fewer than two classes.
    """
    for row, label in enumerate(labels, start=1):
        if label is None:
            raise InputError(
                f"text {row} has no label: leave it out here; the language model can use it"
            )
    names = sorted(set(labels))
    if len(names) < 2:
        found = f"the labels hold {len(names)} class ({', '.join(names)})"
        raise InputError(f"{found}: at least 2 are needed")
    return names


def class_indices(labels: Sequence[str], names: Sequence[str]) -> list[int]:
    """Return the place of each label among the names.

    Raises:
        InputError: a label that is not among the names.
    """
    index_of = {name: index for index, name in enumerate(names)}
    for row, label in enumerate(labels, start=1):
        if label not in index_of:
            raise InputError(
                f"text {row} has label {label!r}, which training does not have "
                f"(classes: {', '.join(names[:10])}); correct it or add it to training"
            )
    return [index_of[label] for label in labels]


def labelled_batches(
    tokenizer: Tokenizer,
    data: tuple[Sequence[str], Sequence[str]],
    names: Sequence[str],
    config: TrainConfig,
    *,
    train: bool = False,
    cache_dir: Path | None = None,
    ranks: Ranks = ALONE,
) -> ClassifierBatches:
    """Batch labelled documents.

    Args:
        tokenizer: of the model.
        data: texts, and a class name for each.
        names: classes of the model.
        config: batch size and seed.
        train: in random order, for training; else longest first.
        cache_dir: as for Corpus.build.
        ranks: processes that share out each batch.

    Raises:
        InputError: lists of unequal length, no texts, or a label that is not among the names.
    """
    texts, labels = data
    if len(texts) != len(labels) or not texts:
        raise InputError(
            f"{len(texts)} texts and {len(labels)} labels: give one label for each text"
        )
    indices = class_indices(labels, names)
    corpus = corpus_of(texts, tokenizer, cache_dir, ranks)
    return ClassifierBatches(
        corpus,
        indices,
        config.classifier.batch_size,
        seed=config.seed,
        train=train,
        pad_id=tokenizer.pad_id,
        rank=ranks.rank,
        world_size=ranks.size,
    )


def corpus_of(
    texts: Texts,
    tokenizer: Tokenizer,
    cache_dir: Path | None,
    ranks: Ranks,
    progress: Progress | None = None,
) -> Corpus:
    """Encode texts in every process of a training, with a cache once on each machine.

    Args:
        texts: documents.
        tokenizer: of the model.
        cache_dir: as for Corpus.build.
        ranks: the processes.
        progress: as for Corpus.build.
    """
    if cache_dir is None:
        of_each = None if ranks.size == 1 else max(1, n_processes(None) // local_world_size())
        with ranks.in_turn("the ids of the texts", all_at_once=True):
            return Corpus.build(texts, tokenizer, processes=of_each, progress=progress)
    with ranks.in_turn("the ids of the texts"):
        return Corpus.build(texts, tokenizer, cache_dir, progress=progress)


def token_streams(
    tokenizer: Tokenizer,
    texts: Texts,
    valid_texts: Texts | None,
    stage: StageName,
    config: TrainConfig,
    *,
    cache_dir: Path | None = None,
    progress_of: Callable[[str], Progress | None] = lambda what: None,
    ranks: Ranks = ALONE,
) -> tuple[LMStream, LMStream | None]:
    """Lay documents out for a language model.

    Args:
        tokenizer: of the model.
        texts: documents to train on.
        valid_texts: documents to measure on, if any.
        stage: whose batch size counts.
        config: length of the batches, and seed.
        cache_dir: as for Corpus.build.
        progress_of: returns what is told how far the encoding of something is.
        ranks: processes that share out the streams.

    Returns:
        train: in random order.
        valid: in the given order; None without valid_texts.

    Raises:
        InputError: too few tokens.
    """
    settings: StageConfig = getattr(config, stage)

    def encode(documents: Texts, what: str) -> Corpus:
        return corpus_of(documents, tokenizer, cache_dir, ranks, progress_of(what))

    train = LMStream(
        encode(texts, "ids to train on"), settings.batch_size, config.bptt,
        seed=config.seed, variable=config.variable_bptt, rank=ranks.rank, world_size=ranks.size,
    )  # fmt: skip
    if train.batch_size < ranks.size:
        raise InputError(
            f"the language-model text has {train.corpus.n_tokens} tokens, enough for "
            f"{train.batch_size} streams of {config.bptt}: too few for {ranks.size} processes"
        )
    if not valid_texts:
        return train, None
    valid = encode(valid_texts, "ids to measure on")
    return train, LMStream(
        valid, settings.batch_size, config.bptt, seed=0, shuffle=False,
        rank=ranks.rank, world_size=ranks.size,
    )  # fmt: skip
