"""The table of a server under load."""

from __future__ import annotations

from typing import Any

HOW = (
    "{clients} clients at once, {seconds:.0f} s for each server, in turns; a good request has 1 to "
    "8 texts, one request in five is bad, in 21 ways. Times are those of good requests, as the "
    "clients see them, who share the processor. Unexpected: answers that differ from "
    "ULMFiTTrainer.predict, have another status than their request must have, or did not come. "
    "Growth: of the server's memory, open files and threads, from the second third of the readings "
    "to the last."
)


def of_load(record: dict[str, Any]) -> list[str]:
    """Return a table with a line for each server.

    Args:
        record: of serve_load.
    """
    columns = ["server", "model", "requests/s", "texts/s", "p50, ms", "p99, ms"]
    columns += ["answers", "unexpected", "growth: MiB, files, threads"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for case in record["cases"]:
        growth = case["growth"]
        grown = [f"{growth[name]:.3g}" for name in ("mib", "files", "threads") if name in growth]
        n_answers = sum(case["statuses"].values())
        cells = [case["impl"], case["case"], f"{case['requests_per_s']:.0f}"]
        cells += [f"{case['texts_per_s']:.0f}", f"{case['time_ms']['p50']:.0f}"]
        cells += [f"{case['p99_ms']:.0f}", f"{n_answers:,}", f"{case['n_unexpected']}"]
        lines.append(f"| {' | '.join([*cells, ', '.join(grown) or '–'])} |")
    first = record["cases"][0]
    return [*lines, "", HOW.format(clients=first["n_clients"], seconds=first["seconds"])]
