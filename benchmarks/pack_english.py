"""Put a trained language model into the package as its model "english", with figures and a card.

    python benchmarks/pack_english.py MODEL --data ../shared/data --log train.jsonl [--parts AA,AB]

packs MODEL, the folder of a language model, into ulmfit_fast/pretrained/english, measures it there
and as it was on articles that no part of the training had, fills english/MODEL_CARD.md from
benchmarks/english_card.md, and writes benchmarks/results/accuracy/english--<yyyymmdd>.json.

The data are wiki-en-2015.<part>.txt.xz: articles as <doc id= url= title=> ... </doc>. Those that
EXCLUDE_for_wikitext_eval.txt names are left out; the last 80 of part AD are held out.
"""

from __future__ import annotations

import argparse
import json
import lzma
import math
import re
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import machine
import torch

from ulmfit_fast import ULMFiTTrainer, pretrained
from ulmfit_fast.training.checkpoint import WEIGHTS
from ulmfit_fast.training.documents import token_streams
from ulmfit_fast.training.packing import PACKINGS, pack
from ulmfit_fast.training.tasks import LanguageModelTask

CARD = Path(__file__).parent / "english_card.md"
RESULTS = Path(__file__).parent / "results" / "accuracy"
PACKING = "int8"
LARGEST_BYTES = 16 * 2**20
HELD_OUT_PART, N_HELD_OUT = "AD", 80
DOCUMENT = re.compile(r'<doc id="(\d+)"')


def articles(data: Path, part: str) -> Iterator[str]:
    """Yield the articles of a part, without those that stand in WikiText's evaluation sets."""
    lines = (data / "EXCLUDE_for_wikitext_eval.txt").read_text().splitlines()
    excluded = {line.split("\t")[0] for line in lines if not line.startswith("#")}
    text: list[str] = []
    is_kept = False
    with lzma.open(data / f"wiki-en-2015.{part}.txt.xz", "rt", encoding="utf-8") as file:
        for line in file:
            if line.startswith("<doc "):
                found = DOCUMENT.match(line)
                is_kept, text = found is not None and found.group(1) not in excluded, []
            elif line.startswith("</doc>"):
                if is_kept and "".join(text).strip():
                    yield "".join(text).strip()
                is_kept = False
            elif is_kept:
                text.append(line)


def measure(folder: Path, texts: list[str]) -> dict[str, float]:
    """Return what a language model's folder is worth on texts: nats, perplexities, accuracy."""
    trainer = ULMFiTTrainer.load(folder, device="cpu")
    model, tokenizer = trainer.language_model, trainer.tokenizer
    if model is None or tokenizer is None or tokenizer.kind != "subword":
        sys.exit(f"{folder}: give the folder of a subword language model")
    config = trainer.config.with_stage("language_model", batch_size=64)
    train, valid = token_streams(tokenizer, texts[:2], texts, "language_model", config)
    found = LanguageModelTask(model, train, valid, config, "language_model").validate()
    n_tokens = sum(len(ids) for ids in tokenizer.encode(texts))
    n_words = sum(len(text.split()) for text in texts)
    return {
        **{name: float(value) for name, value in found.items()},
        "perplexity_a_word": math.exp(float(found["valid_loss"]) * n_tokens / n_words),
        "tokens_a_word": n_tokens / n_words,
    }


def steps_of(logs: list[Path]) -> dict[str, float]:
    """Return steps and tokens of the runs that logs are of, as they followed each other."""
    steps: dict[tuple[Path, int], int] = {}
    for log in logs:
        for line in log.read_text().splitlines():
            event = json.loads(line)
            if event["event"] == "step":
                steps[log, event["step"]] = event["n_tokens"]
    return {"steps": len(steps), "tokens": sum(steps.values())}


def sizes_of(folder: Path) -> dict[str, int]:
    """Return the bytes of a model's weights in each form."""
    trainer = ULMFiTTrainer.load(folder, device="cpu")
    assert trainer.language_model is not None
    sizes = {}
    with tempfile.TemporaryDirectory() as made:
        trainer.save(Path(made) / "m")
        sizes["float32"] = (Path(made) / "m" / WEIGHTS).stat().st_size
    for packing in PACKINGS:
        stream, n_bytes = pack(trainer.language_model.state_dict(), packing)
        sizes |= {packing: n_bytes, f"{packing}_xz": len(stream)}
    return sizes


def card(record: dict[str, Any]) -> str:
    """Return the model card with a record's figures."""
    whole, packed, sizes = record["whole"], record["packed"], record["bytes"]
    values = {
        "articles": f"{record['n_articles']:,}",
        "words": f"{record['n_words'] / 1e6:.1f}",
        "parts": ("part " if len(record["parts"]) == 1 else "parts ") + ", ".join(record["parts"]),
        "before": record["before"],
        "steps": f"{record['steps']:,}",
        "tokens": f"{record['tokens'] / 1e6:.1f}",
        "parameters": f"{record['n_parameters'] / 1e6:.2f}",
        "vocabulary": f"{record['vocabulary']:,}",
        "lr": f"{record['lr']:g}",
        "batch": f"{record['batch_size']} x {record['bptt']}",
        "perplexity": f"{packed['perplexity']:.2f}",
        "perplexity_whole": f"{whole['perplexity']:.2f}",
        "perplexity_a_word": f"{packed['perplexity_a_word']:.1f}",
        "accuracy": f"{100 * packed['accuracy']:.1f}",
        "mb": f"{sizes[f'{PACKING}_xz'] / 1e6:.2f}",
        "mb_whole": f"{sizes['float32'] / 1e6:.1f}",
        "date": record["date"],
    }
    text = CARD.read_text(encoding="utf-8")
    for name, value in values.items():
        text = text.replace(f"<{name}>", value)
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--log", type=Path, action="append", default=[], required=True)
    parser.add_argument("--parts", default="AA,AB,AC,AD", help="that the training went through")
    parser.add_argument("--before", default="", help="a sentence on what it saw before these")
    options = parser.parse_args()
    torch.set_num_threads(1)
    held_out = list(articles(options.data, HELD_OUT_PART))[-N_HELD_OUT:]
    parts = options.parts.split(",")
    seen = [text for part in parts for text in articles(options.data, part)]
    if HELD_OUT_PART in parts:
        seen = [text for text in seen if text not in set(held_out)]
    whole = measure(options.model, held_out)
    trainer = ULMFiTTrainer.load(options.model, device="cpu")
    model, tokenizer = trainer.language_model, trainer.tokenizer
    assert model is not None
    assert tokenizer is not None
    place = pretrained.folder("english")
    trainer.save(place, "language_model", overwrite=True, packing=PACKING)
    record = {
        "schema": 1, "case": "english", **machine.origin("python benchmarks/pack_english.py"),
        "command": f"python benchmarks/pack_english.py MODEL --data DATA --parts {options.parts}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"), "machine": machine.describe("cpu"),
        "parts": parts, "before": options.before, "n_articles": len(seen),
        "n_words": sum(len(text.split()) for text in seen),
        **steps_of(options.log), "n_parameters": sum(p.numel() for p in model.parameters()),
        "vocabulary": len(tokenizer.vocab), "lr": trainer.config.pretrain.lr,
        "batch_size": trainer.config.pretrain.batch_size, "bptt": trainer.config.bptt,
        "config": trainer.config.to_dict(), "n_held_out": len(held_out),
        "whole": whole, "packed": measure(place, held_out), "bytes": sizes_of(options.model),
        "bytes_of_folder": sum(f.stat().st_size for f in place.iterdir()),
    }  # fmt: skip
    (place / "MODEL_CARD.md").write_text(card(record), encoding="utf-8")
    if sum(file.stat().st_size for file in place.iterdir()) > LARGEST_BYTES:
        sys.exit(f"{place}: more than {LARGEST_BYTES:,} bytes")
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"english--{record['date'].replace('-', '')}.json"
    path.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    sys.stdout.write(f"{place}\n{path}\n")
    for name in ("whole", "packed", "bytes", "bytes_of_folder"):
        sys.stdout.write(f"{name}: {json.dumps(record[name])}\n")


if __name__ == "__main__":
    main()
