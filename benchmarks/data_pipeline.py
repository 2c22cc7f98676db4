"""Time texts to ids, ours in one and two processes and fastai's in turns, and ids to batches.

    python benchmarks/data_pipeline.py [--text FILE] [--characters 8000000] [--rounds 15]
    python benchmarks/data_pipeline.py --shards FILE... [--gigabytes 2] [--limit 600]

writes benchmarks/results/data-pipeline--<cpu>--<yyyymmdd>.json and prints a line for each case.
The texts are those of FILE (anything that ulmfit-fast reads), else of the demo's corpus, which are
made of the docstrings of installed packages; fewer characters are repeated. A tokenizing call
begins with nothing remembered, as a run does, and starts its processes. Ours makes ids; fastai's
stops at tokens. Batches are those of LMStream, an epoch a call, from a corpus in a cache folder.

With --shards it writes the texts of FILE..., repeated with changes, as shards of parquet and of
packed jsonl into a temporary folder, and reads parts of it in processes of their own: does memory
grow with the text? The record is text-shards--<cpu>--<yyyymmdd>.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from typing import Any

import machine
import numpy as np
import shard_passes
import shard_tables
import timing
import torch
import turns
from turns import Entry

from ulmfit_fast.demo_corpus import build_demo_corpus, find_sources
from ulmfit_fast.text import Corpus, LMStream, Tokenizer, WordTokenizer, read_table, train_tokenizer
from ulmfit_fast.text.segment import cut_chunk

SCHEMA = 1
CASE = "data-pipeline"
OURS, FASTAI = "ulmfit_fast", "fastai"
BPTT = 70
STREAMS = (64, 128)
#: Tokens of the short documents that the same ids are cut into.
SHORT = 20
QUICK_CHARACTERS = 20_000
SHARDS_CASE = "text-shards"
#: Of the whole, what each pass reads; word by word a pass takes minutes for a gigabyte.
SHARES = {"read": (1 / 4, 1), "count": (1 / 16, 1 / 4), "encode": (1 / 16, 1 / 8)}
#: Reading is different in every format, what comes after it is not.
FORMATS = {"read": ("parquet", "jsonl"), "encode": ("parquet",), "count": ("parquet",)}
SHARD_SHARE = 1 / 32
#: fastai's tokens of the same texts may be so many more or fewer: it is the same work.
TOLERANCE = 0.01


def texts_of(file: Path | None, n_characters: int) -> tuple[list[str], dict[str, Any]]:
    """Return about so many characters of text, and what the record says about them."""
    if file is not None:
        found, name = read_table(file, labelled=False).texts, file.name
    else:
        found, name = build_demo_corpus(find_sources()).general, "the demo's general text"
    texts: list[str] = []
    left = n_characters
    for text in cycle(found):
        if left <= 0:
            break
        texts.append(text)
        left -= len(text)
    about = {"name": name, "n_texts": len(texts), "n_different": min(len(texts), len(found))}
    return texts, {**about, "n_characters": sum(map(len, texts))}


def tokenize(texts: list[str], vocab: list[str], processes: int) -> Corpus:
    """Encode texts with nothing remembered from before."""
    cut_chunk.cache_clear()
    return Corpus.build(texts, WordTokenizer(vocab), processes=processes)


def fastai_tokens(texts: list[str]) -> int:
    """Return the number of tokens that fastai's rules and spaCy make of texts."""
    from fastai.text.core import SpacyTokenizer, TokenizeWithRules

    return sum(map(len, TokenizeWithRules(SpacyTokenizer())(texts)))


def read_epoch(stream: LMStream) -> int:
    """Return the number of tokens of an epoch's batches."""
    return sum(x.numel() for x, _ in stream.batches(0))


def tokenizers(
    texts: list[str], tokenizer: Tokenizer
) -> tuple[dict[Entry, Callable[[], object]], dict[Entry, int], list[dict[str, str]]]:
    """Return calls that tokenize, the tokens each makes, and what is left out and why."""
    entry, n_tokens = (FASTAI, "1 process"), Corpus.build(texts, tokenizer, processes=1).n_tokens
    calls: dict[Entry, Callable[[], object]] = {
        (OURS, "1 process"): lambda: tokenize(texts, tokenizer.vocab, 1),
        (OURS, "2 processes"): lambda: tokenize(texts, tokenizer.vocab, 2),
    }
    tokens = dict.fromkeys(calls, n_tokens)
    if find_spec("fastai") is None or find_spec("spacy") is None:
        return calls, tokens, [{"case": " ".join(entry), "reason": "fastai is not installed"}]
    found = fastai_tokens(texts)
    if abs(found - n_tokens) > TOLERANCE * n_tokens:
        reason = f"other work: {found} tokens, ours {n_tokens}"
        return calls, tokens, [{"case": " ".join(entry), "reason": reason}]
    return {**calls, entry: lambda: fastai_tokens(texts)}, {**tokens, entry: found}, []


def streams(corpus: Corpus) -> tuple[dict[Entry, Callable[[], object]], dict[Entry, int]]:
    """Return calls that read an epoch of batches, and the tokens of each."""
    n = corpus.n_tokens
    short = Corpus(corpus.ids, np.append(np.arange(0, n, SHORT), n).astype(np.int64))
    calls: dict[Entry, Callable[[], object]] = {}
    tokens = {}
    for name, documents in (("whole documents", corpus), (f"documents of {SHORT} tokens", short)):
        for B in STREAMS:
            stream = LMStream(documents, B, BPTT, seed=0, variable=True)
            calls[OURS, f"B {B}, {name}"] = lambda stream=stream: read_epoch(stream)
            tokens[OURS, f"B {B}, {name}"] = read_epoch(stream)
    return calls, tokens


def case_record(mode: str, entry: Entry, n_tokens: int, times_ms: list[float]) -> dict[str, Any]:
    """Return what the record says about one call."""
    rates = timing.summary([1e3 * n_tokens / time for time in times_ms])
    named = {"op": "text", "mode": mode, "impl": entry[0], "case": entry[1], "n_tokens": n_tokens}
    return {**named, "tokens_per_s": rates, **turns.times_record(times_ms)}


def compare(file: Path | None, n_characters: int, rounds: int) -> dict[str, Any]:
    """Return the record of a run."""
    torch.set_num_threads(1)
    info: dict[str, Any] = machine.describe("cpu")
    peers = [name for name in ("fastai", "spacy") if find_spec(name) is not None]
    info["versions"] = {name: version(name) for name in ("numpy", *peers)}
    texts, about = texts_of(file, n_characters)
    tokenizer = train_tokenizer(texts)
    calls, tokens, left_out = tokenizers(texts, tokenizer)
    times = turns.measure(calls, rounds, "cpu")
    cases = [case_record("tokenize", e, tokens[e], times_ms) for e, times_ms in times.items()]
    pairs = [(ours, peer) for ours in calls for peer in calls if ours[0] == OURS != peer[0]]
    ratios = turns.ratios(pairs, times)
    with tempfile.TemporaryDirectory(prefix="ulmfit-fast-") as cache:
        calls, tokens = streams(Corpus.build(texts, tokenizer, Path(cache)))
        times = turns.measure(calls, rounds, "cpu")
        del calls  # they map the cached files
    cases += [case_record("batches", e, tokens[e], times_ms) for e, times_ms in times.items()]
    parts = {"cases": cases, "ratios": ratios, "left_out": left_out}
    return {"schema": SCHEMA, **machine.origin(f"python benchmarks/{Path(__file__).name}"),
            "machine": info, "text": about, **parts}  # fmt: skip


def measure_shards(files: list[Path], n_bytes: int, limit_s: float) -> dict[str, Any]:
    """Return the record of passes over shards with so many bytes of text.

    A pass that takes longer than the limit is left out.
    """
    torch.set_num_threads(1)
    info: dict[str, Any] = machine.describe("cpu")
    info["versions"] = {name: version(name) for name in ("numpy", "pyarrow")}
    cases, left_out = [], []
    with tempfile.TemporaryDirectory(prefix="ulmfit-fast-") as made:
        whole = Path(made) / "whole"
        sizes = shard_passes.write_shards(whole, files, n_bytes, int(SHARD_SHARE * n_bytes))
        for mode, shares in SHARES.items():
            for kind in FORMATS[mode]:
                for share in shares:
                    n = round(share * len(sizes))
                    part = Path(made) / f"{mode}-{kind}-{n}"
                    part.mkdir()
                    for file in sorted((whole / kind).iterdir())[:n]:
                        (part / file.name).symlink_to(file)
                    size = sum(sizes[:n])
                    try:
                        found = one_pass(mode, part, limit_s)
                    except subprocess.TimeoutExpired:
                        name = f"{mode} {kind}, {size / 1e9:.3g} GB"
                        left_out.append({"case": name, "reason": f"more than {limit_s:g} s"})
                        continue
                    rate = size / 1e6 / found["seconds"]
                    about = {"op": "shards", "impl": OURS, "gb": size / 1e9, "mb_per_s": rate}
                    cases.append({**found, **about})
                    sys.stderr.write(shard_tables.lines({"cases": cases[-1:]})[0] + "\n")
    names = ", ".join(file.name for file in files)
    text = {"name": names, "n_shards": len(sizes), "gb": sum(sizes) / 1e9}
    return {"schema": SCHEMA, **machine.origin(f"python benchmarks/{Path(__file__).name}"),
            "machine": info, "text": text, "cases": cases, "left_out": left_out}  # fmt: skip


def one_pass(mode: str, folder: Path, limit_s: float | None = None) -> dict[str, Any]:
    """Return what a process says of its pass over a folder."""
    command = [sys.executable, shard_passes.__file__, mode, str(folder)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit_s)
    if ran.returncode:
        raise RuntimeError(ran.stderr)
    result: dict[str, Any] = json.loads(ran.stdout)
    return result


def lines(record: dict[str, Any]) -> list[str]:
    """Return what a reader of the terminal wants to know of a record."""
    texts = []
    for case in record["cases"]:
        rate = {name: value / 1e6 for name, value in case["tokens_per_s"].items()}
        spread = f"({rate['p20']:.3f} to {rate['p80']:.3f})"
        name = f"{case['mode']} {case['impl']} {case['case']}"
        texts.append(f"{name:56} {rate['p50']:9.3f} M tokens/s {spread}")
    return texts + turns.lines_of_ratios(record)


def main(arguments: list[str] | None = None) -> int:
    parser: argparse.ArgumentParser = turns.parser("Time texts to ids and ids to batches.")
    parser.add_argument("--text", type=Path, help="file of texts; default: the demo's corpus")
    parser.add_argument("--characters", type=int, default=8_000_000)
    parser.add_argument("--shards", type=Path, nargs="+", metavar="FILE", help="texts of shards")
    parser.add_argument("--gigabytes", type=float, default=2.0, help="of text in shards")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds a pass over shards")
    options = parser.parse_args(arguments)
    if options.shards:
        n_bytes = 10 * QUICK_CHARACTERS if options.quick else int(1e9 * options.gigabytes)
        record = measure_shards(options.shards, n_bytes, options.limit)
        record["quick"] = options.quick
        turns.finish(record, shard_tables.lines(record), SHARDS_CASE, options)
        return 0
    rounds = turns.QUICK_ROUNDS if options.quick else options.rounds
    record = compare(
        options.text, QUICK_CHARACTERS if options.quick else options.characters, rounds
    )
    turns.finish({**record, "quick": options.quick}, lines(record), CASE, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
