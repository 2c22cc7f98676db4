"""What processes that tokenize are told and answer, as bytes.

A message is its number of bytes (uint64, little-endian) and the bytes. Lists are their number, a
number for each of their members (int64: characters, tokens, occurrences) and the members.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int32]
Lengths = npt.NDArray[np.int64]
_SIZE = struct.Struct("<Q")


def write_message(stream: BinaryIO, content: bytes) -> None:
    """Write one message."""
    stream.write(_SIZE.pack(len(content)))
    stream.write(content)
    stream.flush()


def read_message(stream: BinaryIO) -> bytes | None:
    """Read one message; None where the stream ended, also within one."""
    size = stream.read(_SIZE.size)
    if len(size) < _SIZE.size:
        return None
    (n_bytes,) = _SIZE.unpack(size)
    content = stream.read(n_bytes)
    return content if len(content) == n_bytes else None


def pack_texts(texts: Sequence[str]) -> bytes:
    """Return texts as bytes."""
    lengths = np.fromiter(map(len, texts), dtype="<i8", count=len(texts))
    joined = "".join(texts).encode("utf-8", "surrogatepass")
    return _SIZE.pack(len(texts)) + lengths.tobytes() + joined


def unpack_texts(content: bytes) -> list[str]:
    """Return the texts that pack_texts packed."""
    (n,) = _SIZE.unpack_from(content)
    ends = np.cumsum(np.frombuffer(content, "<i8", n, _SIZE.size)).tolist()
    joined = content[_SIZE.size + 8 * n :].decode("utf-8", "surrogatepass")
    return [joined[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def pack_ids(documents: Sequence[Ids]) -> bytes:
    """Return the ids of documents as bytes."""
    lengths = np.fromiter(map(len, documents), dtype="<i8", count=len(documents))
    ids = [document.astype("<i4", copy=False).tobytes() for document in documents]
    return b"".join([_SIZE.pack(len(documents)), lengths.tobytes(), *ids])


def unpack_ids(content: bytes) -> tuple[Ids, Lengths]:
    """Return the ids of all documents, one after the other, and the length of each."""
    (n,) = _SIZE.unpack_from(content)
    lengths = np.frombuffer(content, "<i8", n, _SIZE.size)
    return np.frombuffer(content, "<i4", offset=_SIZE.size + 8 * n), lengths


def pack_counts(counts: Mapping[str, int], n_texts: int) -> bytes:
    """Return counted words, in their order, and of how many texts they are, as bytes."""
    numbers = np.fromiter(counts.values(), dtype="<i8", count=len(counts))
    head = _SIZE.pack(n_texts) + _SIZE.pack(len(counts))
    return head + numbers.tobytes() + pack_texts(list(counts))


def unpack_counts(content: bytes) -> tuple[dict[str, int], int]:
    """Return the words that pack_counts packed, in their order, and of how many texts they are."""
    (n_texts,) = _SIZE.unpack_from(content)
    (n,) = _SIZE.unpack_from(content, _SIZE.size)
    start = 2 * _SIZE.size
    numbers = np.frombuffer(content, "<i8", n, start).tolist()
    words = unpack_texts(content[start + 8 * n :])
    return dict(zip(words, numbers, strict=True)), n_texts
