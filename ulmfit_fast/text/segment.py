"""Cut text that went through the rules into words, as spaCy's English tokenizer cuts it.

A text is a row of chunks between spaces; a chunk's tokens depend on that chunk alone. So each
distinct chunk is cut once, by spaCy's procedure (exceptions, then prefixes and suffixes from the
outside in, then infixes), and looked up from then on: tokenizing a corpus is one dictionary look-up
a chunk.

Source: the procedure of spacy/tokenizer.pyx, spaCy 3.8.18, MIT licence, copyright ExplosionAI GmbH.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache

from . import charsets
from .contractions import exceptions

LONGEST_CHUNK = 1_000
"""Chunks are cut into pieces of so many characters first: the procedure is quadratic in a chunk."""
REMEMBERED = 250_000
"""Distinct chunks whose tokens or ids are kept: about 60 MB each when full."""
LONGEST_REMEMBERED = 100
"""Longer chunks, as a stranger may send to a server without end, are cut anew each time."""
# Longer than any suffix and what it looks back at; the rules leave no row of more than two dots.
_TAIL = 24
# A space between two chunks belongs to none; any other white space, or a further space, is a chunk.
CHUNKS = re.compile(r"\S+|(?! )\s+|(?<= )\s+")


def chunks_of(text: str) -> list[str]:
    """Split a text that begins with a word into words, and white space other than one space."""
    chunks: list[str] = []
    newlines = ""
    for whole in text.split("\n"):  # much faster than the pattern, which is for odd white space
        if whole:
            words = whole.split()
            line = whole.removesuffix(" ")  # that belongs to no chunk
            if not words or line.strip() != line:  # white space that goes on beyond the line
                return CHUNKS.findall(text)
            if " ".join(words) != line:
                words = CHUNKS.findall(line)
            if newlines:
                chunks.append(newlines)
                newlines = ""
            chunks += words
        newlines += "\n"
    return chunks if len(newlines) == 1 else [*chunks, newlines[1:]]


def _one_of(characters: str) -> str:
    return f"[{re.escape(characters)}]"


@cache
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    """Compile the prefix, suffix, infix and URL patterns of lower-case text."""
    letter, uncased, symbol = charsets.LETTERS, charsets.UNCASED, f"[{charsets.SYMBOLS}]"
    quotes = re.escape(charsets.QUOTES)
    outside = [_one_of(charsets.PUNCTUATION), r"\.\.+", _one_of(charsets.QUOTES), symbol]
    before_dot = f"0-9{letter}%²\\-+|(?:){re.escape(charsets.PUNCTUATION)}{quotes}"
    prefix = [r"[§%=—–]", r"\+(?![0-9])", *outside, _one_of(charsets.CURRENCY)]
    suffix = [
        *("……", *outside, "['’]s", "[—–]", r"(?<=[0-9])\+", r"(?<=°[fck])\."),
        f"(?<=[0-9]){_one_of(charsets.CURRENCY)}",
        f"(?<=[0-9])(?:{'|'.join(map(re.escape, charsets.UNITS.split()))})",
        f"(?<=[{before_dot}])\\.",
        f"(?<=[{uncased}][{uncased}])\\.",
    ]
    infix = [
        *(r"\.\.+", "…", symbol, r"(?<=[0-9])[+\-*^](?=[0-9-])"),
        f"(?<=[{letter}{quotes}])\\.(?=[{uncased}{quotes}])",
        f"(?<=[{letter}]),(?=[{letter}])",
        f"(?<=[{letter}0-9])(?:{'|'.join(charsets.HYPHENS)})(?=[{letter}])",
        f"(?<=[{letter}0-9])[:<>=/](?=[{letter}])",
    ]
    host = r"(?:(?:[a-z0-9\u00a1-\uffff][a-z0-9\u00a1-\uffff_-]{0,62})?[a-z0-9\u00a1-\uffff]\.)+"
    octets = r"(?:[1-9]\d?|1\d\d|2[01]\d|22[0-3])(?:\.(?:1?\d{1,2}|2[0-4]\d|25[0-5])){2}"
    private = (
        r"(?!(?:10|127)(?:\.\d{1,3}){3})(?!(?:169\.254|192\.168)(?:\.\d{1,3}){2})"
        r"(?!172\.(?:1[6-9]|2\d|3[0-1])(?:\.\d{1,3}){2})"
    )
    address = f"{private}{octets}(?:\\.(?:[1-9]\\d?|1\\d\\d|2[0-4]\\d|25[0-4]))"
    url = (
        r"(?:(?:[\w+\-.]{2,})://)?(?:\S+(?::\S*)?@)?"
        f"(?:{address}|{host}(?:[{letter}]{{2,63}}))"
        r"(?::\d{2,5})?(?:[/?#]\S*)?\Z"
    )
    ends = "|".join(f"(?:{entry})\\Z" for entry in suffix)
    return (
        re.compile("|".join(prefix)),
        re.compile(ends),
        re.compile("|".join(infix)),
        re.compile(url),
    )


def _is_plain(chunk: str) -> bool:
    """Tell a chunk that no pattern cuts, as most are: letters of ASCII alone, or digits."""
    return chunk.isascii() and (chunk.isalpha() or chunk.isdigit())


def _cut(chunk: str, special: dict[str, tuple[str, ...]]) -> list[str]:
    """Cut one chunk: strip affixes until an exception or nothing to strip is left, then infixes."""
    prefix_at, suffix_at, infix_at, url_at = _patterns()
    before: list[str] = []
    after: list[str] = []
    rest = chunk
    while rest and rest not in special and not _is_plain(rest):
        found = prefix_at.match(rest)
        n_prefix = found.end() if found else 0
        if n_prefix and rest[n_prefix:] in special:
            before.append(rest[:n_prefix])
            rest = rest[n_prefix:]
            break
        found = suffix_at.search(rest[max(n_prefix, len(rest) - _TAIL) :])
        n_suffix = len(found[0]) if found else 0
        if n_suffix and rest[:-n_suffix] in special:
            after.append(rest[-n_suffix:])
            rest = rest[:-n_suffix]
            break
        if not n_prefix and not n_suffix:
            break
        if n_prefix:
            before.append(rest[:n_prefix])
        if n_suffix:
            after.append(rest[-n_suffix:])
        rest = rest[n_prefix : len(rest) - n_suffix]
    if rest in special:
        before += special[rest]
    elif _is_plain(rest) or ("." in rest and url_at.match(rest)):
        before.append(rest)
    elif rest:
        start = 0
        for match in infix_at.finditer(rest):
            before += [rest[start : match.start()]] if match.start() > start else []
            before.append(match[0])
            start = match.end()
        before += [rest[start:]] if start < len(rest) else []
    return before + after[::-1]


@cache
def _special_runs() -> dict[str, list[tuple[tuple[str, ...], tuple[str, ...]]]]:
    """Map a first token to the (run of tokens, tokens to put in its place) of exceptions.

    Exceptions that the affix rules would tear apart are put together again where their pieces
    stand side by side: "(:-)" is "(", ":-)".
    """
    runs: dict[str, list[tuple[tuple[str, ...], tuple[str, ...]]]] = {}
    for word, tokens in exceptions().items():
        pieces = tuple(_cut(word, {}))
        if len(pieces) > 1:
            runs.setdefault(pieces[0], []).append((pieces, tokens))
    return runs


def _join_specials(tokens: list[str]) -> list[str]:
    """Replace runs of tokens that spell an exception, the longest first, then the leftmost."""
    runs = _special_runs()
    found = [
        (len(pieces), -start, replacement)
        for start, token in enumerate(tokens)
        for pieces, replacement in runs.get(token, ())
        if tuple(tokens[start : start + len(pieces)]) == pieces
    ]
    taken: set[int] = set()
    replaced: dict[int, tuple[int, tuple[str, ...]]] = {}
    for length, negative_start, replacement in sorted(found, reverse=True):
        start = -negative_start
        if start not in taken and start + length - 1 not in taken:
            replaced[start] = (length, replacement)
        taken.update(range(start, start + length))
    result: list[str] = []
    position = 0
    while position < len(tokens):
        length, replacement = replaced.get(position, (1, (tokens[position],)))
        result += replacement
        position += length
    return result


@lru_cache(maxsize=REMEMBERED)
def cut_chunk(chunk: str) -> tuple[str, ...]:
    """Cut one chunk of lower-case text into tokens; a space inside a token is written `▁`.

    Chunks longer than LONGEST_CHUNK characters are cut into pieces of that length first.
    """
    if not chunk or chunk.isspace():
        return (chunk.replace(" ", "▁"),) if chunk else ()
    tokens: list[str] = []
    for start in range(0, len(chunk), LONGEST_CHUNK):
        tokens += _cut(chunk[start : start + LONGEST_CHUNK], exceptions())
    return tuple(_join_specials(tokens) if len(tokens) > 1 else tokens)
