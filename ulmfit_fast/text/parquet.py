"""Read columns of a parquet file row by row: some pages of them are in memory at a time.

Not through `datasets`, which copies the whole file into a cache of its own first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ..errors import InputError
from .loaders import as_text
from .sources import TableFile, reading, shown

# Rows that become Python texts at a time: so many, or fewer where they are long.
_MOST_ROWS = 512
_BYTES_AT_A_TIME = 4 << 20
# Of the file that are read ahead for each column.
_BUFFER = 1 << 20


def parquet_columns(file: TableFile) -> tuple[list[str], dict[str, str]]:
    """Return the names of the scalar columns, and those of the others with their types.

    Raises:
        InputError: the file is damaged, or has no scalar column.
    """
    with _opened(file) as table:
        import pyarrow as pa

        fields = list(table.schema_arrow)
        other = {
            field.name: str(field.type)
            for field in fields
            if pa.types.is_nested(_values_of(field.type)) or _is_binary(field.type)
        }
        names = [field.name for field in fields if field.name not in other]
    if not names:
        raise InputError(
            f"{file.name}: has no column of text or numbers: flatten its nested columns"
        )
    return names, other


def stream_parquet(
    file: TableFile, names: Sequence[str], *, only_texts: bool = True
) -> Iterator[tuple[int, Mapping[str, str | None]]]:
    """Yield record number, from 1, and values of each row.

    Args:
        file: format parquet.
        names: columns to read.
        only_texts: whether numbers and the like are refused; else they become text.

    Raises:
        InputError: the file is damaged or cut off, a column is missing, there twice or of no
            text, or a value is not UTF-8.
    """
    with _opened(file) as table:
        for name in names:
            _check_column(file, table, name, only_texts=only_texts)
        n_before = 0
        for batch in table.iter_batches(
            batch_size=_rows_at_a_time(table, names), columns=list(names), use_threads=False
        ):
            columns = [
                _values(file, batch.column(batch.schema.get_field_index(name)), name, n_before)
                for name in names
            ]
            for i, row in enumerate(zip(*columns, strict=True), n_before + 1):
                yield i, dict(zip(names, row, strict=True))
            n_before += batch.num_rows


@contextmanager
def _opened(file: TableFile) -> Iterator[Any]:
    """Open a parquet file; what goes wrong with it inside the block is an InputError."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise InputError(
            f"{file.name}: parquet files need pyarrow, which is not installed: pip install pyarrow"
        ) from error

    if file.compression:
        raise InputError(
            f"{file.name}: a packed parquet file is read only as a whole, and this is too large or "
            "one of many: unpack it, as parquet packs its columns itself"
        )
    with reading(file):
        try:
            with pq.ParquetFile(
                file.path, buffer_size=_BUFFER, pre_buffer=False, page_checksum_verification=True
            ) as table:
                yield table
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, PermissionError):
                raise
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise InputError(
                f"{file.name}: the parquet file is damaged or cut off, make it again: "
                f"{shown(lines[0], 120)}"
            ) from error


def _check_column(file: TableFile, table: Any, name: str, *, only_texts: bool) -> None:
    import pyarrow as pa

    schema = table.schema_arrow
    n = schema.names.count(name)
    if n != 1:
        why = "has no" if not n else f"has {n} times the"
        found = ", ".join(map(shown, dict.fromkeys(schema.names)))
        raise InputError(
            f'{file.name}: {why} column "{shown(name)}" (found: {shown(found, 120)}): name another '
            "with --text-column"
        )
    kind = _values_of(schema.field(name).type)
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    is_text |= pa.types.is_string_view(kind) or pa.types.is_null(kind)
    if only_texts and not is_text:
        raise InputError(
            f'{file.name}: column "{shown(name)}" holds {shown(str(kind), 60)}, not strings: make '
            "it a column of strings, or name another with --text-column"
        )


def _values_of(kind: Any) -> Any:
    """Return the type of the values that a dictionary stands for."""
    import pyarrow as pa

    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_binary(kind: Any) -> bool:
    import pyarrow as pa

    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    return any(test(_values_of(kind)) for test in tests)


def _rows_at_a_time(table: Any, names: Sequence[str]) -> int:
    """Return how many rows to read at a time, by the mean size of the largest group's rows."""
    largest = 1.0
    for i in range(table.num_row_groups):
        group = table.metadata.row_group(i)
        columns = (group.column(j) for j in range(group.num_columns))
        n_bytes = sum(c.total_uncompressed_size for c in columns if c.path_in_schema in names)
        largest = max(largest, n_bytes / max(1, group.num_rows))
    return max(1, min(_MOST_ROWS, int(_BYTES_AT_A_TIME / largest)))


def _values(file: TableFile, column: Any, name: str, n_before: int) -> list[str | None]:
    try:
        return [as_text(value) for value in column.to_pylist()]
    except UnicodeDecodeError as error:
        row = n_before + 1 + next(i for i, v in enumerate(column) if not _is_utf8(v))
        raise InputError(
            f'{file.name}: row {row}: column "{shown(name)}": byte '
            f"0x{error.object[error.start]:02x} is not utf-8: write the column anew as UTF-8"
        ) from error


def _is_utf8(value: Any) -> bool:
    try:
        value.as_py()
    except UnicodeDecodeError:
        return False
    return True
