"""Write a corpus of shards, and one pass over shards in a process of its own, that says its memory.

    python benchmarks/shard_passes.py read|count|encode FOLDER

prints a JSON object. Torch is not imported, so the memory is that of reading, not of libraries for
training. `data_pipeline.py --shards` runs this.
"""

from __future__ import annotations

import gzip
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import count, islice
from pathlib import Path

from ulmfit_fast.text import Corpus, TextStream, WordTokenizer, stream_texts, train_tokenizer
from ulmfit_fast.text.sources import find_file
from ulmfit_fast.text.workers import n_processes

#: In every round of the texts after the first, words that end so get the round's number.
ENDING = "ed "
#: Bytes of text that are held in memory to be repeated.
KEPT_BYTES = 400_000_000
#: Texts that the vocabulary of the encoding pass is made of.
VOCABULARY_TEXTS = 2_000


def texts_in_rounds(files: list[Path]) -> Iterator[str]:
    """Yield the texts of files, then the first of them again and again, varied, without end."""
    kept: list[str] = []
    n_bytes = 0
    for file in files:
        for text in stream_texts(str(file.parent / glob_of(file))) or ():
            yield text
            if n_bytes < KEPT_BYTES:
                kept.append(text)
                n_bytes += len(text)
    for number in count(1):
        for text in kept:
            yield text.replace(ENDING, f"{ENDING.strip()}{number} ")


def glob_of(file: Path) -> str:
    """Return a pattern that fits this name alone: patterns are streamed whatever their size."""
    return f"[{file.name[0]}]{file.name[1:]}"


def write_shards(folder: Path, files: list[Path], n_bytes: int, shard_bytes: int) -> list[int]:
    """Write so many bytes of text as folder/parquet and folder/jsonl, and return each shard's."""
    sizes: list[int] = []
    texts = texts_in_rounds(files)
    (folder / "parquet").mkdir(parents=True)
    (folder / "jsonl").mkdir()
    n_shards = -(-n_bytes // shard_bytes)
    for i in range(n_shards):
        if sum(sizes) >= n_bytes:
            break
        block, size = [], 0
        while size < min(shard_bytes, n_bytes - sum(sizes)):
            block.append(next(texts))
            size += len(block[-1].encode())
        name = f"train-{i:05}-of-{n_shards:05}"
        write_parquet(folder / "parquet" / f"{name}.parquet", block)
        write_jsonl(folder / "jsonl" / f"{name}.jsonl.gz", block)
        sizes.append(size)
    return sizes


def write_parquet(path: Path, texts: list[str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"text": pa.array(texts, pa.large_string()), "id": list(range(len(texts)))}
    pq.write_table(pa.table(columns), path)


def write_jsonl(path: Path, texts: Iterable[str]) -> None:
    with gzip.open(path, "wt", compresslevel=1, encoding="utf-8") as file:
        for i, text in enumerate(texts):
            file.write(json.dumps({"id": i, "text": text}, ensure_ascii=False) + "\n")


def peak_mib() -> float:
    """Return the most memory that this process has held, without what it shares before exec."""
    status = Path("/proc/self/status").read_text()
    match = re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)
    assert match is not None
    return int(match.group(1)) / 1024


def read(texts: TextStream) -> int:
    """Read every text once, as the pass does that counts texts and words."""
    return len(texts)


def count_words(texts: TextStream) -> int:
    """Make a vocabulary of all texts."""
    return len(train_tokenizer(texts, kind="word").vocab)


def encode(texts: TextStream) -> int:
    """Make the ids of all texts and write them: two passes, for the cache's key and to encode."""
    tokenizer = train_tokenizer(list(islice(texts, VOCABULARY_TEXTS)), kind="word", processes=1)
    assert isinstance(tokenizer, WordTokenizer)
    with tempfile.TemporaryDirectory(prefix="ulmfit-fast-") as cache:
        return Corpus.build(texts, tokenizer, Path(cache)).n_tokens


PASSES: dict[str, Callable[[TextStream], int]] = {
    "read": read,
    "count": count_words,
    "encode": encode,
}


def main(arguments: list[str]) -> int:
    name, folder = arguments
    texts = stream_texts(folder)
    assert texts is not None
    kind = find_file(next(Path(folder).iterdir())).format
    start_mib, start = peak_mib(), time.perf_counter()
    found = PASSES[name](texts)
    seconds = time.perf_counter() - start
    result = {
        "mode": name,
        "case": kind,
        "found": found,
        "seconds": round(seconds, 2),
        "start_mib": round(start_mib, 1),
        "peak_mib": round(peak_mib(), 1),
        "n_processes": n_processes(None) if name != "read" else 1,
    }
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
