"""The texts of large files, read anew at every pass: memory does not grow with them."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from hashlib import blake2b

from ..errors import InputError
from .lines import stream_lines
from .shard_rows import ShardRows
from .shards import Shards
from .sources import TableFile, shown
from .table import RawTable, SkippedRow, text_of

# Smaller files are read whole.
_LARGE_BYTES = 64 << 20
# Rows without text that are kept to be listed.
_MOST_LISTED = 10_000


class TextStream:
    """Texts that are read anew at every pass.

    Its length and n_words need a pass of their own, once. Files must not change between passes;
    those of `stream_texts` end in an InputError if they do.

    Args:
        read: begins a pass.
        source: file or folder, for messages.

    Attributes:
        source: file or folder, for messages.
        is_large: whether the texts are too many for a list; a folder's may be few.
        n_files: how many files they stand in.
        text_columns: that they were read from.
        skipped: the first rows without text, after a whole pass.
        n_skipped: how many there are.
        guessed_header: as in TextTable.
    """

    def __init__(self, read: Callable[[], Iterator[str]], source: str) -> None:
        self.source = source
        self.is_large = True
        self.n_files = 1
        self.text_columns: tuple[str, ...] = ()
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

    def without(self, texts: Container[str]) -> TextStream:
        """Return the texts that are not among some others."""
        rest = TextStream(lambda: (t for t in self if t not in texts), self.source)
        rest.is_large = self.is_large
        return rest


class OpenedTexts:
    """Files whose columns are known, before the one of the text is chosen.

    Attributes:
        head: the first rows.
    """

    def __init__(self, rows: ShardRows) -> None:
        self.head: RawTable = rows.head()
        self._rows = rows

    def choose(self, text_columns: Sequence[str] | None) -> TextStream:
        """Choose the columns of the text; see stream_texts."""
        try:
            choice = self.head.choice(text_columns, None, labelled=False)
        except InputError as error:
            left_out = self._rows.left_out()
            if not left_out:
                raise
            raise InputError(f"{error}; left out are {left_out}") from error
        rows = self._rows  # alone: a stream outlives the first rows
        stream = TextStream(lambda: _texts(rows, choice.text, stream), rows.shards.source)
        stream.is_large = rows.shards.n_bytes >= _LARGE_BYTES
        stream.n_files, stream.text_columns = len(rows.shards.files), choice.text
        stream.guessed_header = tuple(self.head.columns) if self.head.header_is_guessed else ()
        return stream


def stream_texts(
    source: str,
    *,
    text_columns: Sequence[str] | None = None,
    encoding: str | None = None,
    header: bool | None = None,
) -> TextStream | None:
    """Open a large file of texts, or many files, without reading them whole.

    Texts, skipped rows and errors are those of `read_table(source, ..., labelled=False)`; errors
    come when a pass gets there, and columns without well-known names are chosen by the first rows.
    Files of a folder or a pattern are of one format and read one after the other (`Shards`); the
    columns are chosen by the first one with a text in it.

    Args:
        source: a txt, csv, tsv, jsonl or parquet file, a folder of such files (also of json), or a
            pattern that their paths fit, such as "corpus/**/train-*.parquet".
        text_columns: as for read_table.
        encoding: as for read_table.
        header: as for read_table.

    Returns:
        texts: None if the source is one file, and small or of another kind: read_table reads it.

    Raises:
        InputError: as for read_table; or a file of a folder is of another kind, lacks a column, or
            has changed since an earlier pass.
    """
    opened = open_texts(source, encoding=encoding, header=header)
    return None if opened is None else opened.choose(text_columns)


def open_texts(
    source: str, *, encoding: str | None = None, header: bool | None = None
) -> OpenedTexts | None:
    """Open what stream_texts does, up to the choice of columns."""
    if source.startswith("hf:"):
        return None
    shards = Shards(source)
    if not shards.is_sharded and (
        shards.n_bytes < _LARGE_BYTES or not _is_streamed(shards.files[0], encoding)
    ):
        return None
    return OpenedTexts(ShardRows(shards, encoding, header))


def _is_streamed(file: TableFile, encoding: str | None) -> bool:
    """Tell whether the rows of a single file can be read one after the other."""
    if file.format == "txt":
        return stream_lines(file, encoding) is not None
    if file.format == "parquet":
        return not file.compression
    return file.format in ("csv", "tsv", "jsonl")


def _texts(rows: ShardRows, names: tuple[str, ...], stream: TextStream) -> Iterator[str]:
    """Yield the texts of rows; at the end, tell the stream which have none."""
    skipped: list[SkippedRow] = []
    n_texts = n_skipped = 0
    for file, rows_of_file in rows.of_columns(names):
        shard = file.name if rows.shards.is_sharded else ""
        for row, values in rows_of_file:
            text, why_missing = text_of([values.get(name) for name in names])
            if why_missing is None:
                n_texts += 1
                yield text
            else:
                n_skipped += 1
                if n_skipped <= _MOST_LISTED:
                    skipped.append(SkippedRow(row, "+".join(names), why_missing, shard))
    if not n_texts:
        where = (skipped[0].file or stream.source) if skipped else stream.source
        raise InputError(
            f'{where}: row {skipped[0].row if skipped else 1}: column "{shown(names[0])}" '
            "has no text in any row: choose another with --text-column"
        )
    stream.skipped, stream.n_skipped = skipped, n_skipped
