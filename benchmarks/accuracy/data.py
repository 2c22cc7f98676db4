"""The data sets as lists of texts and labels, read from the packed files of one folder.

Nothing is changed but what the sets' own traps ask for: see each reader.
"""

from __future__ import annotations

import csv
import hashlib
import html
import io
import lzma
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ulmfit_fast.errors import InputError

AG_CLASSES = {"1": "World", "2": "Sports", "3": "Business", "4": "Sci/Tech"}
WIKI_PARTS = ("AA", "AB", "AC", "AD")
EXCLUDED = "EXCLUDE_for_wikitext_eval.txt"
_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
#: What is left of "&#39;" in AG News.
_ENTITY = re.compile(r" ?&?#(\d+);")
_DOC = re.compile(r'<doc id="(\d+)" url="[^"]*" title="(.*)">')


@dataclass(frozen=True)
class Labelled:
    """Texts, and a class name for each."""

    texts: list[str]
    labels: list[str]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Sequence[int]) -> Labelled:
        """Return the rows with these numbers, in their order."""
        return Labelled([self.texts[i] for i in rows], [self.labels[i] for i in rows])


@dataclass(frozen=True)
class Dataset:
    """A classification data set.

    Attributes:
        name: of the task.
        train: all training rows that are there.
        test: the official test set.
        unlabelled: further texts for the language model; none of them is a test text.
        notes: facts about the data that a reader of a figure should know.
    """

    name: str
    train: Labelled
    test: Labelled
    unlabelled: list[str]
    notes: dict[str, int]


def read_text(folder: Path, name: str, encoding: str = "utf-8") -> str:
    """Read a packed or plain text file.

    Raises:
        InputError: no such file, or it is not what its name says.
    """
    packed, plain = folder / f"{name}.xz", folder / name
    try:
        content = lzma.decompress(packed.read_bytes()) if packed.is_file() else plain.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{plain}: no such file (nor {packed.name}): check --data") from None
    except lzma.LZMAError as error:
        raise InputError(f"{packed}: not readable, copy it again: {error}") from error
    return content.decode(encoding)


def sha256_of(*parts: Sequence[str]) -> str:
    """Return a hash of lists of texts."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)}|".encode())
        for text in part:
            content = text.encode("utf-8", "surrogatepass")
            digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()


def read_trec(folder: Path) -> Dataset:
    """Read TREC-6: latin-1, one byte of it odd, the class before the colon."""

    def rows(name: str) -> Labelled:
        lines = read_text(folder, name, "latin-1").splitlines()
        pairs = [line.partition(" ") for line in lines if line.strip()]
        return Labelled([text for _, _, text in pairs], [p[0].partition(":")[0] for p in pairs])

    return dataset("trec", rows("trec_train_5500.label"), rows("trec_TREC_10.label"), [])


def read_imdb(folder: Path) -> Dataset:
    """Read IMDb: breaks become spaces; unlabelled texts that are also test texts are dropped."""

    def table(name: str) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO(read_text(folder, name))))

    def labelled(name: str) -> Labelled:
        rows = table(name)
        return Labelled([without_breaks(r["text"]) for r in rows], [r["label"] for r in rows])

    train, test = labelled("imdb_train.csv"), labelled("imdb_test.csv")
    unlabelled = [without_breaks(row["text"]) for row in table("imdb_unsup.csv")]
    return dataset("imdb", train, test, unlabelled)


def read_ag(folder: Path) -> Dataset:
    """Read AG News: 20,000 training rows with a header, the test rows without; entities undone."""

    def rows(name: str, has_header: bool) -> Labelled:
        found = list(csv.reader(io.StringIO(read_text(folder, name))))[int(has_header) :]
        texts = [_ENTITY.sub(r"&#\1;", f"{title} {body}") for _, title, body in found]
        plain = [html.unescape(text).replace("\\", " ") for text in texts]
        return Labelled(plain, [AG_CLASSES[row[0]] for row in found])

    train = rows("ag_news_train_20k.csv", True)
    return dataset("ag", train, rows("ag_news_test.csv", False), [])


READERS = {"trec": read_trec, "imdb": read_imdb, "ag": read_ag}


def dataset(name: str, train: Labelled, test: Labelled, unlabelled: list[str]) -> Dataset:
    """Drop unlabelled test texts, and count what train and test share."""
    tested = set(test.texts)
    kept = [text for text in unlabelled if text not in tested]
    notes = {
        "n_train": len(train),
        "n_test": len(test),
        "n_unlabelled": len(kept),
        "n_unlabelled_dropped_as_test": len(unlabelled) - len(kept),
        "n_test_texts_also_in_train": len(tested & set(train.texts)),
    }
    return Dataset(name, train, test, kept, notes)


def without_breaks(text: str) -> str:
    """Replace HTML's line breaks by spaces."""
    return _BREAK.sub(" ", text)


def excluded_ids(folder: Path) -> set[str]:
    """Return the ids of articles that overlap WikiText's validation and test parts."""
    lines = read_text(folder, EXCLUDED).splitlines()
    return {line.split("\t")[0].strip() for line in lines if line.strip() and line[0] != "#"}


def wiki_articles(folder: Path, parts: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield (id, text) of the articles of the parts, without the excluded ones; the title goes.

    Raises:
        InputError: a part is missing.
    """
    excluded = excluded_ids(folder)
    for part in parts:
        number, lines = "", list[str]()
        for line in read_text(folder, f"wiki-en-2015.{part}.txt").split("\n"):
            if match := _DOC.fullmatch(line):
                number, lines = match[1], []
            elif line == "</doc>":
                text = "\n".join(lines[1:]).strip()  # the first line is the title again
                if text and number not in excluded:
                    yield number, text
            else:
                lines.append(line)


def reversed_words(text: str) -> str:
    """Return a text with its words between spaces in the opposite order, for the backward model."""
    return " ".join(reversed(text.split()))
