"""Flip bits of saved files, one at a time, and count how many a reader finds.

    python tests/flipped_bits.py --flips 1000

Bits are drawn evenly over the bytes of all files of a model folder, and of a checkpoint of a
training that was stopped; half of them in the first 4,096 bytes of a file, where its header is.
Ends with status 1 if one is not found.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from fuzz.models import small_trainer
from fuzz.snapshots import checkpoint

from ulmfit_fast import InputError, ULMFiTTrainer
from ulmfit_fast.training.snapshot import read_snapshot

FIRST_BYTES = 4096


def n_found(
    folder: Path, read: Callable[[Path], object], n_flips: int, seed: int
) -> dict[str, int]:
    """Flip bits of the files of a folder; return how many were found, and in which file.

    Raises:
        AssertionError: the folder cannot be read before or after.
    """
    draw, found = random.Random(seed), collections.Counter[str]()
    files = sorted(folder.iterdir())
    contents = {path: path.read_bytes() for path in files}
    sizes = [len(contents[path]) for path in files]
    read(folder)
    for number in range(n_flips):
        if number % 2:
            path = draw.choice(files)
            place = draw.randrange(min(FIRST_BYTES, len(contents[path])))
        else:
            path = draw.choices(files, sizes)[0]
            place = draw.randrange(len(contents[path]))
        damaged = bytearray(contents[path])
        damaged[place] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        try:
            read(folder)
        except InputError:
            found[path.name] += 1
        path.write_bytes(contents[path])
    read(folder)
    return dict(found)


def count(n_flips: int, seed: int = 0) -> dict[str, dict[str, int]]:
    """Return what was found in a model folder and in a checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        small_trainer("classifier").save(model)
        written = checkpoint()
        written.put(written.files)  # good again, whatever else was tried with it
        return {
            "model": n_found(model, lambda f: ULMFiTTrainer.load(f, device="cpu"), n_flips, seed),
            "checkpoint": n_found(written.folder, read_snapshot, n_flips, seed),
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found = count(options.flips, options.seed)
    for what, files in found.items():
        print(
            f"{what}: {sum(files.values())} of {options.flips} flipped bits found",
            json.dumps(files),
        )
    return int(any(sum(files.values()) < options.flips for files in found.values()))


if __name__ == "__main__":
    sys.exit(main())
