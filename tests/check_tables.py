"""Time `check` and its memory: on tables given, and on a made one of as many rows as asked for.

    python tests/check_tables.py [--rows 120000] [--words 40] [FILE ...]

prints a line for each table: rows, megabytes of text, seconds of the processor to read and to
check, most memory in megabytes, and how many findings of which kind. Each table has a process of
its own.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from planted import sentence

MEASURE = """
import json, resource, sys, time
from ulmfit_fast.check import Tables, find_problems, summarize
from ulmfit_fast.text import read_table
start = time.process_time()
table = read_table(sys.argv[1], labelled=True)
read = time.process_time()
tables = Tables(table)
findings = find_problems(tables)
summarize(tables)
print(json.dumps({
    "rows": len(table.texts), "text_mb": sum(map(len, table.texts)) / 1e6,
    "read_s": read - start, "check_s": time.process_time() - read,
    "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    "findings": {finding.name: finding.n for finding in findings},
}))
"""


def write_table(path: Path, n_rows: int, n_words: int) -> None:
    """Write texts of two classes with nothing to find in them, as csv."""
    draw = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        file.write("text,label\n")
        for _ in range(n_rows):
            text = sentence(draw, "English", n_words).replace(",", "")
            file.write(f"{text},{draw.choice(('pos', 'neg'))}\n")


def measure(path: Path | str) -> str:
    """Return the line of a table."""
    ran = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True
    )
    found = json.loads(ran.stdout)
    findings = ", ".join(f"{name} {n:,}" for name, n in found["findings"].items()) or "none"
    return (
        f"{Path(path).name}: {found['rows']:,} rows, {found['text_mb']:.1f} MB of text: read in "
        f"{found['read_s']:.1f} s, checked in {found['check_s']:.1f} s, {found['memory_mb']:,.0f} "
        f"MB of memory; findings: {findings}"
    )


def main(arguments: list[str] | None = None) -> None:
    """Print a line for each table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("files", nargs="*", metavar="FILE")
    parser.add_argument("--rows", type=int, default=120_000)
    parser.add_argument("--words", type=int, default=40)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "made.csv"
        write_table(made, options.rows, options.words)
        for path in (made, *options.files):
            sys.stdout.write(measure(path) + "\n")


if __name__ == "__main__":
    main()
