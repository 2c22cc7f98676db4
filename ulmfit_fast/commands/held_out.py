"""Documents of a language model's text that it is measured on."""

from __future__ import annotations

import random
from collections.abc import Sequence

from ulmfit_fast.errors import InputError
from ulmfit_fast.text import Texts, TextStream

# Share of a general text's documents that the language model is measured on.
GENERAL_VALID_SHARE = 0.05


def split_documents(
    texts: Sequence[str] | TextStream, source: str, seed: int
) -> tuple[Texts, Texts]:
    """Hold documents out: as split_stream does of a large stream, else as split_texts does.

    Raises:
        InputError: as of these.
    """
    if not isinstance(texts, TextStream):
        return split_texts(texts, source, seed)
    return split_stream(texts, seed) if texts.is_large else split_texts(list(texts), source, seed)


def split_texts(texts: Sequence[str], source: str, seed: int) -> tuple[list[str], list[str]]:
    """Hold documents out to measure a language model on; equal ones stay together.

    Raises:
        InputError: fewer than two different documents.
    """
    different = sorted(set(texts))
    if len(different) < 2:
        raise _one_document(source)
    n_valid = max(1, round(GENERAL_VALID_SHARE * len(different)))
    held_out = set(random.Random(seed).sample(different, n_valid))
    return [text for text in texts if text not in held_out], sorted(held_out)


def split_stream(texts: TextStream, seed: int) -> tuple[TextStream, TextStream]:
    """Hold documents of a large stream out, each by a number made of its content and the seed.

    Raises:
        InputError: the file cannot be used, or all of its documents fall into one part.
    """
    train, valid = texts.split(GENERAL_VALID_SHARE, seed)
    if not len(train) or not len(valid):
        raise _one_document(texts.source)
    return train, valid


def _one_document(source: str) -> InputError:
    return InputError(
        f"{source}: one document only; a language model needs some to train on and some to be "
        "measured on (a text file has one document a line)"
    )
