"""Loads the compiled libraries, registers one kernel per op and device, keeps why one is missing.

On the CPU an op runs its compiled kernel, else its reference. On a GPU it runs its CUDA C++ or
Triton kernel, else it raises: there is no silent fallback. ULMFIT_FAST_REFERENCE=1, read at import,
runs the reference on both.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch

from ulmfit_fast import _ops, reference
from ulmfit_fast.kernels import (
    activation_regularization,
    concat_pool,
    drop_connect,
    embedding_dropout,
    layerwise_adamw,
    linear_cross_entropy,
    lstm,
    variational_dropout,
)

BUILD_COMMAND = "pip install --no-build-isolation -e ."
#: A huge page of x86-64: smaller tensors have no use for one.
HUGE_PAGE_BYTES = 2 << 20
REFERENCE_KERNELS: dict[str, Callable[..., object]] = {
    op: getattr(reference, op) for op in _ops.SCHEMAS
}
#: Launchers that need the library ulmfit_fast._cuda.
CUDA_KERNELS: dict[str, Callable[..., object]] = {"drop_connect": drop_connect.drop_connect}
#: Launchers that need Triton alone; that of the optimizer runs CUDA C++ instead where it was built.
TRITON_KERNELS: dict[str, Callable[..., object]] = {
    "lstm_forward": lstm.lstm_forward,
    "lstm_backward": lstm.lstm_backward,
    "lstm_chunks_forward": partial(reference.by_chunks, lstm.lstm_forward),
    "layerwise_adamw_": layerwise_adamw.layerwise_adamw_,
    "linear_cross_entropy_forward": linear_cross_entropy.linear_cross_entropy_forward,
    "linear_cross_entropy_backward": linear_cross_entropy.linear_cross_entropy_backward,
    "activation_regularization": activation_regularization.activation_regularization,
    "activation_regularization_backward": (
        activation_regularization.activation_regularization_backward
    ),
    "concat_pool": concat_pool.concat_pool,
    "concat_pool_backward": concat_pool.concat_pool_backward,
    "embedding_dropout": embedding_dropout.embedding_dropout,
    "embedding_dropout_backward": embedding_dropout.embedding_dropout_backward,
    "variational_dropout": variational_dropout.variational_dropout,
}

#: (op, device type) -> "compiled", "triton" or "reference": the kernel that runs.
kernels: dict[tuple[str, str], str] = {}
#: (op, device type) -> why it is not a kernel of ours.
missing: dict[tuple[str, str], str] = {}


def why_missing(op: str, device_type: str = "cuda") -> str | None:
    """Return why an op has no kernel of ours for a kind of device; None where it has one.

    Args:
        op: name without the namespace.
        device_type: "cpu", "cuda" or another of torch's device types.

    Returns:
        reason: part of a sentence, without a full stop; None if more than the reference runs.
    """
    if kernels.get((op, device_type)) in ("compiled", "triton"):
        return None
    return missing.get((op, device_type), f"ulmfit_fast has no kernels for {device_type}")


def require_kernel(op: str, device: torch.device) -> None:
    """Raise unless an op has a kernel for a device.

    Args:
        op: name without the namespace.
        device: where its tensors are; "meta" always passes.

    Raises:
        RuntimeError: no kernel: what is missing, why, and what to do.
    """
    if device.type == "meta" or (op, device.type) in kernels:
        return
    what_to_do = "Move the tensors to the CPU or to a CUDA GPU."
    if device.type == "cuda":
        what_to_do = (
            f"Rebuild with ULMFIT_FAST_BUILD=cuda {BUILD_COMMAND} or set ULMFIT_FAST_REFERENCE=1 "
            "to run the slow PyTorch version."
        )
    raise RuntimeError(
        f"{op} has no {device.type.upper()} kernel here: {why_missing(op, device.type)}. "
        f"{what_to_do}"
    )


def empty_in_huge_pages(like: torch.Tensor) -> torch.Tensor:
    """Return an uninitialised tensor like another, on a CPU in huge pages where Linux has some.

    Args:
        like: dense; its shape, strides, dtype and device are taken.
    """
    tensor = torch.empty_like(like, memory_format=torch.preserve_format, requires_grad=False)
    library = torch.ops.ulmfit_fast_cpu
    large = like.device.type == "cpu" and tensor.nbytes >= HUGE_PAGE_BYTES
    if large and hasattr(library, "advise_huge_pages"):
        library.advise_huge_pages(tensor)
    return tensor


def _load_library(device_type: str) -> str | None:
    """Load ulmfit_fast/_<device_type>.*.so; return why it is not there, None if it is loaded."""
    if device_type == "cuda" and torch.version.cuda is None:
        return f"torch {torch.__version__} is not a CUDA build"
    folder = Path(__file__).parent
    files = sorted(folder.glob(f"_{device_type}.*.so")) + sorted(
        folder.glob(f"_{device_type}.*.pyd")
    )
    if not files:
        return f"the library ulmfit_fast._{device_type} was not built"
    try:
        torch.ops.load_library(files[0])  # type: ignore[no-untyped-call]
    except OSError as error:
        return f"{files[0].name} cannot be loaded ({error})"
    return None


def _compiled_op(device_type: str, op: str) -> tuple[Callable[..., object] | None, str]:
    """Return the private op of a loaded library, or None and why it cannot be used."""
    namespace = getattr(torch.ops, f"ulmfit_fast_{device_type}")
    stale = f"the library ulmfit_fast._{device_type} was built from another version"
    if not hasattr(namespace, op):
        return None, f"{stale} (it has no {op})"
    found = str(getattr(namespace, op).default._schema).split("(", 1)[1]
    if found != _ops.SCHEMAS[op][1:]:
        return None, f"{stale} ({op} has other arguments)"
    return getattr(namespace, op).default, ""


def _register_compiled(device_type: str) -> None:
    """Register the compiled kernels of a device; warn where a library that was built is no use."""
    reason = _load_library(device_type)
    complaint = reason if reason and "cannot be loaded" in reason else None
    for op in sorted(CUDA_KERNELS if device_type == "cuda" else _ops.SCHEMAS):
        kernel = None
        why = reason or ""
        if reason is None:
            kernel, why = _compiled_op(device_type, op)
            complaint = complaint or why or None
        if kernel is None:
            missing[op, device_type] = why
            continue
        chosen = CUDA_KERNELS[op] if device_type == "cuda" else kernel
        torch.library.register_kernel(f"ulmfit_fast::{op}", device_type, chosen)
        kernels[op, device_type] = "compiled"
    if complaint is not None:
        instead = "CUDA tensors raise" if device_type == "cuda" else "the PyTorch reference runs"
        message = f"ulmfit_fast: {complaint}; {instead}. Rebuild with {BUILD_COMMAND}"
        warnings.warn(message, RuntimeWarning, stacklevel=2)


def _register_triton() -> None:
    """Register the Triton kernels, which compile themselves when they are first launched."""
    reason = None
    if torch.version.cuda is None and torch.version.hip is None:
        reason = f"torch {torch.__version__} is not a CUDA build"
    elif find_spec("triton") is None:
        reason = "triton is not installed (pip install triton)"
    for op, launcher in TRITON_KERNELS.items():
        compiled = op == "layerwise_adamw_" and layerwise_adamw.cuda_kernel is not None
        if reason is not None and not compiled:
            missing[op, "cuda"] = reason
            continue
        torch.library.register_kernel(f"ulmfit_fast::{op}", "cuda", launcher)
        kernels[op, "cuda"] = "compiled" if compiled else "triton"


def _register() -> None:
    """Register one kernel for every op and kind of device."""
    by_reference = {"cpu"}
    if os.environ.get("ULMFIT_FAST_REFERENCE") == "1":
        by_reference.add("cuda")
        missing.update(
            {(op, d): "ULMFIT_FAST_REFERENCE=1 is set" for op in _ops.SCHEMAS for d in by_reference}
        )
    else:
        _register_compiled("cpu")
        _register_compiled("cuda")
        if torch.version.cuda is not None:
            layerwise_adamw.cuda_kernel, _ = _compiled_op("cuda", "layerwise_adamw_")
        _register_triton()
    for op in _ops.SCHEMAS:
        for device_type in sorted(by_reference):
            if (op, device_type) not in kernels:
                name = f"ulmfit_fast::{op}"
                torch.library.register_kernel(name, device_type, REFERENCE_KERNELS[op])
                kernels[op, device_type] = "reference"


_register()
