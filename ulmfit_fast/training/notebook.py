"""What notebooks show of results: a table of HTML, with nothing to load."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

#: Rows that are shown; a table of 200 classes would fill the notebook.
N_ROWS = 30


def html_table(caption: str, of: str, rows: Mapping[str, Mapping[str, float]]) -> str:
    """Return named numbers as an HTML table.

    Args:
        caption: above the table.
        of: what the rows are, above their names.
        rows: numbers of each, by name; a number that a row lacks is left empty.
    """
    names = list(dict.fromkeys(name for values in rows.values() for name in values))
    shown = list(rows.items())[:N_ROWS]
    head = "".join(f"<th>{escape(name)}</th>" for name in (of, *names))
    lines = "".join(
        f"<tr><th>{escape(row)}</th>"
        + "".join(f"<td>{_number(values[name]) if name in values else ''}</td>" for name in names)
        + "</tr>"
        for row, values in shown
    )
    more = len(rows) - len(shown)
    note = f"<p>and {more} more</p>" if more else ""
    return (
        f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{lines}</tbody></table>{note}"
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) >= 2 else f"{value:.4g}"
