"""Files that cannot be used: each gives one line with the file, the place and what to do."""

from __future__ import annotations

import gzip
import logging
import lzma
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from ulmfit_fast.errors import InputError
from ulmfit_fast.text import read_table

GOOD = "label,text\na,some words\nb,other words\n"
Options = dict[str, Any]

# name of the file, its content, options, what the message must hold: the place, then the fix.
BAD_FILES: dict[str, tuple[str, str | bytes, Options, str, str]] = {
    "empty": ("t.csv", "", {}, "file is empty", "give a file with at least one text"),
    "empty-packed": ("t.csv.gz", gzip.compress(b""), {}, "file is empty", "give a file"),
    "blank-lines": ("t.csv", "\n\n \n", {}, "only empty lines", "give at least one text"),
    "blank-txt": ("t.txt", "\n\n", {}, "only empty lines", "give at least one text"),
    "bom-only": ("t.csv", b"\xef\xbb\xbf", {}, "only empty lines", "give at least one text"),
    "header-only": ("t.csv", "label,text\n", {}, "line 1 is taken as the header", "--no-header"),
    "unknown-kind": ("t.mp3", "x", {}, 'unknown kind of file "mp3"', "read are .csv"),
    "spreadsheet": ("t.xlsx", "x", {}, 'unknown kind of file "xlsx"', "save the sheet as CSV"),
    "archive": ("t.zip", "x", {}, 'unknown kind of file "zip"', "unpack it first"),
    "no-kind": ("table", "x", {}, "no ending", "read are .csv"),
    "cut-gz": ("t.csv.gz", gzip.compress(GOOD.encode() * 99)[:-20], {},
                  "damaged or cut", "make it"),
    "cut-xz": ("t.csv.xz", lzma.compress(GOOD.encode() * 99)[:-20], {},
                  "damaged or cut", "make it"),
    "not-gz": ("t.csv.gz", GOOD, {}, "damaged or cut off", "make it again"),
    "latin-1": ("t.csv", "label,text\na,ok\nb,caf\xe9\n".encode("latin-1"), {},
                "line 3: byte 0xe9 at offset 21", "--encoding latin-1"),
    "latin-1-late": ("t.txt", b"y\n" + b"x" * 3_000_000 + b"\n\xff\n", {},
                     "line 3: byte 0xff at offset 3000003", "--encoding latin-1"),
    "cut-utf-16": ("t.csv", GOOD.encode("utf-16")[:-1], {}, "middle of a utf-16", "save it again"),
    "wrong-encoding": ("t.csv", "label,text\na,é\n", {"encoding": "ascii"},
                       "line 2: byte 0xc3 at offset 13", "--encoding utf-8"),
    "unknown-encoding": ("t.csv", GOOD, {"encoding": "klingon"},
                         'unknown encoding "klingon"', "--encoding latin-1"),
    "encoding-of-bytes": ("t.csv", GOOD, {"encoding": "hex"},
                          'unknown encoding "hex"', "--encoding latin-1"),
    "encoding-of-texts": ("t.jsonl", '{"text": "a"}', {"encoding": "rot13"},
                          'unknown encoding "rot13"', "--encoding latin-1"),
    "encoding-of-host-names": ("t.txt", "xn--zzzzzzzzz99999999\n", {"encoding": "idna"},
                               "not of the encoding asked for", "leave --encoding out"),
    "nul": ("t.csv", "label,text\na,b\nc,d\0e\n", {}, "line 3: column 4: NUL", "remove it"),
    "nul-jsonl": ("t.jsonl", '{"text": "a"}\n{"text": "\0"}\n', {},
                  "line 2: column 11: NUL", "remove"),
    "utf-16-without-bom": ("t.csv", GOOD.encode("utf-16-le"), {}, "line 1: column 2: NUL",
                           "--encoding utf-16"),
    "too-many-fields": ("t.csv", "label,text\na,b\nc,d,e\n", {},
                        "line 3: has 3 columns, line 1 has 2", "put quotes"),
    "too-few-fields": ("t.csv", "label,text\na,b\nc\n", {},
                       "line 3: has 1 columns, line 1 has 2", 'add the missing ","'),
    "ragged-tsv": ("t.tsv", "label\ttext\na\tb\tc\n", {},
                  "line 2: has 3 columns", 'has "tab" in it'),
    "unquoted-commas": ("t.csv", "text\nhello, you\nno comma\n", {}, "line 2: has 2", "put quotes"),
    "unclosed-quote": ("t.csv", 'label,text\na,b\nc,"d\ne,f\n', {},
                       'line 3: a quote (") opened in this row is never closed', "close it"),
    "quote-closed-by-the-next": ("t.csv", 'label,text\na,"b\nc,"d"\ne,f\n', {},
                                 "line 3: in the row that begins on line 2",
                  "close an earlier quote"),
    "repeated-name": ("t.csv", "text,label,text\na,b,c\n", {},
                      'line 1: columns 1 and 3 are both named "text"', "--no-header"),
    "empty-name": ("t.csv", "text,label,\na,b,c\n", {},
                  "line 1: column 3 has an empty name", "--no-header"),
    "missing-text-column": ("t.csv", GOOD, {"text_columns": ["txt"]},
                            'no column "txt" among [label, text]', 'did you mean "text"?'),
    "missing-label-column": ("t.csv", GOOD, {"label_column": "zzz"},
                             'no column "zzz" among [label, text]', "use one of these"),
    "same-column-twice": ("t.csv", GOOD, {"text_columns": ["text"], "label_column": "text"},
                          'column "text" cannot be both', "--text-column and --label-column"),
    "two-labels": ("t.csv", "class,target,text\na,b,c\n", {},
                   "the label could be any of [class, target]", "--label-column"),
    "two-texts": ("t.csv", "label,review,comment\na,b,c\n", {},
                  "could be any of [review, comment]", "--text-column"),
    "two-texts-by-content": ("t.csv", "u,v\nsome good words,more good words\nx y z,z y x\n", {},
                             "could be any of [u, v]", "--text-column"),
    "no-text": ("t.csv", "u,v\n1,2\n3,4\n", {}, "no text column found among [u, v]",
                "--text-column"),
    "text-of-numbers": ("t.csv", "label,score\na,1\nb,-2.5\n", {},
                        'no text among [label, score]: "score" has only numbers', "--text-column"),
    "no-label": ("t.csv", "id,text\n1,a b c\n2,d e f\n", {"labelled": True},
                 "no label column found among [id, text]", "--label-column"),
    "no-label-below-a-guessed-header": (
        "t.csv", "good film,pos\nmany good words,pos\n", {"labelled": True},
        "no label column found among [good film, pos]", "--no-header"),
    "txt-has-no-label": ("t.txt", "one\ntwo\n", {"labelled": True},
                         "no label column found among [text]", "--label-column"),
    "empty-labels": ("t.csv", "label,text\n,a\n,b\n", {"labelled": True},
                     'column "label" is empty in every row', "--label-column"),
    "empty-texts": ("t.csv", "label,text\na,\nb,nan\n", {}, 'row 2: column "text" has no text',
                    "--text-column"),
    "name-with-a-line-end": ("t.csv", '"te\nxt",u\n1,2\n3,4\n', {},
                             "no text column found among [te?xt, u]", "--text-column"),
    "name-with-an-escape": ("t.csv", "a\x1b[31m,b,a\x1b[31m\nx,y,z\n", {"header": True},
                            'both named "a?[31m"', "rename one"),
    "label-line-with-an-escape": ("t.label", "x\x1b[2J\u202e\n", {},
                                  'no label at "x?[2J?"', "LABEL:sub"),
    "cut-json": ("t.json", '[{"text": "a"},\n{"text": "b"}', {},
                  "line 2: column 14: not JSON", "correct"),
    "broken-jsonl": ("t.jsonl", '{"text": "a"}\n{"text": }\n', {},
                  "line 2: column 10", "correct this"),
    "json-of-numbers": ("t.json", "[1, 2]", {}, "item 1: is a number, not an object", "write {"),
    "jsonl-of-texts": ("t.jsonl", '"a"\n', {}, "line 1: is a text, not an object", "write {"),
    "json-not-a-list": ("t.json", '{\n"data": []\n}', {},
                  "line 1: is an object, not a list", "write a list"),
    "empty-json": ("t.json", "[]", {}, "has no objects", "give at least one text"),
    "nested-json": ("t.jsonl", '{"text": "a"}\n{"text": {"en": "b"}}\n', {},
                    'line 2: key "text" holds an object', "give it one text"),
    "nested-json-list": ("t.json", '[{"text": "a", "tags": ["b"]}]', {},
                         'item 1: key "tags" holds a list', "leave the key out"),
    "long-number-jsonl": ("t.jsonl", '{"text": "a"}\n{"text": ' + "1" * 5_000 + "}\n", {},
                          "line 2: has a number of more than 4,300 digits", "put quotes"),
    "long-number-json": ("t.json", '[{"text": ' + "1" * 5_000 + "}]", {},
                         "line 1: has a number of more than 4,300 digits", "put quotes"),
    "deep-jsonl": ("t.jsonl", '{"text": "a"}\n' + "[" * 200_000, {},
                   "line 2: lists or objects inside each other", "write {"),
    "deep-json": ("t.json", "[" * 200_000, {},
                  "line 1: lists or objects inside each other", "write {"),
    "not-parquet": ("t.parquet", "PAR1 but no more", {}, "cannot load it", "save the file again"),
    "no-label-on-a-line": ("t.label", "LOC:city Where ?\nnothing here\n", {},
                           'line 2: no label at "nothing here"', "LABEL:sub text"),
    "no-fasttext-label": ("t.txt", "__label__x a\nb\n", {},
                  'line 2: no label at "b"', "__label__x text"),
    "two-fasttext-labels": ("t.txt", "__label__x __label__y a\n", {},
                  "line 1: two labels", "keep one"),
    "open-document": ("t.txt", "<doc id=1>\na\n</doc>\n<doc id=2>\nb\n", {},
                      "line 4: <doc> without </doc>", "get the file again"),
    "text-between-documents": ("t.txt", "<doc id=1>\na\n</doc>\nb\n", {},
                  "line 4: text outside", "move"),
    "nested-documents": ("t.txt", "<doc id=1>\na\n<doc id=2>\nb\n</doc>\n", {},
                         "line 1: <doc> without </doc>", "add it"),
}  # fmt: skip


def message_of(read: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        read()
    return str(caught.value)


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_gives_one_line_with_place_and_fix(tmp_path: Path, case: str) -> None:
    name, content, options, place, fix = BAD_FILES[case]
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    message = message_of(lambda: read_table(path, **options))
    assert message.startswith(f"{path}: ")
    assert place in message
    assert fix in message[message.index(place) :]
    assert message.isprintable()
    assert len(message) < 300 + len(str(path))
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_a_missing_file_names_the_nearest_one(tmp_path: Path) -> None:
    (tmp_path / "reviews.csv").write_text(GOOD)
    message = message_of(lambda: read_table(tmp_path / "review.csv"))
    assert message.startswith(f"{tmp_path / 'review.csv'}: no such file")
    assert message.endswith(f"did you mean {tmp_path / 'reviews.csv'}?")
    assert "check the path" in message_of(lambda: read_table(tmp_path / "qqq.jsonl"))
    assert "no folder" in message_of(lambda: read_table(tmp_path / "gone" / "a.csv"))


def test_a_directory_and_a_file_without_permission_are_named(tmp_path: Path) -> None:
    message = message_of(lambda: read_table(tmp_path))
    assert message == (
        f"{tmp_path}: is a folder: give one file (csv, tsv, json, jsonl, parquet, txt, label)"
    )
    path = tmp_path / "t.csv"
    path.write_text(GOOD)
    assert message_of(lambda: read_table(tmp_path)).endswith(f"give one file, such as {path}")
    path.chmod(0)
    if os.access(path, os.R_OK):
        path.chmod(0o600)
        return
    assert "no permission to read it: change its mode" in message_of(lambda: read_table(path))


def test_data_sets_that_cannot_be_used_are_refused() -> None:
    split = datasets.Dataset.from_dict({"text": ["a"]})
    splits: Any = datasets.DatasetDict({"test": split})
    assert "has splits ['test']: give one" in message_of(lambda: read_table(splits))
    empty = datasets.Dataset.from_dict({"text": []})
    assert "has no rows" in message_of(lambda: read_table(empty))
    nested = datasets.Dataset.from_dict({"words": [["a"]]})
    assert "no column of text or numbers" in message_of(lambda: read_table(nested))
    wrong: Any = 5
    assert "is a int: give a path" in message_of(lambda: read_table(wrong))


def test_hub_names_that_cannot_be_had_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "write hf:owner/name" in message_of(lambda: read_table("hf:a/b/c"))

    def load_dataset(name: str, split: str) -> None:
        raise datasets.exceptions.DatasetNotFoundError(f"Dataset {name} doesn't exist\nmore")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    message = message_of(lambda: read_table("hf:owner/gone"))
    assert re.fullmatch(r"hf:owner/gone: cannot load it, check name, .* doesn't exist", message)


def test_the_csv_modules_limit_is_as_before(tmp_path: Path) -> None:
    import csv

    before = csv.field_size_limit(12_345)
    path = tmp_path / "t.csv"
    path.write_text('label,text\na,"b\n')
    message_of(lambda: read_table(path))
    assert csv.field_size_limit(before) == 12_345


def test_what_libraries_log_about_a_damaged_file_is_not_shown(tmp_path: Path) -> None:
    logged: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = logged.append  # type: ignore[method-assign]
    logger = logging.getLogger("datasets")
    level = logger.level
    (tmp_path / "fake.parquet").write_bytes(b"garbage" * 40)
    logger.addHandler(handler)
    try:
        with pytest.raises(InputError, match=r"fake\.parquet: cannot load it"):
            read_table(tmp_path / "fake.parquet")
    finally:
        logger.removeHandler(handler)
    assert logged == []
    assert logger.level == level
