"""Two thousand lines of real text, 500 of each set, always the same."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

from ulmfit_fast.text import read_table

N_LINES_EACH = 500
FILES = (
    "imdb_train.csv.xz",
    "trec_train_5500.label.xz",
    "ag_news_test.csv.xz",
    "wikitext-2_valid.txt.xz",
)


@cache
def real_lines(folder: Path) -> list[str]:
    """Draw the lines; the IMDb ones hold `<br />`, the AG ones two fields with `xxfld`."""
    lines: list[str] = []
    for name in FILES:
        encoding = "latin-1" if name.startswith("trec") else None
        texts = read_table(folder / name, encoding=encoding).texts
        lines += random.Random(0).sample(texts, N_LINES_EACH)
    return lines
