"""Content hashes are verified: a flipped bit anywhere in a model or a checkpoint is found."""

from __future__ import annotations

from pathlib import Path

import flipped_bits


def test_every_flipped_bit_of_a_model_and_of_a_checkpoint_is_found() -> None:
    found = flipped_bits.count(1000)
    assert {what: sum(files.values()) for what, files in found.items()} == {
        "model": 1000,
        "checkpoint": 1000,
    }
    assert all(len(files) == 4 for files in found.values())  # bits of every file were flipped


def test_a_reader_that_looks_at_nothing_finds_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(100))
    assert flipped_bits.n_found(tmp_path, Path.iterdir, 20, 0) == {}
