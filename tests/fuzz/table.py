"""Print the table of docs/reliability.md from benchmarks/results/fuzz-*.json."""

from __future__ import annotations

import json
from pathlib import Path

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
READERS = {
    "vocabulary": "tokenizer.json, fastai's pickled vocabularies",
    "settings": "settings of a run, config.json of a model",
    "tables": "csv, tsv, json, jsonl, txt, labelled lines; encodings; packed",
    "models": "model folders, by ULMFiTTrainer.load",
    "snapshots": "checkpoints, by ULMFiTTrainer.resume",
}


def table() -> str:
    lines = [
        "| reader | inputs | seconds | edges | slowest, s | memory, MB | findings |",
        "|---|---|---|---|---|---|---|",
    ]
    for target, reader in READERS.items():
        newest = max(RESULTS.glob(f"fuzz-{target}--*.json"), default=None)
        if newest is None:
            continue
        found = json.loads(newest.read_text())
        edges = f"{found['edges_of_the_seeds']} to {found['edges']}"
        lines.append(
            f"| {reader} | {found['executions']:,} | {found['seconds']:,.0f} | {edges} | "
            f"below {found['slowest_s'] + 1} | {found['peak_rss_mb']} | {found['findings']} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
