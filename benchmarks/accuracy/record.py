"""One JSON for each (task, variant, preset, seed), and whether it has to be measured."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

import machine

from ulmfit_fast.errors import InputError
from ulmfit_fast.training.device import choose_device

SCHEMA = 1
#: What every record has.
FIELDS = (
    *("schema", "date", "commit", "dirty", "command", "machine", "task", "dataset", "variant"),
    *("preset", "seed", "settings", "seconds", "metrics"),
)
RESULTS = machine.ROOT / "benchmarks" / "results" / "accuracy"


@dataclass(frozen=True)
class Unit:
    """A figure that is measured on its own.

    Attributes:
        task: task of the driver.
        dataset: what is measured on.
        variant: what is measured.
        preset: name of the preset.
        seed: of everything random but the splits.
        settings: JSON values that decide the result; a record with others is measured anew.
        measure: measures, given a folder of its own for checkpoints; returns JSON metrics.
    """

    task: str
    dataset: str
    variant: str
    preset: str
    seed: int
    settings: dict[str, Any]
    measure: Callable[[Path], dict[str, Any]]

    @property
    def name(self) -> str:
        """Its record's name, without the ending."""
        return f"{self.dataset}--{self.variant}--{self.preset}--seed{self.seed}"

    def file(self, results: Path) -> Path:
        """Return where its record stands."""
        return results / self.task / f"{self.name}.json"


def read(file: Path) -> dict[str, Any] | None:
    """Read a record; None where there is none.

    Raises:
        InputError: it is damaged.
    """
    if not file.is_file():
        return None
    try:
        record = json.loads(file.read_text())
    except ValueError as error:
        raise InputError(f"{file}: not a record ({error}): delete it to measure anew") from error
    if missing := [name for name in FIELDS if name not in record]:
        raise InputError(f"{file}: no {missing[0]}: not a record: delete it to measure anew")
    return dict(record)


def as_json(values: Any) -> Any:
    """Return values as JSON gives them back: tuples are lists there."""
    return json.loads(json.dumps(values))


def run(unit: Unit, options: argparse.Namespace) -> bool:
    """Measure a unit, unless its record is there with the same settings.

    Args:
        unit: what to measure.
        options: of the driver.

    Returns:
        measured: False where the record was there.
    """
    file = unit.file(options.results)
    settings = as_json(unit.settings)
    old = read(file)
    if old is not None and old["settings"] == settings:
        say(f"{unit.task} {unit.name}: there")
        return False
    if old is not None:
        say(f"{unit.task} {unit.name}: other settings ({difference(old['settings'], settings)})")
    say(f"{unit.task} {unit.name}: begins")
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    work = options.work / unit.task / f"{unit.name}--{digest[:8]}"
    work.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    metrics = unit.measure(work)
    record = {
        "schema": SCHEMA,
        **machine.origin(),
        "command": command(options),
        "machine": described(choose_device(options.device).type),
        "task": unit.task,
        "dataset": unit.dataset,
        "variant": unit.variant,
        "preset": unit.preset,
        "seed": unit.seed,
        "settings": settings,
        "seconds": round(time.perf_counter() - began, 2),
        "metrics": metrics,
    }
    write(file, record)
    shutil.rmtree(work)  # checkpoints, of no more use
    say(f"{unit.task} {unit.name}: {summary(metrics)}, {record['seconds']} s")
    return True


def write(file: Path, record: dict[str, Any]) -> None:
    """Write a record, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as partial:
        partial.write((json.dumps(record, indent=1, allow_nan=False) + "\n").encode())


@contextmanager
def replacing(file: Path) -> Iterator[IO[bytes]]:
    """Open a file that takes another's place once it is written."""
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    with open(partial, "wb") as opened:
        yield opened
    os.replace(partial, file)


@cache
def described(device: str) -> dict[str, object]:
    """Return the machine, measured once a process."""
    return machine.describe(device)


def command(options: argparse.Namespace) -> str:
    """Return the command of this process; of absolute paths the last part alone."""
    words = [re.sub(r"(^|=)/\S*/([^/\s]+)/?$", r"\1\2", word) for word in options.arguments]
    return " ".join(["python -m benchmarks.accuracy", *words])


def summary(metrics: dict[str, Any]) -> str:
    """Return the figure that a reader of the terminal waits for."""
    if "error" in metrics:
        return f"error {100 * metrics['error']:.2f} %"
    names = [name for name in metrics if name.endswith("perplexity")]
    return ", ".join(f"{name.replace('_', ' ')} {metrics[name]:.2f}" for name in names)


def difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Name the settings that differ."""
    return ", ".join(sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k)))


def all_records(results: Path) -> list[dict[str, Any]]:
    """Return the records of all tasks, in the order of their names."""
    files = sorted(results.glob("*/*.json"))
    return [record for file in files if (record := read(file)) is not None]


def say(line: str) -> None:
    """Tell the terminal."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
