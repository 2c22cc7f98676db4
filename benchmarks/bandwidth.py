"""How fast a machine reads memory, and does the memory traffic of AdamW: the floors of a step."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import machine
import torch

SOURCE = Path(__file__).with_name("adamw_traffic.cpp")
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fopenmp")
#: Bytes a parameter: the update reads p, g, m, v and writes p, m, v; the norm reads g.
UPDATE_BYTES, NORM_BYTES = 28, 4


class Rates(NamedTuple):
    """Rates over arrays of one size, in GB/s (1e9).

    Args:
        read: sum of an array.
        traffic: three arrays changed by a fourth in one pass; None where it was not measured.
    """

    read: float
    traffic: float | None


@contextmanager
def meter(device: str) -> Iterator[tuple[Callable[[int], Rates], str | None]]:
    """Give the function that measures Rates at a number of float32 elements.

    On the CPU it is compiled for this machine in a folder that goes with the context. Without a
    compiler, and on a GPU, torch's sum is the reader and there is no traffic.

    Returns:
        measure: number of elements -> rates.
        reason: why there is no traffic; None where there is.
    """
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "traffic"
        reason = "CUDA: copying is the floor" if device == "cuda" else why_not_compiled(program)

        def by_torch(n_elements: int) -> Rates:
            return Rates(machine.read_rate(device, n_elements) / 1e9, None)

        def by_program(n_elements: int) -> Rates:
            command = [program, str(torch.get_num_threads()), str(n_elements)]
            ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found = json.loads(ran.stdout)
            return Rates(found["read_gb_per_s"], found["adamw_traffic_gb_per_s"])

        yield by_program if reason is None else by_torch, reason


def why_not_compiled(program: Path) -> str | None:
    """Compile SOURCE, and return why that failed; None where it did not."""
    named = [os.environ["CXX"]] if os.environ.get("CXX") else [*COMPILERS]
    compiler = next((found for name in named if (found := shutil.which(name))), None)
    if compiler is None:
        return f"no C++ compiler ({', '.join(named)}) to measure it with"
    command = [compiler, *FLAGS, str(SOURCE), "-o", str(program)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode == 0:
        return None
    lines = ran.stderr.strip().splitlines() or ["it says nothing"]
    return f"{Path(compiler).name} cannot compile {SOURCE.name}: {lines[0]}"


def floor(
    n_params: int, clips: bool, rates: Rates, copy_gb_per_s: float, p50_ms: float
) -> dict[str, float | str]:
    """Return the least time of a step that the measured rates allow, and how near p50 comes.

    Args:
        n_params: parameters that move.
        clips: whether the norm of the gradients is needed first, which reads them once more.
        rates: over arrays of n_params elements.
        copy_gb_per_s: the rate of a large copy, for the update where its traffic was not measured.
        p50_ms: measured time.
    """
    by = "copy" if rates.traffic is None else "adamw traffic"
    update_ms = 1e-6 * UPDATE_BYTES * n_params / (rates.traffic or copy_gb_per_s)
    norm_ms = 1e-6 * NORM_BYTES * n_params / rates.read if clips else 0.0
    floor_ms = update_ms + norm_ms
    return {"floor_ms": floor_ms, "floor_by": by, "floor_fraction": floor_ms / p50_ms}
