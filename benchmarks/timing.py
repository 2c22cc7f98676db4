"""Medians, floors, and the time of one call on the device's own clock."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch


def summary(times_ms: Sequence[float]) -> dict[str, float]:
    """Return p20, p50, p80 and n of times in milliseconds."""
    samples = times_ms if len(times_ms) > 1 else 2 * [*times_ms]
    p20, _, _, p80 = statistics.quantiles(samples, n=5, method="inclusive")
    return {"p20": p20, "p50": statistics.median(times_ms), "p80": p80, "n": len(times_ms)}


def floor(
    n_bytes: int, n_flops: int, p50_ms: float, copy_rate: float, gemm_rate: float | None
) -> dict[str, Any]:
    """Return the least time that the machine's measured ceilings allow, and how near p50 comes.

    Args:
        n_bytes: that must be read and written.
        n_flops: of all matrix products; 0 for none.
        p50_ms: measured time.
        copy_rate: bytes a second that a large copy reads and writes.
        gemm_rate: operations a second of the fastest matrix product; None where n_flops is 0.
    """
    copy_ms = 1e3 * n_bytes / copy_rate
    gemm_ms = 0.0 if gemm_rate is None else 1e3 * n_flops / gemm_rate
    floor_ms = max(copy_ms, gemm_ms)
    by = "gemm" if gemm_ms > copy_ms else "copy"
    return {"floor_ms": floor_ms, "floor_by": by, "floor_fraction": floor_ms / p50_ms}


def call_ms(call: Callable[[], object], device: str) -> float:
    """Return the time of one call: on a GPU between two of its events, else by the wall clock."""
    if device != "cuda":
        start_s = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - start_s)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def capture(call: Callable[[], object]) -> torch.cuda.CUDAGraph:
    """Return a CUDA graph of a call, after three calls outside of it."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # compiles kernels and lets cuBLAS and the allocator settle
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph


def captured(call: Callable[[], object]) -> Callable[[], object]:
    """Return the replay of a CUDA graph of a call; its masks are fresh in every replay."""
    return capture(call).replay
