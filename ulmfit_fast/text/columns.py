"""Which columns hold the text and the label, by name and else by content."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from ..errors import InputError
from .sources import shown

Values = Sequence[str | None]

# In each group, a name earlier in the table's own order does not win: two matches are a question.
LABEL_NAMES = (
    ("label",),
    (
        *("labels", "class", "class_index", "category", "target", "y", "coarse_label"),
        *("label_text", "kategorie", "klasse", "categorie", "catégorie", "categoria", "categoría"),
        *("clase", "classe", "etiqueta", "étiquette"),
    ),
    ("sentiment", "rating", "stars", "score", "polarity", "topic", "type", "intent", "tag"),
)
# One of these is the text...
TEXT_NAMES = (
    ("text",),
    (
        *("texts", "review", "body", "content", "sentence", "comment", "document", "message"),
        *("tweet", "description", "article", "utterance", "question", "query", "post", "abstract"),
        *("review_text", "review_body", "sms", "x", "texte", "texto", "testo", "kommentar"),
        *("nachricht", "beschreibung"),
    ),
)
# ...and these stand beside it as fields of their own.
TITLE_NAMES = ("title", "headline", "subject", "summary", "review_title")
KNOWN_NAMES = {
    *(name for group in LABEL_NAMES + TEXT_NAMES for name in group if name not in ("x", "y")),
    *TITLE_NAMES,
}
_SAMPLE_ROWS = 2_000
_SAMPLE_CHARS = 1_000
_MOST_CLASSES = 200
# By content: a text has this many words on average and hardly repeats; see _is_text.
_FEWEST_WORDS = 2.5
# The longest column is the text if it is so many times longer than the next.
_CLEARLY_LONGER = 3.0
NUMBER = re.compile(r"[-+]?[\d.,]*\d[\d.,]*(?:[eE][-+]?\d+)?")
_FLAGS = "--text-column and --label-column"


@dataclass(frozen=True)
class Choice:
    """The columns to use: one text column or several fields of one text, and the label or None."""

    text: tuple[str, ...]
    label: str | None


def choose_columns(
    columns: Mapping[str, Values],
    where: str,
    *,
    text_columns: Sequence[str] | None,
    label_column: str | None,
    labelled: bool | None,
) -> Choice:
    """Choose text and label columns.

    Names first: label, labels, class, category, target, sentiment, ...; text, review, body,
    content, ..., with a title or headline as a second field. Then content: the label is the one
    column with few, repeated, short values; the text the one column of long, different values, or
    the one three times as long as the next. A table without header whose first column is a label
    and whose others are all text (AG News, DBpedia, Yelp as published) is read so.

    Args:
        columns: name to values; names "0", "1", ... without header.
        where: the source, for messages.
        text_columns: None chooses.
        label_column: None chooses, unless labelled is False.
        labelled: True: there must be a label; False: there is none; None: if one is found.

    Raises:
        InputError: a column is missing, or there is no or more than one possible choice.
    """
    names = list(columns)
    if labelled is False and label_column not in columns:
        label_column = None
    for name in (*(text_columns or ()), *((label_column,) if label_column else ())):
        if name not in columns:
            near = get_close_matches(name, names, n=1, cutoff=0.5)
            hint = f'did you mean "{shown(near[0])}"?' if near else "use one of these"
            raise InputError(f'{where}: no column "{name}" among {_listed(names)}: {hint}')
    if label_column and label_column in (text_columns or ()):
        raise InputError(
            f'{where}: column "{label_column}" cannot be both text and label: change one of '
            f"{_FLAGS}"
        )
    label = label_column
    if label is None:
        candidates = [name for name in names if name not in (text_columns or ())]
        label = _label(columns, candidates, where, required=labelled)
    if text_columns:
        texts = tuple(text_columns)
    else:
        texts = _texts(columns, [name for name in names if name != label], label, where)
    return Choice(texts, None if labelled is False else label)


def _listed(names: Sequence[str]) -> str:
    first = ", ".join(map(shown, names[:12]))
    return f"[{first}{', ...' if len(names) > 12 else ''}]"


def _by_name(names: Sequence[str], groups: Sequence[Sequence[str]]) -> list[str]:
    """Return the columns of the first group that has any."""
    for group in groups:
        found = [name for name in names if name.strip().lower() in group]
        if found:
            return found
    return []


def _label(
    columns: Mapping[str, Values], names: list[str], where: str, *, required: bool | None
) -> str | None:
    found = _by_name(names, LABEL_NAMES)
    if not found:
        found = [name for name in names if _is_label(columns[name])]
        if _headless_fields(columns, found):
            found = found[:1]
    if len(found) == 1:
        return found[0]
    if found and required is not False:
        raise InputError(
            f"{where}: the label could be any of {_listed(found)}: choose one with --label-column"
        )
    if required:
        raise InputError(
            f"{where}: no label column found among {_listed(list(columns))}, as none has a few "
            f"short values that repeat{_values_of(columns, names)}: name it with --label-column"
        )
    return None


def _texts(
    columns: Mapping[str, Values], names: list[str], label: str | None, where: str
) -> tuple[str, ...]:
    found = _by_name(names, TEXT_NAMES)
    if len(names) == 1 and not found:
        if is_numbers(columns[names[0]]):
            raise InputError(
                f'{where}: no text among {_listed(list(columns))}: "{shown(names[0])}" has only '
                "numbers: name the text with --text-column"
            )
        return (names[0],)
    if len(found) == 1:
        titles = [name for name in names if name.strip().lower() in TITLE_NAMES]
        return tuple(name for name in names if name in (*titles, *found))
    if not found:
        found = [name for name in names if _is_text(columns[name])]
        if label is not None and _headless_fields(columns, [label]):
            return tuple(names)
        by_length = sorted(found, key=lambda name: -_mean_chars(columns[name]))
        if len(found) == 1:
            return (found[0],)
        if found and _mean_chars(columns[by_length[0]]) >= _CLEARLY_LONGER * _mean_chars(
            columns[by_length[1]]
        ):
            return (by_length[0],)
    if found:
        raise InputError(
            f"{where}: the text could be any of {_listed(found)}: choose one or more with "
            "--text-column"
        )
    raise InputError(
        f"{where}: no text column found among {_listed(names)}, as none has a usual name or long "
        "values that differ: name one or more with --text-column"
    )


def _values_of(columns: Mapping[str, Values], names: Sequence[str]) -> str:
    """Say how many values the columns have that a label could be in, for a message."""
    shown_names = [name for name in names if not _is_text(columns[name])][:4]
    counts = []
    for name in shown_names:
        present = _present(columns[name])
        n = len(set(present))
        counts.append(f'"{shown(name)}" has {n:,} in {len(present):,} rows' if n > 1
                      else f'"{shown(name)}" has only one value' if n else
                      f'"{shown(name)}" is empty')  # fmt: skip
    return f" ({', '.join(counts)})" if counts else ""


def _headless_fields(columns: Mapping[str, Values], labels: Sequence[str]) -> bool:
    """Tell the published layout: no header, a class first, fields of text after it."""
    names = list(columns)
    headless = names == [str(i) for i in range(len(names))]
    return (
        headless
        and len(names) > 1
        and list(labels[:1]) == ["0"]
        and all(_is_text(columns[name]) for name in names[1:])
    )


def _present(values: Values, n_rows: int | None = None) -> list[str]:
    """Return the values that are not empty, of n_rows spread over the table (None: of all rows)."""
    step = 1 if n_rows is None else max(1, len(values) // n_rows)
    return [value for value in values[::step] if value and not value.isspace()]


def _mean_chars(values: Values) -> float:
    present = _present(values, _SAMPLE_ROWS)
    return sum(map(len, present)) / max(1, len(present))


def _is_text(values: Values) -> bool:
    present = _present(values, _SAMPLE_ROWS)
    n_words = sum(len(value[:_SAMPLE_CHARS].split()) for value in present)
    return n_words >= _FEWEST_WORDS * len(present) > 0 and 2 * len(set(present)) > len(present)


def is_numbers(values: Values) -> bool:
    """Tell a column of numbers, or of dates in figures; empty values do not count."""
    present = _present(values)
    return bool(present) and all(NUMBER.fullmatch(value.strip()) for value in present)


def _is_label(values: Values) -> bool:
    """Tell a column of two or more short values that each stand three times or more on average."""
    present = _present(values)
    if _is_text(values) or _mean_chars(values) > 40:
        return False
    distinct = set(present)
    return 2 <= len(distinct) <= min(_MOST_CLASSES, len(present) // 3)
