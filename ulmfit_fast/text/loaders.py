"""Load the columns of tables as text: files, data sets in memory and those of the Hugging Face Hub.

csv and parquet go through `datasets`, csv after a strict look at its structure and as text only
(`datasets` would make 1 of "01" and a missing value of "NA"). Nothing is left in its cache.
"""

from __future__ import annotations

import logging
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from ..errors import InputError
from .csv_check import CsvShape, check_csv
from .json_rows import read_json
from .lines import Columns
from .sources import TableFile, shown

if TYPE_CHECKING:
    from datasets import Dataset

_HUB_NAME = re.compile(r"hf:([\w.-]+(?:/[\w.-]+)?)(?::([\w.-]+))?")


def load_file_columns(
    file: TableFile, encoding: str | None, header: bool | None
) -> tuple[Columns, Sequence[int]]:
    """Read a csv, tsv, json, jsonl or parquet file.

    Returns:
        columns: name to values, None where missing; and the line or record number of each row.

    Raises:
        InputError: see `csv_check` and `json_rows`; a damaged parquet file.
    """
    if file.format in ("json", "jsonl"):
        return read_json(file, encoding)
    if file.format == "parquet":
        with _private_copy(file) as load:
            return load_dataset_columns(load("parquet"), file.name)
    import datasets

    shape = check_csv(file, encoding, header)
    with _private_copy(file) as load:
        dataset = load(
            "csv",
            delimiter=shape.delimiter,
            encoding=shape.encoding,
            header=0 if shape.header else None,
            skiprows=shape.n_blank,
            skip_blank_lines=len(shape.names) > 1,
            column_names=list(shape.names),
            features=datasets.Features({n: datasets.Value("string") for n in shape.names}),
            na_filter=False,
        )
        columns, _ = load_dataset_columns(dataset, file.name)
    _compare(columns, shape, file)
    return columns, shape.lines


def _compare(columns: Columns, shape: CsvShape, file: TableFile) -> None:
    """Check that the lenient reader saw what the strict one saw."""
    for name, n_chars in zip(shape.names, shape.n_chars, strict=True):
        values = columns[name]
        if len(values) != len(shape.lines) or sum(len(v or "") for v in values) != n_chars:
            raise InputError(
                f'{file.name}: column "{shown(name)}": two readers disagree on it '
                f"({len(values)} and {len(shape.lines)} rows): did it change meanwhile? read it "
                "again, or save the table as jsonl"
            )


def load_dataset_columns(dataset: Dataset, where: str) -> tuple[Columns, Sequence[int]]:
    """Return the scalar columns of a data set as text; class numbers become their names.

    Raises:
        InputError: dataset is a dictionary of splits, or has no rows or no scalar column.
    """
    from datasets import ClassLabel, DatasetDict, Value

    if isinstance(dataset, DatasetDict):
        raise InputError(f"{where}: has splits {sorted(map(str, dataset))}: give one, d['train']")
    if not hasattr(dataset, "features") or not hasattr(dataset, "num_rows"):
        raise InputError(
            f"{where}: is a {type(dataset).__name__}: give a path, a datasets.Dataset or hf:name"
        )
    if not dataset.num_rows:
        raise InputError(f"{where}: has no rows: give a table with at least one text")
    columns: Columns = {}
    for name, feature in dataset.features.items():
        if isinstance(feature, ClassLabel):
            names = feature.names
            numbers = cast("list[int | None]", dataset[name][:])
            columns[name] = [None if n is None or n < 0 else names[n] for n in numbers]
        elif isinstance(feature, Value):
            columns[name] = [as_text(value) for value in dataset[name][:]]
    if not columns:
        raise InputError(f"{where}: has no column of text or numbers: flatten its nested columns")
    return columns, range(1, dataset.num_rows + 1)


def load_hub_columns(source: str) -> tuple[Columns, Sequence[int]]:
    """Download (or take from the Hub's cache) "hf:owner/name[:split]" and return its columns.

    Raises:
        InputError: the name is not of that form, or the data set cannot be had.
    """
    match = _HUB_NAME.fullmatch(source)
    if match is None:
        raise InputError(
            f"{source}: not a name on the Hub: write hf:owner/name or hf:owner/name:split"
        )
    import datasets

    with _explained(source, "check name, split and network"):
        dataset = datasets.load_dataset(match[1], split=match[2] or "train")
    return load_dataset_columns(dataset, source)


@contextmanager
def _private_copy(file: TableFile) -> Iterator[Callable[..., Any]]:
    """Give a loader of this file whose cache is a temporary directory.

    The file is loaded through a link with a plain name: `datasets` reads [, * and :: in a path as
    patterns.
    """
    import datasets

    shown = not datasets.are_progress_bars_disabled()
    with tempfile.TemporaryDirectory(prefix="ulmfit-fast-") as directory:
        link = os.path.join(directory, f"table.{file.format}{file.compression}")
        os.symlink(os.path.abspath(file.path), link)

        def load(builder: str, **options: Any) -> Any:
            with _explained(file.name, "save the file again"):
                return datasets.load_dataset(
                    builder,
                    data_files=link,
                    split="train",
                    cache_dir=os.path.join(directory, "cache"),
                    **options,
                )

        datasets.disable_progress_bars()
        try:
            yield load
        finally:
            if shown:
                datasets.enable_progress_bars()


@contextmanager
def _explained(where: str, advice: str) -> Iterator[None]:
    """Turn a failure inside `datasets` into one line, without what libraries log about it."""
    from datasets.exceptions import DatasetsError

    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    except (DatasetsError, OSError, ValueError) as error:
        cause = error.__cause__ or error
        lines = str(cause).strip().splitlines() or [type(cause).__name__]
        raise InputError(f"{where}: cannot load it, {advice}: {shown(lines[0], 200)}") from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def as_text(value: Any) -> str | None:
    """Return a scalar of a typed table as text; None and NaN are missing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return value if isinstance(value, str) else str(value)
