"""Asks this machine for the facts; every question that nobody answers leaves its default."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import torch

from ulmfit_fast import _native
from ulmfit_fast.doctor.gpu_probe import gpus_of_torch
from ulmfit_fast.doctor.machine import Machine
from ulmfit_fast.training.precision import cpu_features

CONTAINER_FILES = (Path("/.dockerenv"), Path("/run/.containerenv"))
QUOTA_FILE = Path("/sys/fs/cgroup/cpu.max")
MEMORY_FILE = Path("/proc/meminfo")
CPU_FILE = Path("/proc/cpuinfo")


def probe(folders: tuple[Path, ...]) -> Machine:
    """Return the facts about this machine.

    Args:
        folders: where results and caches go.
    """
    cuda_error, gpus = gpus_of_torch()
    total, free = _memory()
    library, version, error = _driver()
    return Machine(
        system=platform.system(),
        python=platform.python_version(),
        torch=torch.__version__,
        torch_cuda=torch.version.cuda,
        torch_other=_other_build(),
        torch_archs=tuple(torch.cuda.get_arch_list()),
        device_files=tuple(sorted(str(p) for p in Path("/dev").glob("nvidia[0-9]*"))),
        in_container=any(file.exists() for file in CONTAINER_FILES),
        driver_library=library is not None,
        driver=version,
        driver_cuda=library,
        driver_error=error,
        visible_devices=os.environ.get("CUDA_VISIBLE_DEVICES"),
        gpus=gpus,
        cuda_error=cuda_error,
        cuda_library=_native.missing.get(("drop_connect", "cuda")),
        cpu_library=_native.why_missing("lstm_forward", "cpu"),
        triton=_triton_version(),
        processor=processor_name(),
        features=_features(),
        n_cpus=os.cpu_count() or 1,
        usable_cpus=usable_cpus(),
        n_threads=torch.get_num_threads(),
        total_memory=total,
        free_memory=free,
        disk=tuple((str(folder), _free_bytes(folder)) for folder in folders),
    )


def _other_build() -> str:
    """Name the accelerator that torch was built for, if it is not CUDA."""
    if torch.version.hip is not None:
        return f"ROCm {torch.version.hip}"
    if hasattr(torch, "xpu") and torch.xpu.is_available():
        return "Intel GPUs (XPU)"
    return "Apple's GPUs (MPS)" if torch.backends.mps.is_available() else ""


def _driver() -> tuple[tuple[int, int] | None, str | None, str]:
    """Return the CUDA that the driver's library runs, the driver's version, and what went wrong."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1" if os.name != "nt" else "nvcuda.dll")
    except OSError:
        return None, None, ""
    number = ctypes.c_int()
    if cuda.cuDriverGetVersion(ctypes.byref(number)) != 0:
        number.value = 0
    newest = number.value // 1000, number.value % 1000 // 10
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return newest, None, ""
    query = [smi, "--query-gpu=driver_version", "--format=csv,noheader"]
    ran = subprocess.run(query, capture_output=True, text=True, check=False)
    lines = ran.stdout.split()
    if ran.returncode != 0:
        said = " ".join((ran.stdout + ran.stderr).split())
        return newest, None, said[:200]
    return newest, lines[0] if lines else None, ""


def _triton_version() -> str | None:
    if find_spec("triton") is None:
        return None
    from importlib.metadata import version

    return version("triton")


def processor_name() -> str:
    """Return the processor's name."""
    if CPU_FILE.exists():
        for line in CPU_FILE.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _features() -> frozenset[str]:
    """Return what the processor can do, by the names of Linux and torch."""
    found = {name for name, has in cpu_features().items() if has is True}
    if CPU_FILE.exists():
        for line in CPU_FILE.read_text().splitlines():
            if line.startswith("flags"):
                return frozenset(found | set(line.partition(":")[2].split()))
    return frozenset(found)


def usable_cpus() -> float:
    """Return how many processors this process may use: affinity, and a container's quota."""
    affinity = getattr(os, "sched_getaffinity", None)
    n = float(len(affinity(0)) if affinity is not None else os.cpu_count() or 1)
    if QUOTA_FILE.exists():
        quota, period, *_ = [*QUOTA_FILE.read_text().split(), "100000"]
        if quota.isdigit() and period.isdigit():
            n = min(n, int(quota) / int(period))
    return n


def _memory() -> tuple[int, int]:
    """Return the bytes of memory, all and those that programs can still get."""
    if not MEMORY_FILE.exists():
        return Machine.total_memory, Machine.free_memory
    values = dict(line.split(":") for line in MEMORY_FILE.read_text().splitlines())
    total, free = (1024 * int(values[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
    return total, free


def _free_bytes(folder: Path) -> int:
    """Return the free bytes where a folder is or will be."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free
