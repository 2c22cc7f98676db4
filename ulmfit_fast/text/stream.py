"""The texts of a large file, read anew at every pass: memory does not grow with the file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import chain, islice
from pathlib import Path

from ..errors import InputError
from .csv_check import check_csv, stream_csv
from .json_rows import stream_json
from .lines import stream_lines
from .sources import TableFile, find_file, shown
from .table import RawTable, SkippedRow, names_of_csv, text_of

# Smaller files are read whole. One that is packed counts as so many times its size.
_LARGE_BYTES = 64 << 20
_UNPACKED = 4
# Rows that the columns are chosen by, and rows without text that are kept to be listed.
_SAMPLE_ROWS = 2_000
_MOST_LISTED = 10_000

Rows = Iterator[tuple[int, Mapping[str, str | None]]]


class TextStream:
    """Texts that are read anew at every pass.

    Its length and n_words need a pass of their own, once. A file must not change between passes.

    Args:
        read: begins a pass.
        source: file, for messages.

    Attributes:
        source: file, for messages.
        skipped: the first rows without text, after a whole pass.
        n_skipped: how many there are.
        guessed_header: as in TextTable.
    """

    def __init__(self, read: Callable[[], Iterator[str]], source: str) -> None:
        self.source = source
        self.skipped: list[SkippedRow] = []
        self.n_skipped = 0
        self.guessed_header: tuple[str, ...] = ()
        self._read = read
        self._counts: tuple[int, int] | None = None

    def __iter__(self) -> Iterator[str]:
        return self._read()

    def __len__(self) -> int:
        return self._count()[0]

    @property
    def n_words(self) -> int:
        """Words between spaces, of all texts."""
        return self._count()[1]

    def _count(self) -> tuple[int, int]:
        if self._counts is None:
            n_texts = n_words = 0
            for text in self:
                n_texts += 1
                n_words += len(text.split())
            self._counts = n_texts, n_words
        return self._counts

    def split(self, share: float, seed: int) -> tuple[TextStream, TextStream]:
        """Return the texts without about a share of them, and these, each different one once.

        A text is held out by its content and the seed alone, so equal ones stay together.
        """
        key, bound = str(seed).encode(), int(share * 2**64)

        def digest(text: str) -> int:
            content = text.encode("utf-8", "surrogatepass")
            return int.from_bytes(blake2b(content, digest_size=8, key=key).digest(), "little")

        def held_out() -> Iterator[str]:
            seen: set[int] = set()
            for text in self:
                number = digest(text)
                if number < bound and number not in seen:
                    seen.add(number)
                    yield text

        rest = TextStream(lambda: (t for t in self if digest(t) >= bound), self.source)
        return rest, TextStream(held_out, self.source)


def stream_texts(
    source: str,
    *,
    text_columns: Sequence[str] | None = None,
    encoding: str | None = None,
    header: bool | None = None,
) -> TextStream | None:
    """Open a large file of texts without reading it whole.

    Texts, skipped rows and errors are those of `read_table(source, ..., labelled=False)`; errors
    come when a pass gets there, and columns without well-known names are chosen by the first rows.

    Args:
        source: a txt, csv, tsv, jsonl file, plain or packed.
        text_columns: as for read_table.
        encoding: as for read_table.
        header: as for read_table.

    Returns:
        texts: None if the source is small or of another kind: read_table reads it.

    Raises:
        InputError: as for read_table.
    """
    if source.startswith("hf:"):
        return None
    file = find_file(Path(source))
    size = file.path.stat().st_size * (_UNPACKED if file.compression else 1)
    if size < _LARGE_BYTES:
        return None
    return _stream_of(file, text_columns, encoding, header)


def _stream_of(
    file: TableFile, text_columns: Sequence[str] | None, encoding: str | None, header: bool | None
) -> TextStream | None:
    has_names, is_guessed = True, False
    if file.format == "txt":
        if stream_lines(file, encoding) is None:
            return None
        has_names = False
        begin: Callable[[], Rows] = lambda: _named(stream_lines(file, encoding))  # noqa: E731
    elif file.format in ("csv", "tsv"):
        shape = check_csv(file, encoding, header)
        has_names, is_guessed = names_of_csv(list(shape.names), header)
        begin = lambda: stream_csv(file, shape)  # noqa: E731
    elif file.format == "jsonl":
        begin = lambda: stream_json(file, encoding)  # noqa: E731
    else:
        return None
    sample = list(islice(begin(), _SAMPLE_ROWS))
    names = list(dict.fromkeys(chain.from_iterable(values for _, values in sample)))
    columns = {name: [values.get(name) for _, values in sample] for name in names}
    table = RawTable(file.name, columns, [n for n, _ in sample], has_names, is_guessed)
    choice = table.choice(text_columns, None, labelled=False)
    stream = TextStream(lambda: _texts(begin(), choice.text, stream), file.name)
    stream.guessed_header = tuple(names) if is_guessed else ()
    return stream


def _named(texts: Iterator[tuple[int, str]] | None) -> Rows:
    for number, text in texts or ():
        yield number, {"text": text}


def _texts(rows: Rows, names: tuple[str, ...], stream: TextStream) -> Iterator[str]:
    """Yield the texts of rows; at the end, tell the stream which have none."""
    skipped: list[SkippedRow] = []
    n_texts = n_skipped = 0
    for row, values in rows:
        text, why_missing = text_of([values.get(name) for name in names])
        if why_missing is None:
            n_texts += 1
            yield text
        else:
            n_skipped += 1
            if n_skipped <= _MOST_LISTED:
                skipped.append(SkippedRow(row, "+".join(names), why_missing))
    if not n_texts:
        raise InputError(
            f'{stream.source}: row {skipped[0].row if skipped else 1}: column "{shown(names[0])}" '
            "has no text in any row: choose another with --text-column"
        )
    stream.skipped, stream.n_skipped = skipped, n_skipped
