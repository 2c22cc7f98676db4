"""Labels: missing, of one class, of too many, written in two ways, unknown, given away."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence

from ulmfit_fast.text.columns import NUMBER
from ulmfit_fast.text.table import TextTable

from .finding import (
    Example,
    Finding,
    Hits,
    Tables,
    count,
    examples_of,
    excerpt,
    named,
    plain,
    share,
)
from .texts import ENOUGH_ROWS, NEARLY_ALL

#: More classes than these with fewer rows each than these are said to be odd.
MANY_CLASSES, FEW_ROWS_A_CLASS = 20, 10
#: Above this share of the largest class, always to answer it is hard to beat in accuracy.
LARGEST_SHARE = 0.8
# Beyond this share of rows without a label they are meant for the language model.
MOSTLY_UNLABELLED = 0.5
# Words at either end of a text in which its own label stands as a field would.
_NEAR = 5
# In sorted tables the label changes so many times less often than in shuffled ones.
_FEWER_CHANGES = 5


def is_one_class(labels: Collection[str]) -> bool:
    """Tell labels that leave nothing to tell apart."""
    return len(set(labels)) < 2


def is_a_class_each(labels: Collection[str]) -> bool:
    """Tell labels that are all different: names, numbers or texts, not classes."""
    return len(set(labels)) == len(labels) > 2


def has_few_rows_a_class(n_classes: int, n_rows: int) -> bool:
    """Tell so many classes for so few rows that the column may be another one."""
    return n_classes > MANY_CLASSES and n_rows < FEW_ROWS_A_CLASS * n_classes


def find_classes(tables: Tables) -> Iterator[Finding]:
    """Find labels that are no classes, and classes that cannot be learnt or told apart well."""
    table, labels = tables.train, tables.labels
    counts = Counter(labels)
    column = f'column "{table.label_column}"'
    other_column = "name the column of the classes with --label-column"
    if is_one_class(labels):
        yield Finding(
            "one-class", "error", len(labels),
            f"all {len(labels):,} labelled rows have the one label {named(counts)}: a classifier "
            "needs two classes or more",
            f"add rows of another class, or {other_column}",
            examples_of(table, tables.labelled),
        )  # fmt: skip
        return
    numbers = all(NUMBER.fullmatch(label) for label in counts)
    no_classes = ""
    if is_a_class_each(labels):
        no_classes = f"has a different label in each of {len(labels):,} rows"
    elif numbers and len(counts) > MANY_CLASSES:
        no_classes = f"has {len(counts):,} different numbers: amounts, not classes"
    elif has_few_rows_a_class(len(counts), len(labels)):
        no_classes = f"has {len(counts):,} different labels in {len(labels):,} rows"
    if no_classes:
        yield Finding(
            "no-classes",
            "error" if is_a_class_each(labels) else "warning",
            len(counts),
            f"{column} {no_classes}",
            f"{other_column}, or give more rows of each class",
            _first_of_each(table, counts),
        )
        return
    yield from _sizes(table, labels, counts)


def _sizes(table: TextTable, labels: Sequence[str], counts: Counter[str]) -> Iterator[Finding]:
    variants = _other_forms(counts)
    rare = sorted(
        label for label, n in counts.items() if n < FEW_ROWS_A_CLASS and label not in variants
    )
    if rare:
        shown = (f"'{excerpt(label)}' {counts[label]}" for label in rare[:5])
        more = f" and {len(rare) - 5:,} more" if len(rare) > 5 else ""
        yield Finding(
            "rare-class",
            "warning",
            len(rare),
            f"{count(len(rare), 'class has', 'classes have')} fewer than {FEW_ROWS_A_CLASS} rows "
            f"({', '.join(shown)}{more}): too few to learn from and to validate on",
            "give more rows of them, or put them into a class with others",
            _first_of_each(table, {label: counts[label] for label in rare}),
        )
    largest, n = counts.most_common(1)[0]
    if n > LARGEST_SHARE * len(labels):
        yield Finding(
            "unequal-classes", "warning", n,
            f"{share(n, len(labels))} of the labelled rows are of class '{excerpt(largest)}': "
            "always to answer that would be right as often",
            "look at F1 and the confusion matrix, not at accuracy; give more rows of the others",
            _first_of_each(table, {label: k for label, k in counts.items() if label != largest}),
        )  # fmt: skip


def _first_of_each(table: TextTable, labels: Mapping[str, int]) -> tuple[Example, ...]:
    """Return the first row of each of the first labels."""
    wanted = sorted(labels, key=lambda label: (labels[label], label))[:3]
    first: dict[str, int] = {}
    for index, label in enumerate(table.labels):
        if label is not None:
            first.setdefault(label, index)
    return tuple(
        Example(table.source, table.rows[first[label]], excerpt(table.texts[first[label]]),
                f"label '{excerpt(label)}'")
        for label in wanted
    )  # fmt: skip


def find_missing_labels(tables: Tables) -> Iterator[Finding]:
    """Find rows with a text and no label."""
    hits, n_rows = Hits(), 0
    for table in (tables.train, tables.valid, tables.test):
        for index, label in enumerate(table.labels if table is not None else ()):
            n_rows += 1
            if label is None and table is not None:
                hits.add(table, index)
    if hits.n:
        few = hits.n < MOSTLY_UNLABELLED * n_rows
        yield hits.finding(
            "no-label",
            "warning" if few else "note",
            f"{count(hits.n, 'row has', 'rows have')} a text but no label "
            f"({share(hits.n, n_rows)} of the rows)",
            "label them, if they are not meant for the language model alone",
        )


def _variants(counts: Counter[str]) -> list[list[str]]:
    """Return groups of labels that are written differently and read alike, most rows first."""
    groups: dict[str, list[str]] = defaultdict(list)
    for label in sorted(counts, key=lambda label: (-counts[label], label)):
        groups[_read_alike(label)].append(label)
    return [group for group in groups.values() if len(group) > 1]


def _read_alike(label: str) -> str:
    """Return a label without differences of case, space, Unicode form and form of a number."""
    folded = unicodedata.normalize("NFKC", label).casefold().replace("_", " ")
    folded = "".join(c for c in folded if unicodedata.category(c) != "Cf")
    folded = " ".join(folded.split())
    try:
        return repr(float(folded)) if NUMBER.fullmatch(folded) else folded
    except ValueError:
        return folded


def _other_forms(counts: Counter[str]) -> set[str]:
    """Return the labels that another with more rows reads alike."""
    return {label for group in _variants(counts) for label in group[1:]}


def find_variants(tables: Tables) -> Iterator[Finding]:
    """Find classes that are meant to be one."""
    table, counts = tables.train, Counter(tables.labels)
    groups = _variants(counts)
    if groups:
        shown = " and ".join(f"'{excerpt(label)}' ({counts[label]:,})" for label in groups[0])
        more = f", and {len(groups) - 1:,} more of the kind" if len(groups) > 1 else ""
        yield Finding(
            "label-variants", "warning", len(groups),
            f"classes differ by case, spaces or form alone: {shown}{more}",
            "write each class in one way",
            _first_of_each(table, {label: counts[label] for g in groups for label in g[1:]}),
        )  # fmt: skip


def find_unknown_labels(tables: Tables) -> Iterator[Finding]:
    """Find labels of the validation and test tables that training does not have, and the other way.

    The first are refused by training; the second are not measured.
    """
    known = set(tables.labels)
    variants = _other_forms(Counter(tables.labels))
    for table in (tables.valid, tables.test):
        if table is None:
            continue
        hits, unknown = Hits(), Counter[str]()
        for index, label in enumerate(table.labels):
            if label is not None and label not in known:
                unknown[label] += 1
                hits.add(table, index, also=f"label '{excerpt(label)}'")
        if hits.n:
            yield hits.finding(
                "unknown-label", "error",
                f"{count(hits.n, 'row')} of {table.source} {'has' if hits.n == 1 else 'have'} a "
                f"label that training does not have ({named(unknown)}; training has "
                f"{named(sorted(known), 8)})",
                "correct them, or train with such rows",
            )  # fmt: skip
        missing = sorted(known - set(table.labels) - variants)
        if missing:
            yield Finding(
                "unmeasured-class", "note", len(missing),
                f"{count(len(missing), 'class has', 'classes have')} no row in {table.source} "
                f"({named(missing)})",
                "add some: how well they are found is not measured",
            )  # fmt: skip


def find_given_away(tables: Tables) -> Iterator[Finding]:
    """Find texts that hold their own label, as a field or as fastText writes it."""
    table, hits, tagged = tables.train, Hits(), Hits()
    by_class: Counter[str] = Counter()
    for index in tables.labelled:
        text, label = table.texts[index], table.labels[index] or ""
        at = text.find("__label__")
        if at >= 0:
            tagged.add(table, index, at)
        words = plain(text)[:200].split()[:_NEAR] + text[-200:].split()[-_NEAR:]
        if f" {label.casefold()} " in f" {' '.join(map(_bare, words))} ":
            hits.add(table, index)
            by_class[label] += 1
    if tagged.n:
        yield tagged.finding(
            "label-in-text", "warning",
            f"{count(tagged.n, 'text has', 'texts have')} __label__ in "
            f"{'it' if tagged.n == 1 else 'them'}",
            "take the labels out of the texts, or name a file of such lines .txt",
        )  # fmt: skip
        return
    n, counts = len(tables.labelled), Counter(tables.labels)
    is_in_each = all(2 * by_class[label] > k for label, k in counts.items())
    if n >= ENOUGH_ROWS and len(counts) > 1 and hits.n >= NEARLY_ALL * n and is_in_each:
        yield hits.finding(
            "label-in-text", "warning",
            f"{hits.n:,} of {n:,} texts have their own label among their first or last "
            f"{_NEAR} words",
            "take it out: the classifier would read the answer, and new texts do not have it",
        )  # fmt: skip


def _bare(word: str) -> str:
    """Return a word without the marks around it; of `label=pos` the last part."""
    return word.casefold().replace("=", " ").replace(":", " ").strip(" \t.,;()[]{}<>\"'|-")


def find_sorted(tables: Tables) -> Iterator[Finding]:
    """Find a table whose rows stand class by class."""
    labels = tables.labels
    n = len(labels)
    counts = Counter(labels)
    shuffled = n * (1 - sum((k / n) ** 2 for k in counts.values())) if n else 0.0
    changes = [i for i in range(1, n) if labels[i] != labels[i - 1]]
    is_sorted = _FEWER_CHANGES * len(changes) <= shuffled
    if len(counts) > 1 and n >= ENOUGH_ROWS and is_sorted:
        yield Finding(
            "sorted", "note", len(changes),
            f"the rows stand class by class: the label changes {count(len(changes), 'time')}, in "
            f"shuffled rows about {shuffled:,.0f} times",
            "nothing for training, which shuffles; a part cut off the file's beginning or end "
            "would lack classes",
            examples_of(tables.train, [tables.labelled[i] for i in changes]),
        )  # fmt: skip
