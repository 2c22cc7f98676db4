"""Characters that a text should not have: damaged ones, invisible ones, markup, other scripts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from ulmfit_fast.text.rules import fix_markup

from .finding import Finding, Hits, Tables, count, named, share

# UTF-8 that was read as Windows-1252 or Latin-1: sequences that no language writes. A capital Å or
# Ä before a quotation mark is Swedish, so only leads are taken that end no word in capitals there.
_CONTINUATION = "\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc" + (
    "\u2013\u2014\u2018-\u201a\u201c-\u201e\u2020-\u2022\u2026\u2030\u2039\u203a\u20ac\u2122"
)
_MOJIBAKE = (
    "\u00c3[\u0178\u0153\u0152\u0160\u0161\u20ac\u2021\u02c6\u2030\u2039\u0192\u2122]"
    "|\u00c3[\u00ab\u00bb\u201e\u2013\u2018\u2026\u201c](?=[a-z])|"
    "(?<!\u00ab)\u00c2[\u00ab\u00bb]|\u00e2(?:\u201a\u00ac|\u201e\u00a2)|"
    "[\u00c2\u00c3][\u00a0-\u00aa\u00ac-\u00ba\u00bc-\u00be]"
    "|\u00e2\u20ac[\u2122\u0153\u009d\u02dc\u201c\u201d\u00a6\u00a2\u0090-\u0099]|\u00ef\u00bb\u00bf"
    f"|(?:[\u00d0\u00d1][{_CONTINUATION}]){{3,}}|(?:[\u00e3-\u00e9][{_CONTINUATION}]{{2}}){{2,}}"
)
# C1 controls are Windows-1252's quotes and dashes, read as Latin-1; half characters, of JSON that
# was cut in the middle of one.
_DAMAGED = re.compile(f"\ufffd|[\u0080-\u009f\ud800-\udfff]|{_MOJIBAKE}")
# Not ZWNJ, ZWJ and the marks of direction: Persian, Hindi, Hebrew and emoji are written with them.
_ASCII_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_CONTROL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u00ad\u200b\u2028-\u202e\u2060\u2066-\u2069\ufeff]"
)
_TAG_NAMES = (
    "a|abbr|article|b|blockquote|body|br|button|center|code|div|em|font|footer|form|h[1-6]|head"
    "|header|hr|html|i|iframe|img|input|label|li|link|meta|nav|ol|option|p|pre|script|section"
    "|small|span|strong|style|sub|sup|svg|table|tbody|td|th|thead|title|tr|u|ul"
)
_TAG = re.compile(
    rf"</?(?:{_TAG_NAMES})(?:\s+[\w:-]+\s*=[^<>]*|\s*/?)>|<!--|<!doctype", re.IGNORECASE
)
_ENTITY = re.compile(r"&(?:[a-z]{2,8}\d?|#\d{1,6}|#x[0-9a-f]{1,5});", re.IGNORECASE)
# A table is of one script if so much of it is; Chinese, Japanese and Korean texts mix theirs.
ONE_SCRIPT = 0.95
_TOGETHER = {"Japanese": "Han", "Hangul": "Han"}
# A text with fewer letters is an emoji, a name or a formula, not of another language.
_FEWEST_LETTERS = 10


def find_damage(tables: Tables) -> Iterator[Finding]:
    """Find characters that were read in a wrong encoding, and such that nobody sees."""
    damaged, invisible = Hits(), Hits()
    kinds: Counter[str] = Counter()
    for table in tables.all:
        for index, text in enumerate(table.texts):
            is_ascii = text.isascii()
            match = None if is_ascii else _DAMAGED.search(text)
            if match is not None:
                damaged.add(table, index, match.start(), f"{match.group()!a} in it")
            match = (_ASCII_CONTROL if is_ascii else _CONTROL).search(text)
            if match is not None:
                code = f"U+{ord(match.group()):04X}"
                kinds[code] += 1
                invisible.add(table, index, match.start(), f"{code} in it")
    if damaged.n:
        yield damaged.finding(
            "encoding",
            "warning",
            f"{count(damaged.n, 'text has', 'texts have')} characters of a wrong encoding, such as "
            "\u00c3\u00a9 for \u00e9, or U+FFFD",
            "read the original with its own encoding (--encoding), and save it as UTF-8",
        )
    if invisible.n:
        shown = ", ".join(kind for kind, _ in kinds.most_common(5))
        yield invisible.finding(
            "control-characters",
            "warning",
            f"{count(invisible.n, 'text has', 'texts have')} control or invisible characters "
            f"({shown})",
            "remove them: they split words where nobody sees it",
        )


def find_markup(tables: Tables) -> Iterator[Finding]:
    """Find tags and entities; those that the tokenizer's rules undo are a note."""
    hits, left = Hits(), Hits()
    for table in tables.all:
        for index, text in enumerate(table.texts):
            if "<" not in text and "&" not in text:
                continue
            match = _TAG.search(text) or _ENTITY.search(text)
            if match is None:
                continue
            hits.add(table, index, match.start())
            if _TAG.search(fix_markup(text)):
                tags = (tag for tag in _TAG.finditer(text) if tag.group() != "<br />")
                left.add(table, index, next(tags, match).start())
    if left.n:
        yield left.finding(
            "html",
            "warning",
            f"{count(left.n, 'text has', 'texts have')} HTML tags that would become words",
            "take the text out of its markup, for example with html.parser",
        )
    elif hits.n:
        yield hits.finding(
            "html",
            "note",
            f"{count(hits.n, 'text has', 'texts have')} <br /> or entities such as &amp;",
            "nothing: the tokenizer turns these into what they stand for",
        )


def find_other_scripts(tables: Tables) -> Iterator[Finding]:
    """Find texts in another script than nearly all have."""
    table, hits = tables.train, Hits()
    found = tables.scripts
    scripts = Counter(_TOGETHER.get(name, name) for name, n in found if n >= _FEWEST_LETTERS)
    if len(scripts) < 2:
        return
    main, n_main = scripts.most_common(1)[0]
    if n_main < ONE_SCRIPT * scripts.total():
        return
    for index, (name, n) in enumerate(found):
        if n >= _FEWEST_LETTERS and _TOGETHER.get(name, name) != main:
            hits.add(table, index)
    others = [name for name, _ in scripts.most_common()[1:]]
    yield hits.finding(
        "other-script",
        "note",
        f"{count(hits.n, 'text is', 'texts are')} not in {main} letters as "
        f"{share(n_main, scripts.total())} of the texts are, but in {named(others)}",
        "see whether they belong here: a language with few texts is not learnt",
    )
