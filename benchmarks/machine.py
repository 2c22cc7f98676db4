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
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import torch

from ulmfit_fast import _native

ROOT = Path(__file__).resolve().parents[1]
# Runnable processes in the last minute, before this run added to them (run.py hands its own on). On
# two cores, one busy neighbour makes an operation of two threads wait for its turn: 0.4 ms became
# 8 (AMD EPYC, 2026-11-23).
LOAD_AT_START = float(os.environ.get("BENCHMARK_LOAD", os.getloadavg()[0]))
BUSY_LOAD = 0.5
#: Instruction sets that choose between kernels, ours, oneDNN's or MKL's.
CPU_FLAGS = (
    *("avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_bf16", "amx_int8"),
)
#: Beginnings of environment variables that choose threads, kernels or the precision of products.
VARIABLES = ("OMP_", "GOMP_", "KMP_", "MKL_", "ONEDNN_", "DNNL_", "CUBLAS_", "NVIDIA_TF32")
#: Rows, columns and depth of the product that measures a ceiling. On the CPU the one that an LSTM
#: of H 1152 begins with, at T B = 1024.
GEMM_SIZES = {"cpu": (1024, 4608, 1152), "cuda": (8192, 8192, 8192)}
N_SAMPLES = 7


def cpuinfo(field: str) -> str | None:
    """Return the first value of a field of Linux's /proc/cpuinfo; None where there is none."""
    file = Path("/proc/cpuinfo")
    if not file.is_file():
        return None
    match = re.search(rf"^{field}\s*:\s*(.+)$", file.read_text(), re.MULTILINE)
    return None if match is None else match.group(1).strip()


def cpu_name() -> str:
    """Return the processor's name, as Linux tells it, else as Python does."""
    return cpuinfo("model name") or platform.processor() or platform.machine()


def cpu_flags() -> list[str]:
    """Return those of CPU_FLAGS that the processor has, as Linux tells it."""
    found = set((cpuinfo("flags") or "").split())
    return [flag for flag in CPU_FLAGS if flag in found]


def device_name(device: str) -> str:
    """Return the name of the GPU, or of the processor."""
    return torch.cuda.get_device_name() if device == "cuda" else cpu_name()


def slug(device: str) -> str:
    """Return the device's name as a part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", device_name(device).lower()).strip("-")


def use_whole_float32() -> None:
    """Have products of float32 tensors computed in float32, cuDNN's too; its default is TF32."""
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    torch.backends.cudnn.rnn.fp32_precision = "ieee"


def describe(device: str) -> dict[str, object]:
    """Return everything about the machine that could change a time."""
    machine: dict[str, object] = {
        "device": device,
        "cpu": cpu_name(),
        "cpu_flags": cpu_flags(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "torch_config": {
            "mkl": _torch_library(r"Math Kernel Library Version (\S+)"),
            "onednn": _torch_library(r"MKL-DNN v(\S+)"),
            "openmp": _torch_library(r"OpenMP (\d+)"),
        },
        "environment": {k: v for k, v in sorted(os.environ.items()) if k.startswith(VARIABLES)},
        "kernels": {op: kind for (op, where), kind in _native.kernels.items() if where == device},
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
            "cudnn": torch.backends.cudnn.version(),
            "driver": _run("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
            "triton": _triton_version(),
            "float32_products": torch.backends.cuda.matmul.fp32_precision,
            "float32_cudnn": torch.backends.cudnn.rnn.fp32_precision,
        }
    return machine


def origin(program: str = "python -m pytest") -> dict[str, object]:
    """Return date, commit and command of this run, paths of the repository relative to it.

    Args:
        program: what stands before the arguments in the command.
    """
    arguments = [a for a in sys.argv[1:] if not a.startswith("--benchmark-json")]
    changed = _run("git", "status", "--porcelain", "--untracked-files=no")
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": _run("git", "rev-parse", "HEAD"),
        "dirty": None if changed is None else bool(changed),
        "command": f"{program} {shlex.join(arguments)}".strip().replace(f"{ROOT}/", ""),
    }


def copy_rate(device: str) -> float:
    """Measure how many bytes a second a large copy reads and writes."""
    n_bytes = 2**30 if device == "cuda" else 2**28
    source = torch.ones(n_bytes // 4, device=device)
    target = torch.empty_like(source)
    return 2 * n_bytes / _median_seconds(lambda: target.copy_(source), device)


def read_rate(device: str, n_elements: int) -> float:
    """Measure how many bytes a second a sum of float32 numbers reads."""
    source = torch.ones(n_elements, device=device)
    return 4 * n_elements / _median_seconds(source.sum, device)


def gemm_rate(device: str, dtype: torch.dtype) -> float:
    """Measure how many operations a second the fastest matrix product of torch does.

    On an AMD processor torch.mm of float32 runs MKL, at half of oneDNN's rate or less, so the
    product of oneDNN that torch.compile uses is tried too.
    """
    n, m, k = GEMM_SIZES[device]
    a, w = (torch.randn(rows, k, device=device).to(dtype) for rows in (n, m))
    products: list[Callable[[], object]] = [lambda: a @ w.t()]
    if device == "cpu" and _onednn_multiplies(dtype):
        products.append(lambda: torch.ops.mkldnn._linear_pointwise(a, w, None, "none", [], ""))
    return 2 * n * m * k / min(_median_seconds(product, device) for product in products)


def synchronize(device: str) -> None:
    """Wait for the GPU, if that is the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def cache_bytes(device: str) -> int:
    """Return the size of the last cache before a device's memory; 32 MiB where nothing tells."""
    if device == "cuda":
        return torch.cuda.get_device_properties(0).L2_cache_size
    name = "SC_LEVEL3_CACHE_SIZE"
    return (os.sysconf(name) if name in os.sysconf_names else 0) or 2**25


def free_bytes(device: str) -> int:
    """Return how much memory of a device is free, as far as the system tells."""
    if device == "cuda":
        kept = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()  # by torch, for later
        return torch.cuda.mem_get_info()[0] + kept
    file = Path("/proc/meminfo")
    if not file.is_file():
        return sys.maxsize
    match = re.search(r"^MemAvailable:\s*(\d+) kB", file.read_text(), re.MULTILINE)
    return sys.maxsize if match is None else 1024 * int(match.group(1))


def _onednn_multiplies(dtype: torch.dtype) -> bool:
    """Say whether oneDNN has a product of this type on this processor."""
    if not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if dtype == torch.float16:
        return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    return dtype == torch.float32


def _median_seconds(call: Callable[[], object], device: str) -> float:
    seconds = []
    for _ in range(N_SAMPLES):
        synchronize(device)
        start = time.perf_counter()
        call()
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _torch_library(version: str) -> str | None:
    """Return the version of a library that torch was built with; None if it was not."""
    match = re.search(version, torch.__config__.show())
    return None if match is None else match.group(1)


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
