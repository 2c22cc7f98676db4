"""Asks torch, this package's kernels and nvidia-smi about every GPU."""

from __future__ import annotations

import os
import shutil
import subprocess

import torch

from ulmfit_fast.doctor.machine import Gpu
from ulmfit_fast.kernels import lstm

#: (what, H) of the model's LSTM layers.
LAYERS = (("layers of 1152 units", 1152), ("last layer, 400 units", 400))
#: Rows of a batch of the model's usual size.
N_ROWS = 64
#: nvidia-smi's fields of a GPU: speed that is held back, and for what reason.
SLOWDOWNS = {
    "clocks_throttle_reasons.sw_power_cap": "power limit",
    "clocks_throttle_reasons.hw_thermal_slowdown": "heat",
    "clocks_throttle_reasons.sw_thermal_slowdown": "heat",
    "clocks_throttle_reasons.hw_power_brake_slowdown": "power supply",
}


def gpus_of_torch() -> tuple[str, tuple[Gpu, ...]]:
    """Return what torch says when CUDA is started, and the GPUs that it then sees."""
    if torch.version.cuda is None:
        return "", ()
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        return _line(error), ()
    return "", tuple(_gpu(index) for index in range(torch.cuda.device_count()))


def _gpu(index: int) -> Gpu:
    device = torch.device("cuda", index)
    properties = torch.cuda.get_device_properties(device)
    error = own_error = None
    free = 0
    layers: tuple[tuple[str, str], ...] = ()
    try:
        torch.ones(1, device=device).add(1).item()
        free, _ = torch.cuda.mem_get_info(device)
    except RuntimeError as reason:
        error = _line(reason)
    if error is None:
        own_error = _own_launch_error(device)
        layers = tuple((what, _path(H, device)) for what, H in LAYERS)
    busy, others, throttled = _smi(properties)
    return Gpu(
        name=properties.name,
        capability=(properties.major, properties.minor),
        total_bytes=properties.total_memory,
        free_bytes=free,
        launch_error=error,
        own_launch_error=own_error,
        layers=layers,
        busy_percent=busy,
        other_processes=others,
        throttled=throttled,
    )


def _own_launch_error(device: torch.device) -> str | None:
    """Run the smallest kernel of the CUDA library; return what it ended in, None if it ran."""
    op = getattr(torch.ops.ulmfit_fast_cuda, "drop_connect", None)
    if op is None:
        return None
    try:
        op(
            torch.ones(1, device=device), 0.5, torch.ones(1, dtype=torch.int64, device=device)
        ).item()
    except RuntimeError as error:
        return _line(error)
    return None


def _path(H: int, device: torch.device) -> str:
    """Return which kernel a layer of H units runs on."""
    w_hh = torch.empty(4 * H, H, dtype=torch.bfloat16, device=device)
    reasons = [lstm.why_not_persistent(w_hh, N_ROWS, backward) for backward in (False, True)]
    why = next((reason for reason in reasons if reason is not None), None)
    return "persistent kernel" if why is None else f"Triton, a launch a step: {why}"


def _smi(properties: object) -> tuple[int | None, tuple[str, ...], str]:
    """Ask nvidia-smi how busy a GPU is, with whom, and what holds it back."""
    smi, uuid = shutil.which("nvidia-smi"), getattr(properties, "uuid", None)
    if smi is None or uuid is None:
        return None, (), ""
    asked = [smi, "-i", f"GPU-{uuid}"]
    fields = ",".join(["utilization.gpu", *SLOWDOWNS])
    values = _query([*asked, f"--query-gpu={fields}", "--format=csv,noheader,nounits"])
    apps = _query([*asked, "--query-compute-apps=pid,process_name", "--format=csv,noheader"])
    others = tuple(app[1] for app in apps if len(app) > 1 and app[0] != str(os.getpid()))
    if not values or len(values[0]) != 1 + len(SLOWDOWNS):
        return None, others, ""
    busy, *slow = values[0]
    reasons = {
        why for why, state in zip(SLOWDOWNS.values(), slow, strict=True) if state == "Active"
    }
    return int(busy) if busy.isdigit() else None, others, " and ".join(sorted(reasons))


def _query(command: list[str]) -> list[list[str]]:
    """Return the cells of what nvidia-smi prints; nothing where it refuses."""
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        return []
    return [[cell.strip() for cell in line.split(",")] for line in ran.stdout.splitlines()]


def _line(error: Exception) -> str:
    """Return the first line of what an exception says."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
