"""What of a machine decides how fast it is, as far as the system tells."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ulmfit_fast import __version__, _native

#: Runnable processes for each core above which times are those of a busy machine.
BUSY_LOAD = 0.25


def describe(device: torch.device) -> dict[str, Any]:
    """Return names and versions, for JSON."""
    facts: dict[str, Any] = {
        "device": device.type,
        "cpu": cpu_name(),
        "n_cores": os.cpu_count() or 1,
        "n_threads": torch.get_num_threads(),
        "load": load(),
        "kernels": {op: name for (op, where), name in _native.kernels.items()
                    if where == device.type},
        "ulmfit_fast": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }  # fmt: skip
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
        facts["cuda"] = torch.version.cuda
    return facts


def cpu_name() -> str:
    """Return the processor's name, as Linux tells it, else as Python does."""
    file = Path("/proc/cpuinfo")
    text = file.read_text(errors="replace") if file.is_file() else ""
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match.group(1).strip() if match else platform.processor() or platform.machine()


def load() -> float | None:
    """Return the processes that wanted to run in the last minute; None where no system tells."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def is_busy(load: float | None, n_cores: int) -> bool:
    """Tell whether others use so much of the machine that times are longer than they could be."""
    return load is not None and load > BUSY_LOAD * n_cores


def free_bytes(device: torch.device) -> int:
    """Return how much memory of a device is free; all there could be where no system tells."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    file = Path("/proc/meminfo")
    text = file.read_text() if file.is_file() else ""
    match = re.search(r"^MemAvailable:\s*(\d+) kB", text, re.MULTILINE)
    return 1024 * int(match.group(1)) if match else sys.maxsize


@contextmanager
def whole_float32() -> Iterator[None]:
    """Have products of float32 tensors computed in float32: cuDNN's default is TF32."""
    places: Any = torch.backends.cuda.matmul, torch.backends.cudnn.rnn
    before = [place.fp32_precision for place in places]
    try:
        for place in places:
            place.fp32_precision = "ieee"
        yield
    finally:
        for place, precision in zip(places, before, strict=True):
            place.fp32_precision = precision
