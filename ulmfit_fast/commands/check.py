"""`ulmfit-fast check`: what is wrong or odd in the files of a run, before it is trained."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict
from difflib import get_close_matches

from ulmfit_fast.check import (
    NAMES,
    SEVERITIES,
    Finding,
    Summary,
    Tables,
    find_problems,
    summarize,
)
from ulmfit_fast.commands.data import VALID_SHARE, FileReader, Files, quoted
from ulmfit_fast.commands.parts import hold_out, labelled_part
from ulmfit_fast.commands.terminal import Terminal, count, listing, shorten
from ulmfit_fast.errors import InputError
from ulmfit_fast.text import TextTable

#: Findings that come of how files are read and split, beside those of `check.NAMES`.
READING_NAMES = ("no-validation", "columns")
N_CLASSES_SHOWN = 8


def check(files: Files, ignored: Collection[str], terminal: Terminal) -> bool:
    """Read the files of a run as `train` reads them, and print what is wrong or odd.

    Args:
        files: what to read.
        ignored: names of findings to leave out.
        terminal: where to write.

    Returns:
        is_well: whether there is no error and no warning.

    Raises:
        InputError: a file cannot be read, or there is no such finding to ignore.
    """
    _check_names(ignored)
    reader = FileReader(files)
    tables = read_tables(reader)
    findings = [*_of_reading(reader, tables), *find_problems(tables)]
    findings = [finding for finding in findings if finding.name not in ignored]
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    is_well = all(finding.severity == "note" for finding in findings)
    summary = summarize(tables)
    _say_summary(tables.train, summary, terminal)
    for finding in findings:
        terminal.say()
        _say_finding(finding, terminal)
    terminal.say()
    terminal.say(verdict(findings))
    terminal.result(
        {
            "source": tables.train.source,
            "text_columns": list(tables.train.text_columns),
            "label_column": tables.train.label_column,
            **asdict(summary),
            "is_well": is_well,
            "findings": [asdict(finding) for finding in findings],
        }
    )
    return is_well


def _check_names(ignored: Collection[str]) -> None:
    known = [*NAMES, *READING_NAMES]
    for name in ignored:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"they are {', '.join(known)}"
            raise InputError(f"--ignore {shorten(name)}: no such finding: {hint}")


def read_tables(reader: FileReader) -> Tables:
    """Read the other files of a run like the training file."""
    files = reader.files
    valid, test = (
        None if path is None else reader.like_training(path, labelled=True)
        for path in (files.valid, files.test)
    )
    unlabelled = [reader.like_training(path, labelled=False) for path in files.unlabelled]
    return Tables(reader.table, valid, test, tuple(unlabelled))


def _of_reading(reader: FileReader, tables: Tables) -> list[Finding]:
    """Say how files were read where that is not as the user may think, and what cannot be split."""
    findings = [
        Finding("columns", "note", 1, remark, "see whether that is so", ())
        for remark in reader.remarks
    ]
    part = labelled_part(tables.train)
    if tables.valid is None and 1 < len(set(part.labels)) < len(part):
        try:
            hold_out(part, VALID_SHARE, seed=0)
        except InputError as error:
            says, _, do = str(error).partition(": if ")
            findings.append(Finding("no-validation", "error", len(part), says, f"if {do}"))
    return findings


def _say_summary(table: TextTable, summary: Summary, terminal: Terminal) -> None:
    label = f", label from {quoted([table.label_column or ''])}"
    sizes = (f"{shorten(name)} {count(n, 'row')}" for name, n in summary.n_rows.items())
    terminal.fact("rows", f"{', '.join(sizes)}; text from {quoted(table.text_columns)}{label}")
    n_labelled = sum(summary.classes.values())
    by_size = sorted(summary.classes.items(), key=lambda entry: -entry[1])
    sizes = (f"{shorten(name, 30)} {n:,} ({100 * n / n_labelled:.0f} %)" for name, n in by_size)
    without = f"; {count(summary.n_unlabelled, 'row')} without" if summary.n_unlabelled else ""
    n_classes = f"{len(by_size):,}: " if len(by_size) > 1 else ""
    terminal.fact("labels", f"{n_classes}{listing(list(sizes), N_CLASSES_SHOWN)}{without}")
    shortest, low, middle, high, longest = summary.words
    terminal.fact(
        "words",
        f"a text has {middle:,} (median), nine of ten {low:,} to {high:,}, the shortest "
        f"{shortest:,}, the longest {longest:,}",
    )
    n_texts = sum(summary.scripts.values())
    scripts = [f"{name} {100 * n / n_texts:.0f} %" for name, n in summary.scripts.items()]
    terminal.fact("script", listing(scripts))


def _say_finding(finding: Finding, terminal: Terminal) -> None:
    terminal.say(f"{finding.severity:{max(map(len, SEVERITIES))}s} {finding.name}: {finding.says}")
    for example in finding.examples:
        also = f"  [{shorten(example.also, 90)}]" if example.also else ""
        terminal.say(f"  {example.source}, row {example.row}: {example.excerpt}{also}")
    if finding.n > len(finding.examples) > 0:
        terminal.say(f"  and {finding.n - len(finding.examples):,} more")
    terminal.say(f"  -> {finding.do}")


def verdict(findings: Collection[Finding]) -> str:
    """Count findings by severity."""
    found = {s: sum(finding.severity == s for finding in findings) for s in SEVERITIES}
    counts = ", ".join(count(n, severity) for severity, n in found.items() if n)
    return counts or "nothing found"
