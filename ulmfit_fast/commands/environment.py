"""The machine a run had, and the memory it took, for its summary."""

from __future__ import annotations

import platform
import sys
from typing import Any

import torch

from ulmfit_fast.doctor.probe import processor_name


def environment() -> dict[str, Any]:
    """Return system, processor, GPUs and torch's CUDA as JSON values."""
    return {
        "system": platform.platform(),
        "processor": processor_name(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda,
    }


def peak_memory(device: str) -> dict[str, int]:
    """Return the most memory that this process has held until now, bytes.

    Args:
        device: where the models train.

    Returns:
        peaks: host_bytes, where the system counts it; gpu_bytes, what torch held on a GPU.
    """
    peaks = {}
    if sys.platform != "win32":
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        peaks["host_bytes"] = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if torch.device(device).type == "cuda":
        peaks["gpu_bytes"] = torch.cuda.max_memory_allocated(device)
    return peaks
