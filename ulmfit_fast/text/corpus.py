"""A corpus as one flat array of ids on disk.

Layout of a cached corpus, one directory named by the content: `ids.bin` (int32, little-endian,
documents one after the other), `offsets.npy` (int64 [n_docs + 1]) and `meta.json` with their sizes
and SHA-256. The ids are mapped, not read: slicing costs nothing and memory does not grow with text.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .tokenizer import Ids, Tokenizer

FORMAT_VERSION = 1
# Characters encoded at a time: bounds memory; larger gains nothing.
_CHARS_AT_A_TIME = 4_000_000

Offsets = npt.NDArray[np.int64]


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
        cls, texts: Sequence[str], tokenizer: Tokenizer, cache_dir: Path | None = None
    ) -> Corpus:
        """Encode texts, or open what an earlier call encoded.

        Args:
            texts: one document each.
            tokenizer: part of the content: another tokenizer is another cache entry.
            cache_dir: directory of cached corpora; None keeps the ids in memory. An entry is named
                by the SHA-256 of texts and tokenizer; a torn or altered entry is made again.
        """
        if cache_dir is None:
            parts = list(_encode(texts, tokenizer))
            return cls._in_memory(parts)
        entry = Path(cache_dir) / _content_key(texts, tokenizer)
        cached = cls._open(entry)
        if cached is not None:
            return cached
        entry.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=entry.parent))
        try:
            _write(partial, _encode(texts, tokenizer))
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
    def _in_memory(cls, documents: list[Ids]) -> Corpus:
        offsets = np.zeros(len(documents) + 1, dtype=np.int64)
        np.cumsum([len(ids) for ids in documents], out=offsets[1:])
        ids = np.concatenate(documents) if documents else np.empty(0, dtype=np.int32)
        return cls(ids, offsets)

    @classmethod
    def _open(cls, entry: Path) -> Corpus | None:
        """Map a cache entry; None if there is none or its content is not what meta.json says."""
        try:
            meta = json.loads((entry / "meta.json").read_text(encoding="utf-8"))
            hashes = {name: _file_sha256(entry / name) for name in ("ids.bin", "offsets.npy")}
            if meta != {"version": FORMAT_VERSION, "sha256": hashes}:
                return None
            offsets: Offsets = np.load(entry / "offsets.npy", allow_pickle=False)
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
        return np.diff(self.offsets)


def _encode(texts: Sequence[str], tokenizer: Tokenizer) -> Iterator[Ids]:
    """Encode in groups of about _CHARS_AT_A_TIME characters."""
    start = n_chars = 0
    for i, text in enumerate(texts):
        n_chars += len(text)
        if n_chars >= _CHARS_AT_A_TIME or i + 1 == len(texts):
            yield from tokenizer.encode(texts[start : i + 1])
            start, n_chars = i + 1, 0


def _write(directory: Path, documents: Iterator[Ids]) -> None:
    lengths = [0]
    with open(directory / "ids.bin", "wb") as file:
        for ids in documents:
            file.write(ids.astype("<i4", copy=False).tobytes())
            lengths.append(len(ids))
        file.flush()
        os.fsync(file.fileno())
    with open(directory / "offsets.npy", "wb") as file:
        np.save(file, np.cumsum(lengths, dtype=np.int64))
        file.flush()
        os.fsync(file.fileno())
    hashes = {name: _file_sha256(directory / name) for name in ("ids.bin", "offsets.npy")}
    meta = json.dumps({"version": FORMAT_VERSION, "sha256": hashes})
    (directory / "meta.json").write_text(meta, encoding="utf-8")


def _content_key(texts: Sequence[str], tokenizer: Tokenizer) -> str:
    digest = hashlib.sha256(f"corpus {FORMAT_VERSION} {tokenizer.fingerprint()}".encode())
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return digest.hexdigest()[:32]


def _file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
