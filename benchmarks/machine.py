"""What a benchmark record says about the machine, the commit and the command it comes from."""

from __future__ import annotations

import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
# Runnable processes in the last minute, before this run added to them (run.py hands its own on). On
# two cores, one busy neighbour makes an operation of two threads wait for its turn: 0.4 ms became
# 8 (AMD EPYC, 2026-11-23).
LOAD_AT_START = float(os.environ.get("BENCHMARK_LOAD", os.getloadavg()[0]))
BUSY_LOAD = 0.5


def cpu_name() -> str:
    """Return the processor's name, as Linux tells it, else as Python does."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        match = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
        if match is not None:
            return match.group(1).strip()
    return platform.processor() or platform.machine()


def device_name(device: str) -> str:
    """Return the name of the GPU, or of the processor."""
    return torch.cuda.get_device_name() if device == "cuda" else cpu_name()


def slug(device: str) -> str:
    """Return the device's name as a part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", device_name(device).lower()).strip("-")


def describe(device: str) -> dict[str, object]:
    """Return everything about the machine that could change a time."""
    machine: dict[str, object] = {
        "device": device,
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "os": f"{platform.system()} {platform.machine()}",
        "load_at_start": round(LOAD_AT_START, 2),
        "copy_gb_per_s": round(copy_rate(device) / 1e9, 1),
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        machine |= {
            "gpu": properties.name,
            "gpu_gib": round(properties.total_memory / 2**30, 1),
            "cuda": torch.version.cuda,
            "driver": _run("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
            "triton": _triton_version(),
        }
    return machine


def origin() -> dict[str, object]:
    """Return date, commit and command of this run."""
    arguments = [a for a in sys.argv[1:] if not a.startswith("--benchmark-json")]
    changed = _run("git", "status", "--porcelain", "--untracked-files=no")
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": _run("git", "rev-parse", "HEAD"),
        "dirty": None if changed is None else bool(changed),
        "command": "python -m pytest " + shlex.join(arguments),
    }


def copy_rate(device: str) -> float:
    """Measure how many bytes a second a large copy reads and writes."""
    n_bytes = 2**30 if device == "cuda" else 2**28
    source = torch.ones(n_bytes // 4, device=device)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(7):
        synchronize(device)
        start = time.perf_counter()
        target.copy_(source)
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return 2 * n_bytes / statistics.median(seconds)


def synchronize(device: str) -> None:
    """Wait for the GPU, if that is the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def _triton_version() -> str | None:
    if find_spec("triton") is None:
        return None
    import triton

    return str(triton.__version__)


def _run(*command: str) -> str | None:
    """Return the output of a command in the repository, None where it cannot run."""
    try:
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return ran.stdout.strip()
