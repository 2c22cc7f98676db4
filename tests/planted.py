"""Clean tables of texts and labels, and one fault each to plant into them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ulmfit_fast.check import Tables
from ulmfit_fast.text import read_table

Row = tuple[str | None, str | None]  # text, label

WORDS = {
    "English": "the a this film story actor scene music was is had told seemed felt and but "
    "because while slow bright quiet early strange warm never always often nearly twice we they "
    "nobody critic audience ending camera city winter letter train garden won't it's co-star 1999",
    "German": "der die das ein Film war ist hatte schien und aber weil während langsam hell leise "
    "früh seltsam warm nie immer oft beinahe zweimal wir sie niemand Kritiker Publikum Ende Straße "
    "Größe Übung Brief Zug Garten Wände Mühe schön",
    "French": "le la un une film était est avait semblait et mais parce que lent clair calme tôt "
    "étrange jamais toujours souvent presque nous elles personne critique public fin ville hiver "
    "lettre jardin où ça déjà âge cœur garçon l'été",
    "Russian": "этот фильм был есть казалось и но потому что пока медленный яркий тихий ранний "
    "странный тёплый никогда всегда часто почти дважды мы они никто критик публика конец город "
    "зима письмо поезд сад",
    "Hindi": "यह फ़िल्म थी है और लेकिन क्योंकि धीमी उज्ज्वल शांत जल्दी अजीब गर्म कभी हमेशा अक्सर "
    "लगभग दो बार हम वे कोई नहीं आलोचक दर्शक अंत शहर सर्दी पत्र रेल बाग़ कहानी",
}
MARKS = (".", "!", "?", ", indeed.", " 🙂", " (yes)", "...")
LABELS = (("pos", "neg"), ("1", "2", "3", "4", "5"), ("-1", "0", "1"),
          ("sport", "world news", "sci/tech", "business"), ("C", "C++", "C#"))  # fmt: skip


def sentence(draw: random.Random, language: str, n_words: int) -> str:
    words = draw.choices(WORDS[language].split(), k=n_words)
    return " ".join([words[0].capitalize(), *words[1:]]) + draw.choice(MARKS)


@dataclass
class Data:
    """The rows of a run's files; lines of a file are counted from 1."""

    train: list[Row]
    valid: list[Row] = field(default_factory=list)
    test: list[Row] = field(default_factory=list)

    def read(self, folder: Path) -> Tables:
        """Write the files and read them."""
        paths = {}
        for name in ("train", "valid", "test"):
            rows = getattr(self, name)
            if rows:
                paths[name] = folder / f"{name}.jsonl"
                lines = (json.dumps({"text": text, "label": label}) for text, label in rows)
                paths[name].write_text("\n".join(lines) + "\n")
        return Tables(
            **{name: read_table(path, labelled=True) for name, path in paths.items()}
        )  # fmt: skip


def clean(
    seed: int = 0,
    *,
    language: str = "English",
    labels: tuple[str, ...] = LABELS[0],
    rows_a_class: tuple[int, int] = (60, 60),
    n_words: tuple[int, int] = (8, 30),
) -> Data:
    """Return rows in which there is nothing to find."""
    draw = random.Random(seed)

    def rows(least: int, most: int) -> list[Row]:
        found: list[Row] = [
            (sentence(draw, language, draw.randint(*n_words)), label)
            for label in labels
            for _ in range(draw.randint(least, most))
        ]
        draw.shuffle(found)
        return found

    return Data(rows(*rows_a_class), rows(12, 12), rows(12, 12))


@dataclass(frozen=True)
class Plant:
    """A fault.

    Attributes:
        name: of the finding that it must give.
        severity: of it.
        n: rows, or classes, that it must count.
        row: of the first example; None for any.
        into: plants it.
    """

    name: str
    severity: str
    n: int
    row: int | None
    into: Callable[[Data], None]


def _set(index: int, text: str | None = None, label: str | None = None) -> Callable[[Data], None]:
    def into(data: Data) -> None:
        old_text, old_label = data.train[index]
        data.train[index] = (old_text if text is None else text, label or old_label)

    return into


def _texts(change: Callable[[int, str, str], str], start: int = 0) -> Callable[[Data], None]:
    def into(data: Data) -> None:
        data.train[start:] = [
            (change(i, text or "", label or ""), label)
            for i, (text, label) in enumerate(data.train[start:])
        ]

    return into


def _labels(change: Callable[[int, str], str]) -> Callable[[Data], None]:
    def into(data: Data) -> None:
        data.train = [(t, change(i, label or "")) for i, (t, label) in enumerate(data.train)]
        data.valid, data.test = [], []

    return into


def _insert(text: str, at: int = 7) -> Callable[[Data], None]:
    def into(data: Data) -> None:
        old, label = data.train[5]
        data.train[5] = (f"{(old or '')[:at]}{text}{(old or '')[at:]}", label)

    return into


def _shouted(text: str | None) -> str:
    return f"  {(text or '').upper().replace(' ', '  ')}"


def _repeat(data: Data) -> None:
    data.train += [data.train[1], (_shouted(data.train[2][0]), data.train[2][1])]


def _conflict(data: Data) -> None:
    text, label = data.train[3]
    data.train.append((text, "neg" if label == "pos" else "pos"))


def _leak(source: str, target: str) -> Callable[[Data], None]:
    def into(data: Data) -> None:
        text, label = getattr(data, source)[4]
        getattr(data, target)[6] = (_shouted(text), label)

    return into


def _rare(data: Data) -> None:
    draw = random.Random(1)
    for place in (10, 50, 90):
        data.train.insert(place, (sentence(draw, "English", 12), "rare"))
    data.valid.append((sentence(draw, "English", 12), "rare"))
    data.test.append((sentence(draw, "English", 12), "rare"))


def _unequal(data: Data) -> None:
    data.train = [(text, "neg" if i % 10 == 0 else "pos") for i, (text, _) in enumerate(data.train)]


def _sort(data: Data) -> None:
    data.train.sort(key=lambda row: str(row[1]))


def _nearly(data: Data) -> None:
    words = sentence(random.Random(3), "English", 60).split()
    other = [*words[:30], "entirely", *words[31:]]
    data.train += [(" ".join(words), "pos"), (" ".join(other), "pos")]


def _unknown(data: Data) -> None:
    data.test[2] = (data.test[2][0], "pso")


def _unmeasured(data: Data) -> None:
    data.test = [row for row in data.test if row[1] == "pos"]


def _empty(data: Data) -> None:
    data.train[8] = ("  \t", "pos")
    data.train[9] = (None, "pos")


def _unlabelled(n: int) -> Callable[[Data], None]:
    def into(data: Data) -> None:
        data.train[:n] = [(text, None) for text, _ in data.train[:n]]

    return into


_LONG = sentence(random.Random(5), "English", 2_000)
PLANTS: dict[str, Plant] = {
    "empty texts": Plant("empty-text", "warning", 2, 9, _empty),
    "no label": Plant("no-label", "warning", 2, 1, _unlabelled(2)),
    "mostly no label": Plant("no-label", "note", 90, 1, _unlabelled(90)),
    "rare class": Plant("rare-class", "warning", 1, 11, _rare),
    "one class": Plant("one-class", "error", 120, 1, _labels(lambda _, __: "pos")),
    "unequal classes": Plant("unequal-classes", "warning", 108, 1, _unequal),
    "repeated texts": Plant("duplicates", "warning", 2, 121, _repeat),
    "two labels": Plant("conflicting-labels", "warning", 1, 121, _conflict),
    "test in training": Plant("leak", "warning", 1, 7, _leak("train", "test")),
    "validation in training": Plant("leak", "warning", 1, 7, _leak("train", "valid")),
    "test in validation": Plant("leak", "warning", 1, 7, _leak("valid", "test")),
    "label in capitals": Plant("label-variants", "warning", 1, 3, _set(2, label="Pos")),
    "label of wide letters": Plant("label-variants", "warning", 1, 3, _set(2, label="ｐｏｓ")),
    "label with a space inside": Plant(
        "label-variants", "warning", 2, None,
        _labels(lambda i, c: {"pos": "so_good", "neg": "so bad"}[c] if i > 9 else
                {"pos": "so good", "neg": "so  bad"}[c])),
    "label with nothing to see": Plant(
        "label-variants", "warning", 1, 3, _set(2, label="pos\u200b")),
    "label 1.0 among 1": Plant(
        "label-variants", "warning", 1, 8,
        _labels(lambda i, c: "1.0" if i == 7 else str(int(i % 3 == 1)))),
    "names for labels": Plant("no-classes", "error", 120, 1, _labels(lambda i, _: f"user{i}")),
    "numbers for labels": Plant(
        "no-classes", "warning", 60, None, _labels(lambda i, _: str(i % 60 / 7))),
    "few rows a label": Plant(
        "no-classes", "warning", 40, None, _labels(lambda i, _: f"topic{i % 40}")),
    "one text": Plant("no-text", "error", 120, 1, _texts(lambda *_: "lorem ipsum")),
    "numbers for texts": Plant("no-text", "warning", 120, 1, _texts(lambda i, *_: f"{i}.5")),
    "dates for texts": Plant(
        "no-text", "warning", 120, 1,
        _texts(lambda i, *_: f"2024-{i % 12 + 1:02}-{i % 28 + 1:02}")),
    "ids for texts": Plant("no-text", "warning", 120, 1, _texts(lambda i, *_: f"ID-{i:05}-x")),
    "addresses for texts": Plant(
        "no-text", "warning", 120, 1, _texts(lambda i, *_: f"https://example.org/{i}")),
    "categories for texts": Plant(
        "no-text", "warning", 120, 1, _texts(lambda i, *_: ("a red car", "a blue one")[i % 2])),
    "UTF-8 read as Latin-1": Plant(
        "encoding", "warning", 1, 6, _insert("café".encode().decode("latin-1"))),
    "UTF-8 read as Windows-1252": Plant(
        "encoding", "warning", 1, 6, _insert("it’s".encode().decode("cp1252"))),
    "Cyrillic read as Windows-1252": Plant(
        "encoding", "warning", 1, 6, _insert("фильм".encode().decode("cp1252", "replace"))),
    "Windows-1252 read as Latin-1": Plant("encoding", "warning", 1, 6, _insert("it\x92s")),
    "half a character": Plant("encoding", "warning", 1, 6, _insert("\ud83d")),
    "characters that were lost": Plant("encoding", "warning", 1, 6, _insert("caf\ufffd")),
    "NUL": Plant("control-characters", "warning", 1, 6, _insert("\0")),
    "escape": Plant("control-characters", "warning", 1, 6, _insert("\x1b[31m")),
    "direction turned": Plant("control-characters", "warning", 1, 6, _insert("\u202e")),
    "no width": Plant("control-characters", "warning", 1, 6, _insert("\u200b")),
    "tags": Plant("html", "warning", 1, 6, _insert("<b>so</b>")),
    "line break of HTML 5": Plant("html", "warning", 1, 6, _insert("<br>")),
    "entities and <br />": Plant("html", "note", 1, 6, _insert(" <br /> &amp; &eacute; ")),
    "a long text": Plant("long-texts", "note", 1, 6, _insert(_LONG)),
    "long texts": Plant(
        "long-texts", "warning", 10, 111,
        _texts(lambda i, *_: sentence(random.Random(i), "English", 1_500), start=110)),
    "the label as a field": Plant(
        "label-in-text", "warning", 120, 1, _texts(lambda _, t, c: f"Label: {c.upper()}; {t}")),
    "the label at the end": Plant(
        "label-in-text", "warning", 120, 1, _texts(lambda _, t, c: f"{t} label={c}")),
    "fastText's label": Plant("label-in-text", "warning", 1, 6, _insert(" __label__pos ")),
    "sorted": Plant("sorted", "note", 1, 61, _sort),
    "the same beginning": Plant(
        "boilerplate", "warning", 60, 61,
        _texts(lambda _, t, __: f"Sent from the office of the mayor. {t}", start=60)),
    "the same end": Plant(
        "boilerplate", "warning", 120, 1,
        _texts(lambda _, t, __: f"{t} -- Sent from my telephone")),
    "nearly the same": Plant("near-duplicates", "warning", 1, 122, _nearly),
    "unknown label": Plant("unknown-label", "error", 1, 3, _unknown),
    "one word": Plant("short-texts", "note", 1, 6, _set(5, text="ok")),
    "no word": Plant("short-texts", "note", 1, 6, _set(5, text="!!! ???")),
    "another script": Plant(
        "other-script", "note", 1, 6, _set(5, text=sentence(random.Random(1), "Russian", 12))),
    "class without a test row": Plant("unmeasured-class", "note", 1, None, _unmeasured),
}  # fmt: skip
