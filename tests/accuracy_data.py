"""Small files in the formats of the accuracy benchmarks' data, with their traps."""

from __future__ import annotations

import csv
import lzma
import random
from pathlib import Path

NOUNS = {
    "HUM": ["who wrote", "who sang", "name the man"],
    "LOC": ["where lies", "what city has", "in which land is"],
    "NUM": ["how many", "how much", "when was"],
}
THINGS = ["the river", "a hammer", "the old horse", "that song", "the king", "a big ship"]
REVIEWS = {"neg": ["awful", "boring", "a waste"], "pos": ["great", "lovely", "a joy"]}
TOPICS = {"1": "war", "2": "match", "3": "market", "4": "chip"}


def write(folder: Path, name: str, text: str, encoding: str = "utf-8") -> None:
    (folder / f"{name}.xz").write_bytes(lzma.compress(text.encode(encoding)))


def questions(rng: random.Random, n: int, first: int = 0) -> str:
    rows = []
    for i in range(first, first + n):
        label = rng.choice(list(NOUNS))
        words = f"{rng.choice(NOUNS[label])} {rng.choice(THINGS)} {i}"
        rows.append(f"{label}:x {words} ?")
    return "\n".join(rows) + "\n"


def review(rng: random.Random, label: str) -> str:
    words = [rng.choice(THINGS) for _ in range(rng.randint(2, 8))]
    return f"It is {rng.choice(REVIEWS[label])} .<br /><br />With {' and '.join(words)}"


def write_imdb(folder: Path, rng: random.Random, n: int) -> None:
    tests = []
    for part in ("train", "test"):
        with open(folder / f"imdb_{part}.csv", "w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["label", "id", "rating", "text"])
            for label in REVIEWS:  # sorted by label, as the real ones
                for i in range(n // 2):
                    text = f"{review(rng, label)} {part} {i}"
                    rows.writerow([label, i, 1, text])
                    tests += [text] * (part == "test")
    with open(folder / "imdb_unsup.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "text"])
        for i, text in enumerate([tests[0], *(review(rng, "pos") for _ in range(9))]):
            rows.writerow([i, text])


def write_ag(folder: Path, rng: random.Random, n: int) -> None:
    for name, n_rows in (("ag_news_train_20k.csv", n), ("ag_news_test.csv", n // 2)):
        with open(folder / name, "w", newline="") as file:
            rows = csv.writer(file)
            if "train" in name:
                rows.writerow(["class_index", "title", "description"])
            for i in range(n_rows):
                number = rng.choice(list(TOPICS))
                body = f"America #39;s {TOPICS[number]} costs  #36;{i}\\more; song #1 leads"
                rows.writerow([number, f"The {TOPICS[number]}", body])


def write_wiki(folder: Path, rng: random.Random, n: int) -> None:
    articles = []
    for i in range(n):
        words = " ".join(rng.choice(THINGS) for _ in range(30))
        text = f"Title {i}\n\nTitle {i} is {words} .\nThe end of {i}"
        head = f'<doc id="{i}" url="http://en.wikipedia.org/wiki?curid={i}" title="Title {i}">'
        articles.append(f"{head}\n{text}\n</doc>\n")
    write(folder, "wiki-en-2015.AA.txt", "".join(articles))
    (folder / "EXCLUDE_for_wikitext_eval.txt").write_text("# id\ttitle\n3\tTitle 3\ttest\n7\tx\n")


def wikitext(rng: random.Random, n: int) -> str:
    lines = [" ", " = The first = ", " "]
    for i in range(n):
        if i == n // 2:
            lines += [" ", " = The second = ", " ", " = = A part = = ", " "]
        words = " ".join(rng.choice(THINGS) for _ in range(6))
        lines.append(f" The <unk> , a 60 @-@ year ( old ) man 's {words} . ")
    return "\n".join(lines) + "\n"


def make_data(folder: Path, n: int = 120) -> Path:
    """Write every file that the benchmarks read."""
    rng = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    write(folder, "trec_train_5500.label", questions(rng, n) + "HUM:x \xf0 same\n" * 2, "latin-1")
    write(folder, "trec_TREC_10.label", questions(rng, 50, n), "latin-1")
    write_imdb(folder, rng, n)
    write_ag(folder, rng, n)
    write_wiki(folder, rng, 40)
    for part, n_lines in (("train", 60), ("valid", 20), ("test", 20)):
        write(folder, f"wikitext-2_{part}.txt", wikitext(rng, n_lines))
        (folder / f"ptb.{part}.txt").write_text(wikitext(rng, n_lines))
    return folder
