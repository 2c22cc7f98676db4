"""Files that go wrong in the wild: one useful line, or read as they are meant; never in silence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from bad_files import BAD_FILES, LARGE_FILES, Bad
from cli_runs import SHORT, run

from ulmfit_fast.commands.data import Files, read_training_data
from ulmfit_fast.errors import InputError
from ulmfit_fast.text import read_table
from ulmfit_fast.text.kinds import kind_by_content

PROGRAM = "from ulmfit_fast.cli import main; main(prog_name='ulmfit-fast')"
# Reads a table in a process of its own, and says what came of it and what memory that took.
READER = """
import sys
from pathlib import Path
from ulmfit_fast.errors import InputError
from ulmfit_fast.text import read_table
try:
    said = len(read_table(sys.argv[1], labelled=True).texts)
except InputError as error:
    said = error
# ru_maxrss begins with what the process that forked had.
peak = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]
print(peak, said)
"""


def files_of(bad: Bad, path: Path) -> Files:
    """Return what the command line makes of the options."""
    given = dict(zip(bad.options[::2], bad.options[1::2], strict=True))
    texts = (given["--text-column"],) if "--text-column" in given else ()
    return Files(str(path), text_columns=texts, label_column=given.get("--label-column"))


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_one_useful_line_or_read_rightly(tmp_path: Path, case: str) -> None:
    bad = BAD_FILES[case]
    path = bad.write(tmp_path)
    if case == "no permission" and os.access(path, os.R_OK):
        pytest.skip("this user may read every file")
    result = run("check", path, *bad.options, "--json")
    if bad.says:
        assert result.exit_code == 2, result.output
        assert result.stdout == ""
        line = result.stderr.removesuffix("\n")
        assert line.startswith(f"error: {path}: ")
        assert line.isprintable()
        assert len(line) < 400 + len(str(path))
        for part in bad.says:
            assert part in line
        with pytest.raises(InputError) as caught:  # train says the same
            read_training_data(files_of(bad, path), seed=0)
        assert str(caught.value) == line.removeprefix("error: ")
    elif bad.finds:
        findings = {found["name"]: found for found in json.loads(result.stdout)["findings"]}
        assert bad.finds in findings
        is_well = all(found["severity"] == "note" for found in findings.values())
        assert result.exit_code == (0 if is_well else 1)
    else:
        table = read_table(path, labelled=True)
        assert list(zip(table.texts, table.labels, strict=True)) == bad.rows
        assert json.loads(result.stdout)["n_rows"] == {str(path): len(bad.rows)}


def test_there_are_forty_and_more() -> None:
    assert len(BAD_FILES) >= 40
    assert sum(bool(bad.says) for bad in BAD_FILES.values()) >= 40


@pytest.mark.parametrize(
    "case", [name for name, bad in BAD_FILES.items() if bad.says and name != "no permission"]
)
def test_advice_that_is_followed_leads_on(tmp_path: Path, case: str) -> None:
    """Who is told of --encoding latin-1 does not get a picture or a workbook as a table."""
    bad = BAD_FILES[case]
    path = bad.write(tmp_path)
    if "--encoding" in bad.says:
        assert len(read_table(path, encoding="latin-1").texts) == 31
        return
    with pytest.raises(InputError) as caught:
        read_training_data(files_of(bad, path), seed=0)
    assert "--encoding latin-1" not in str(caught.value)


@pytest.mark.parametrize(
    ("verb", "case"),
    [
        *(("check", case) for case in ("quote not closed", "device without end", "Latin-1")),
        *(("check", case) for case in ("pipe that nobody writes to", "archive named csv")),
        *(("train", case) for case in ("json cut short", "link to itself")),
    ],
)
def test_the_program_says_it_in_one_line(tmp_path: Path, verb: str, case: str) -> None:
    path = BAD_FILES[case].write(tmp_path)
    options = [] if verb == "check" else [*SHORT, "--out", str(tmp_path / "run")]
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, verb, str(path), *options], capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert ran.stderr.count("\n") == 1
    for part in BAD_FILES[case].says:
        assert part in ran.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("case", LARGE_FILES)
def test_a_large_file_needs_no_more_memory_than_its_longest_line(tmp_path: Path, case: str) -> None:
    bad = LARGE_FILES[case]
    path = bad.write(tmp_path)
    ran = subprocess.run(
        [sys.executable, "-c", READER, str(path)], capture_output=True, text=True, check=True,
        timeout=300,
    )  # fmt: skip
    memory, said = ran.stdout.strip().split(" ", 1)
    assert int(memory) < 1_000_000  # kilobytes
    for part in bad.says:
        assert part in said
    if not bad.says:
        assert said == "31"


def test_a_table_that_changes_while_it_is_read_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ulmfit_fast.text import loaders

    path = BAD_FILES["one class"].write(tmp_path)
    check_csv = loaders.check_csv

    def check_and_grow(*arguments: object) -> object:
        shape = check_csv(*arguments)  # type: ignore[arg-type]
        with path.open("a") as file:
            file.write("one text more,neg\n")
        return shape

    monkeypatch.setattr(loaders, "check_csv", check_and_grow)
    with pytest.raises(InputError, match=r"two readers disagree .* did it change meanwhile\?"):
        read_table(path)


@pytest.mark.parametrize(
    "start",
    [b"", b"text,label\n", b"BZh we said,pos\n", b"PK,label\n", b"\xff\xfet\0e\0",
     b"\xef\xbb\xbftext", b"{\"text\": 1}", b"%,text", b"<b>bold</b>,label",
     b"\x80uro,text", b"7zip,text", b"Rar,text"],
)  # fmt: skip
@pytest.mark.parametrize("expected", ["csv", "jsonl", "txt"])
def test_a_table_is_not_taken_for_another_kind(start: bytes, expected: str) -> None:
    assert kind_by_content(start, expected) is None


def test_pages_may_be_texts() -> None:
    assert kind_by_content(b"<html><body>", "csv") is not None
    assert kind_by_content(b"<html><body>", "txt") is None
    assert kind_by_content(b"<?xml version='1.0'?>", "jsonl") is not None
    assert kind_by_content(b"a" * 257 + b"ustar\0" + b"a" * 9, "txt") == (
        "a tar archive",
        "unpack it first",
    )
