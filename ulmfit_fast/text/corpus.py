"""A corpus as one flat array of ids on disk.

Layout of a cached corpus, one directory named by the content: `ids.bin` (int32, little-endian,
documents one after the other), `offsets.bin` (int64 [n_docs + 1]) and `meta.json` with the SHA-256
of both. They are written while texts are encoded, then mapped: memory does not grow with text.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from .messages import Ids, unpack_ids
from .tokenizer import Tokenizer
from .vocab import Progress, check_texts
from .workers import work_on

FORMAT_VERSION = 2
_FILES = ("ids.bin", "offsets.bin")
# Ids compared at a time.
_IDS_AT_A_TIME = 1 << 20

Offsets = npt.NDArray[np.int64]


class Texts(Protocol):
    """A list of texts, or what reads them anew at every pass, such as a `TextStream`."""

    def __iter__(self) -> Iterator[str]:
        """Yield the texts, the same at every pass."""

    def __len__(self) -> int:
        """Return the number of texts."""


class Corpus:
    """Documents as ids.

    Attributes:
        ids: int32 [n_tokens], all documents one after the other; read-only.
        offsets: int64 [n_docs + 1]; document i is ids[offsets[i] : offsets[i + 1]].
    """

    def __init__(self, ids: Ids, offsets: Offsets) -> None:
        self.ids = ids
        self.offsets = offsets

    @classmethod
    def build(
        cls,
        texts: Texts,
        tokenizer: Tokenizer,
        cache_dir: Path | None = None,
        *,
        processes: int | None = None,
        progress: Progress | None = None,
    ) -> Corpus:
        """Encode texts, or open what an earlier call encoded.

        Args:
            texts: one document each. With a cache they are read twice, for its key and to encode.
            tokenizer: part of the content: another tokenizer is another cache entry.
            cache_dir: directory of cached corpora; None keeps the ids in memory. An entry is named
                by the SHA-256 of texts and tokenizer; a torn or altered entry is made again.
            processes: that encode; None takes one for each core. Little text (4 M characters) is
                encoded in this process. The result is the same.
            progress: told (texts done, texts) while texts are encoded.

        Raises:
            InputError: texts is one string.
        """
        check_texts(texts)
        encoded = _encode(texts, tokenizer, processes, progress)
        if cache_dir is None:
            return cls._in_memory(list(encoded))
        entry = Path(cache_dir) / _content_key(texts, tokenizer)
        cached = cls._open(entry)
        if cached is not None:
            return cached
        entry.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=entry.parent))
        try:
            _write(partial, encoded)
            shutil.rmtree(entry, ignore_errors=True)
            try:
                os.replace(partial, entry)
            except OSError:
                # Another process finished the same entry first: its content is the same.
                if cls._open(entry) is None:
                    raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        built = cls._open(entry)
        if built is None:
            raise OSError(f"{entry}: what was just written does not read back: check the disk")
        return built

    @classmethod
    def _in_memory(cls, blocks: Sequence[tuple[Ids, Offsets]]) -> Corpus:
        lengths = [np.zeros(1, dtype=np.int64), *(lengths for _, lengths in blocks)]
        ids = [np.empty(0, dtype=np.int32), *(ids for ids, _ in blocks)]
        return cls(np.concatenate(ids), np.cumsum(np.concatenate(lengths)))

    @classmethod
    def _open(cls, entry: Path) -> Corpus | None:
        """Map a cache entry; None if there is none or its content is not what meta.json says."""
        try:
            meta = json.loads((entry / "meta.json").read_text(encoding="utf-8"))
            hashes = {name: _file_sha256(entry / name) for name in _FILES}
            if meta != {"version": FORMAT_VERSION, "sha256": hashes}:
                return None
            offsets: Offsets = np.memmap(entry / "offsets.bin", dtype="<i8", mode="r")
        except (OSError, ValueError):
            return None
        if offsets[-1] == 0:
            return cls(np.empty(0, dtype=np.int32), offsets)
        return cls(np.memmap(entry / "ids.bin", dtype="<i4", mode="r"), offsets)

    @property
    def n_tokens(self) -> int:
        """Tokens of all documents together."""
        return int(self.offsets[-1])

    def __len__(self) -> int:
        """Return the number of documents."""
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> Ids:
        """Return the ids of document i, a view."""
        if not -len(self) <= i < len(self):
            raise IndexError(f"document {i} of {len(self)}")
        i %= len(self)
        return self.ids[self.offsets[i] : self.offsets[i + 1]]

    def lengths(self) -> Offsets:
        """Return the tokens of each document, int64 [n_docs]."""
        offsets: Offsets = np.asarray(self.offsets)
        return offsets[1:] - offsets[:-1]


def check_ids(corpus: Corpus, vocab_size: int) -> None:
    """Check that a model with a vocabulary of vocab_size tokens can read a corpus.

    Raises:
        InputError: an id is negative or not in the vocabulary; it names document and token.
    """
    for start in range(0, corpus.n_tokens, _IDS_AT_A_TIME):
        ids = np.asarray(corpus.ids[start : start + _IDS_AT_A_TIME])
        if int(ids.min()) >= 0 and int(ids.max()) < vocab_size:
            continue
        i = int(np.argmax((ids < 0) | (ids >= vocab_size)))
        document = int(np.searchsorted(corpus.offsets, start + i, side="right")) - 1
        token = start + i - int(corpus.offsets[document])
        raise InputError(
            f"document {document + 1}, token {token + 1}: id {ids[i]} is not in the vocabulary of "
            f"{vocab_size}: encode the texts with the tokenizer of this model"
        )


def _encode(
    texts: Texts, tokenizer: Tokenizer, processes: int | None, progress: Progress | None
) -> Iterator[tuple[Ids, Offsets]]:
    """Yield the ids of a block of documents one after the other, and the length of each."""

    def encode_here(block: list[str]) -> tuple[Ids, Offsets]:
        documents = tokenizer.encode(block)
        lengths = np.fromiter(map(len, documents), dtype=np.int64, count=len(documents))
        return np.concatenate(documents), lengths

    def content() -> bytes:
        return json.dumps(tokenizer.content()).encode()

    n_done = 0
    for ids, lengths in work_on(texts, encode_here, (content, unpack_ids), processes):
        yield ids, lengths
        n_done += len(lengths)
        if progress is not None:
            progress(n_done, len(texts))


def _write(directory: Path, blocks: Iterable[tuple[Ids, Offsets]]) -> None:
    """Write blocks of documents as they come, then their hashes."""
    n_tokens = 0
    with (
        open(directory / "ids.bin", "wb") as ids_file,
        open(directory / "offsets.bin", "wb") as file,
    ):
        file.write(np.zeros(1, dtype="<i8").tobytes())
        for ids, lengths in blocks:
            ids_file.write(ids.astype("<i4", copy=False).tobytes())
            offsets = n_tokens + np.cumsum(lengths, dtype=np.int64)
            file.write(offsets.astype("<i8", copy=False).tobytes())
            n_tokens += len(ids)
        for written in (ids_file, file):
            written.flush()
            os.fsync(written.fileno())
    hashes = {name: _file_sha256(directory / name) for name in _FILES}
    meta = json.dumps({"version": FORMAT_VERSION, "sha256": hashes})
    (directory / "meta.json").write_text(meta, encoding="utf-8")


def _content_key(texts: Texts, tokenizer: Tokenizer) -> str:
    digest = hashlib.sha256(f"corpus {FORMAT_VERSION} {tokenizer.fingerprint()}".encode())
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return digest.hexdigest()[:32]


def _file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 16):
            digest.update(block)
    return digest.hexdigest()
