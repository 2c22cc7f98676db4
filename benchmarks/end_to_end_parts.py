"""What the profiler says about one call: operations, kernels, and the time of each part."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import machine
import timing
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

#: In the order of tables. "rest": between the parts, and all that is not an operation of torch.
PARTS = (
    *("LSTM", "softmax and loss", "embedding and dropouts", "pooling and head", "AR and TAR"),
    *("optimizer", "rest"),
)
_LABEL = "part: "
_BACKWARD = "autograd::engine::evaluate_function: "


def is_operation(name: str) -> bool:
    """Say whether an event of the profiler is an operation of a library of torch's dispatcher."""
    return re.match(r"^(?!autograd::|torch::)\w+::\w+", name) is not None


def operations(events: Sequence[Any]) -> int:
    """Count the operations that no other operation calls."""
    found = 0
    for event in events:
        if event.device_type != DeviceType.CPU or not is_operation(event.name):
            continue
        parent = event.cpu_parent
        while parent is not None and not is_operation(parent.name):
            parent = parent.cpu_parent
        found += parent is None
    return found


def part_of(event: Any, forward_parts: dict[int, str]) -> str | None:
    """Return the part that an event belongs to by what calls it; None outside of all.

    Args:
        event: of the profiler.
        forward_parts: sequence number of autograd -> part of the forward operation that has it.
    """
    while event is not None:
        if event.name.startswith(_LABEL):
            return str(event.name.removeprefix(_LABEL))
        if event.name.startswith(_BACKWARD):
            return forward_parts.get(event.sequence_nr)
        event = event.cpu_parent
    return None


def time_of_parts(events: Sequence[Any], device: str) -> dict[str, float]:
    """Return the milliseconds of each part: on the CPU its own time, else that of its kernels."""
    on_cpu = [event for event in events if event.device_type == DeviceType.CPU]
    forward_parts: dict[int, str] = {}
    for event in sorted(on_cpu, key=lambda event: event.time_range.start):
        # Of several operations with one number the last has made the node of the gradient.
        if event.sequence_nr >= 0 and not _is_backward(event):
            forward_parts[event.sequence_nr] = part_of(event, {}) or "rest"
    times_us: dict[str, float] = defaultdict(float)
    for event in on_cpu:
        own = event.self_device_time_total if device == "cuda" else event.self_cpu_time_total
        times_us[part_of(event, forward_parts) or "rest"] += own
    return {part: 1e-3 * times_us[part] for part in PARTS if times_us[part] > 0}


def _is_backward(event: Any) -> bool:
    while event is not None:
        if event.name.startswith(_BACKWARD):
            return True
        event = event.cpu_parent
    return False


def measure(work: Callable[[], object], labels: Callable[[ExitStack], None], device: str) -> Any:
    """Return the launches and parts of one call of what has run before.

    Returns:
        operations: torch's, that no other one calls; kernels: launched on a GPU, copies and fills
            too, None on a CPU; parts_ms: part -> milliseconds, slowed by the profiler where there
            are many operations; busy: part of the time in which the GPU runs a kernel, or None.
    """
    on_gpu = device == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with ExitStack() as stack:
        labels(stack)
        with profile(activities=activities) as found:
            whole_ms = timing.call_ms(work, device)
            machine.synchronize(device)
    events = list(found.events())
    parts_ms = time_of_parts(events, device)
    record: dict[str, Any] = {"operations": operations(events), "kernels": None, "busy": None}
    if on_gpu:
        kernels = [e for e in events if e.device_type == DeviceType.CUDA]
        kernels = [e for e in kernels if not e.is_user_annotation]
        busy_ms = 1e-3 * sum(event.time_range.elapsed_us() for event in kernels)
        record |= {"kernels": len(kernels), "busy": busy_ms / whole_ms}
    else:
        parts_ms["rest"] = max(whole_ms - sum(parts_ms.values()), 0) + parts_ms.get("rest", 0)
    return {**record, "parts_ms": {k: round(v, 3) for k, v in parts_ms.items()}}
