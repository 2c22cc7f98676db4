"""The table of the benchmark report on texts in shards."""

from __future__ import annotations

from typing import Any

NAMES = {
    "read": "read every text once",
    "count": "count words for a vocabulary",
    "encode": "make and store ids (two passes)",
}


def of_shards(record: dict[str, Any]) -> list[str]:
    """Return lines with memory and speed of each pass, and what was read."""
    lines = [
        "| pass | shards | text, GB | processes | peak memory, MiB | before the pass, MiB | MB/s |",
        "|---|---|---|---|---|---|---|",
    ]
    for case in record["cases"]:
        lines.append(
            f"| {NAMES[case['mode']]} | {case['case']} | {case['gb']:.3g} | {case['n_processes']} "
            f"| {case['peak_mib']:.0f} | {case['start_mib']:.0f} | {case['mb_per_s']:.3g} |"
        )
    text = record["text"]
    return [
        *lines,
        "",
        f"{text['n_shards']} shards of {text['name']}, {text['gb']:.3g} GB of text, repeated with "
        "changed words; memory is that of the process that reads, those that it starts to "
        f"tokenize beside it; one run each. `{record['command']}`",
    ]


def lines(record: dict[str, Any]) -> list[str]:
    """Return what a reader of the terminal wants to know of a record."""
    return [
        f"{case['mode']:7} {case['case']:8} {case['gb']:6.3g} GB {case['peak_mib']:7.0f} MiB "
        f"{case['mb_per_s']:7.3g} MB/s"
        for case in record["cases"]
    ]
