"""What a user can get wrong: one line that says what, where and what to do; nothing is written."""

import json
import shutil
from pathlib import Path

import pytest
from cli_runs import FILLING, SHORT, files_under, run, train_small

GOOD = "".join(f"{' '.join(FILLING[i % 4 :])} {i},{'pos' if i % 2 else 'neg'}\n" for i in range(20))
HEADER = "text,label\n"

# name of the file, its bytes, what the message must say
BAD_FILES = {
    "empty": ("a.csv", b"", ["a.csv", "empty"]),
    "header only": ("a.csv", HEADER.encode(), ["a.csv", "row"]),
    "one class": (
        "a.csv",
        (HEADER + GOOD.replace("neg", "pos")).encode(),
        ["a.csv", "all 20 labelled rows", "'pos'", "two classes", "--label-column"],
    ),
    "label of its own for every row": (
        "a.csv",
        (HEADER + "".join(f"some words here {i},label{i}\n" for i in range(9))).encode(),
        ["a.csv", "9 labelled rows", "'label0'", "--label-column"],
    ),
    "empty texts": (
        "a.csv",
        (HEADER + ",pos\n,neg\n  ,pos\n").encode(),
        ["a.csv", "row 2", '"text"', "--text-column"],
    ),
    "NaN texts": (
        "a.csv",
        (HEADER + "nan,pos\nNaN,neg\n").encode(),
        ["a.csv", "row 2", '"text"', "--text-column"],
    ),
    "empty labels": (
        "a.csv",
        (HEADER + "some words,\nother words,\n").encode(),
        ["a.csv", '"label"', "--label-column"],
    ),
    "no label column": (
        "a.csv",
        ("text\n" + "\n".join(f"words number {i} and more" for i in range(9))).encode(),
        ["a.csv", "label", "--label-column"],
    ),
    "wrong encoding": (
        "a.csv",
        (HEADER + GOOD + "caf\xe9 words,pos\n").encode("latin-1"),
        ["a.csv", "22", "byte", "--encoding"],
    ),
    "NUL byte": ("a.csv", (HEADER + GOOD + "a\0b,pos\n").encode(), ["a.csv", "22", "NUL"]),
    "ragged": (
        "a.csv",
        (HEADER + GOOD + "one, two, three,pos\n").encode(),
        ["a.csv", "22", "4 columns", "quote"],
    ),
    "unclosed quote": ("a.csv", (HEADER + GOOD + '"open,pos\n').encode(), ["a.csv", "22", "quote"]),
    "damaged xz": ("a.csv.xz", b"\xfd7zXZ\x00garbage", ["a.csv.xz"]),
    "broken json": ("a.jsonl", b'{"text": "x", "label": "y"}\n{"text": \n', ["a.jsonl", "2"]),
    "number too long": (
        "a.jsonl",
        b'{"text": "x", "label": ' + b"1" * 5_000 + b"}\n",
        ["a.jsonl", "line 1", "digits"],
    ),
    "too deep": ("a.json", b"[" * 200_000, ["a.json", "line 1", "inside each other"]),
    "unknown ending": ("a.docx", b"PK\x03\x04", ["a.docx", "csv"]),
    "one document": ("a.csv", (HEADER + "one text,a\none text,b\n").encode(), ["a.csv", "--valid"]),
}  # fmt: skip


def refuse(folder: Path, *arguments: str | Path, stdin: bytes | None = None) -> str:
    """Run a command that must fail: status 2, one line, nothing written; return the line."""
    before = files_under(folder)
    folders = sorted(folder.rglob("*"))
    result = run(*arguments, stdin=stdin)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1, result.stderr
    assert files_under(folder) == before
    assert sorted(folder.rglob("*")) == folders
    return result.stderr


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working directory with good.csv."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.csv").write_text(HEADER + GOOD)
    return tmp_path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of train: do not write into it."""
    return train_small(tmp_path_factory.mktemp("finished"))


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_training_file(folder: Path, case: str):
    name, content, expected = BAD_FILES[case]
    (folder / name).write_bytes(content)
    message = refuse(folder, "train", name, *SHORT)
    for part in expected:
        assert part in message


@pytest.mark.parametrize("option", ["--valid", "--test"])
def test_unknown_label_in_another_file(folder: Path, option: str):
    (folder / "other.csv").write_text(HEADER + "good words,pos\nodd words,ps\n")
    message = refuse(folder, "train", "good.csv", option, "other.csv", *SHORT)
    assert (
        "other.csv, row 3: the label 'ps' is not in the training file (labels: neg, pos)" in message
    )


@pytest.mark.parametrize("option", ["--valid", "--test", "--unlabelled", "--general"])
def test_missing_other_file(folder: Path, option: str):
    assert "gone.csv" in refuse(folder, "train", "good.csv", option, "gone.csv", *SHORT)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["god.csv"], ["god.csv", "good.csv"]),
        (["."], ["."]),
        (["good.csv", "--text-column", "txt"], ["good.csv", '"txt"', '"text"']),
        (["good.csv", "--label-column", "lbl"], ["good.csv", '"lbl"', '"label"']),
        (["good.csv", "--encoding", "klingon"], ["klingon"]),
        (["good.csv", "--device", "tpu"], ["tpu", "cpu"]),
        (["good.csv", "--epochs", "0"], ["--epochs", "0"]),
        (["good.csv", "--seed", "-1"], ["--seed", "-1"]),
        (["good.csv", "--size", "huge"], ["huge", "tiny"]),
        (["good.csv", "--tset", "a"], ["--tset", "--test"]),
        (["good.csv", "--out", "good.csv"], ["good.csv", "file has this name"]),
        (["good.csv", "--base", "nowhere"], ["nowhere", "no such model directory"]),
        (["good.csv", "--base", "x", "--general", "y"], ["--base", "--general"]),
        (["good.csv", "--base", "x", "--size", "tiny"], ["--base", "--size", "leave --size out"]),
        (["good.csv", "--base", "x", "--tokenizer", "word"], ["--base", "leave --tokenizer out"]),
        (["unread.csv", "--batch-size", "1"], ["batch_size is 1", "at least 2"]),
        (["unread.csv", "--device", "tpu"], ["tpu", "cpu"]),
        (["good.csv", "--encoding", "hex"], ['unknown encoding "hex"', "latin-1"]),
        (["good.csv", "--encoding", "rot13"], ['unknown encoding "rot13"', "latin-1"]),
        (["good.csv", "--cache", "c", "--no-cache"], ["--cache and --no-cache"]),
        (["good.csv", "--cache", "good.csv"], ["--cache good.csv: cannot be written"]),
        ([], ["FILE"]),
    ],
    ids=str,
)
def test_bad_option(folder: Path, arguments: list[str], expected: list[str]):
    message = refuse(folder, "train", *arguments)
    for part in expected:
        assert part in message


def test_control_characters_of_the_data_are_escaped(folder: Path):
    (folder / "other.csv").write_text(HEADER + "words,\x1b[31mred\u202e\n", encoding="utf-8")
    message = refuse(folder, "train", "good.csv", "--test", "other.csv", *SHORT)
    assert "\\x1b[31mred\\u202e" in message
    assert not {"\x1b", "\u202e"} & set(message)


def test_pretraining_on_one_document(folder: Path):
    (folder / "one.txt").write_text("only one line\n")
    assert "one.txt: one document only" in refuse(folder, "pretrain", "one.txt")


def damage(model: Path, case: str) -> None:
    if case == "half written":
        (model / "manifest.json").unlink()
    elif case == "other version":
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps({**config, "format_version": 999}))
    elif case == "flipped bit":
        weights = bytearray((model / "model.safetensors").read_bytes())
        weights[-100] ^= 1
        (model / "model.safetensors").write_bytes(weights)
    elif case == "cut off":
        weights = (model / "model.safetensors").read_bytes()
        (model / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    elif case == "not json":
        (model / "config.json").write_text("{")
    elif case == "empty folder":
        shutil.rmtree(model)
        model.mkdir()
    elif case == "a file":
        shutil.rmtree(model)
        model.write_text("x")


BAD_MODELS = {
    "half written": ["manifest.json", "half written"],
    "other version": ["version", "999"],
    "flipped bit": ["model.safetensors", "damaged"],
    "cut off": ["model.safetensors", "damaged"],
    "not json": ["config.json", "JSON"],
    "empty folder": ["config.json"],
    "a file": ["not a model directory"],
}


@pytest.mark.parametrize("case", BAD_MODELS)
def test_bad_model(folder: Path, finished: Path, case: str):
    shutil.copytree(finished, folder / "run")
    damage(folder / "run" / "model", case)
    damage(folder / "run" / "language_model", case)
    for arguments in (
        ["predict", "run/model", "good.csv", "--out", "new.csv"],
        ["evaluate", "run/model", "good.csv"],
        ["info", "run/model"],
        ["train", "good.csv", "--base", "run/language_model"],
    ):
        message = refuse(folder, *arguments)
        for part in ["run", *BAD_MODELS[case]]:
            assert part in message


def test_model_of_the_wrong_kind(folder: Path, finished: Path):
    message = refuse(folder, "predict", finished / "language_model", "good.csv")
    assert "a language model, not a classifier" in message
    message = refuse(folder, "train", "good.csv", "--base", finished / "model")
    assert "a classifier, not a language model" in message


@pytest.mark.parametrize(
    ("arguments", "stdin", "expected"),
    [
        ([], b"", "standard input: no text"),
        ([], b"\n \n", "standard input: no text"),
        ([], b"fine\nbad \xff byte\n", "standard input, line 2: byte 9 (0xff) is not utf-8"),
        ([], b"fine\nbad\0byte\n", "standard input, line 2, column 4: NUL byte; remove it"),
        (["--encoding", "klingon"], b"x", "klingon"),
        (["--encoding", "hex"], b"78", 'unknown encoding "hex"'),
        (["--encoding", "idna"], b"xn--zzzzzzzzz99999999", "standard input: not idna"),
    ],
)
def test_bad_standard_input(
    folder: Path, finished: Path, arguments: list[str], stdin: bytes, expected: str
):
    assert expected in refuse(folder, "predict", finished, "-", *arguments, stdin=stdin)


def test_evaluate_names_the_row_of_an_unknown_label(folder: Path, finished: Path):
    (folder / "other.csv").write_text("review,label\ngood words,pos\nodd words,ps\n")
    message = refuse(folder, "evaluate", finished, "other.csv")
    assert "other.csv, row 3: the label 'ps' is not in the model" in message


def test_half_a_character_cannot_be_written_as_csv(folder: Path, finished: Path):
    (folder / "half.jsonl").write_text('{"review": "fine"}\n{"review": "half \\ud83d here"}\n')
    message = refuse(folder, "predict", finished, "half.jsonl", "--out", "p.csv")
    assert message == (
        "error: --out p.csv: row 2 has half a character (\\ud83d) that a csv file cannot hold; "
        "correct the text, or write JSON with --json\n"
    )
    assert run("predict", finished, "half.jsonl", "--out", "p.json", "--json").exit_code == 0
    assert "half \\ud83d here" in run("predict", finished, "half.jsonl").stdout


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("file/p.csv", "file is a file, not a folder; give another place"),
        ("none/p.csv", "there is no folder none; make it first"),
        ("taken", "a folder has this name; give the name of a file"),
    ],
)
def test_place_that_cannot_be_written_is_refused_before_the_model_is_read(
    folder: Path, out: str, message: str
):
    (folder / "file").write_text("x")
    (folder / "taken").mkdir()
    said = refuse(folder, "predict", "no model", "good.csv", "--out", out, "--overwrite")
    assert said == f"error: --out {out}: {message}\n"


def test_line_of_ten_megabytes_is_read(folder: Path, finished: Path):
    (folder / "long.csv").write_text(
        "review,label\n" + GOOD + '"' + "long word " * 1_000_000 + '",maybe\n'
    )
    message = refuse(folder, "evaluate", finished, "long.csv")
    assert "long.csv, row 22: the label 'maybe'" in message
    assert len(message) < 500
