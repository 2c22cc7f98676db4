"""In which precision a model computes: the whole policy of mixed precision.

    parameters, gradients, optimizer's state   float32, always
    LSTM layers, softmax's product             bfloat16 ("bf16") or float32 ("fp32")
    sums, cell state, head, losses             float32

Forward pass and loss run in `Precision.computing()`. Backward pass and optimizer stand outside:
autograd takes every gradient in the dtype of its tensor by itself, and masters are float32.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch

from ulmfit_fast.errors import InputError

PrecisionName = Literal["auto", "bf16", "fp32"]
PRECISIONS = ("auto", "bf16", "fp32")
#: Processors with any of these multiply bfloat16 faster than float32; others convert it.
CPU_FEATURES = ("amx_bf16", "avx512_bf16")
#: First compute capability whose GPUs multiply bfloat16, and whose kernels here take it.
GPU_CAPABILITY = (8, 0)


@dataclass(frozen=True)
class Precision:
    """What was decided for a device.

    Attributes:
        name: "bf16" or "fp32".
        device: where the model computes.
        why: reason, for the user.
    """

    name: Literal["bf16", "fp32"]
    device: torch.device
    why: str

    def computing(self) -> AbstractContextManager[None]:
        """Return the context of a forward pass and its loss; an autocast around it has no say.

        Casts are not kept: one made without gradients, for the chunks of a document that are not
        pooled, must not serve those that are, and a CUDA graph must hold its own.
        """
        context: AbstractContextManager[None] = torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.name == "bf16", cache_enabled=False
        )
        return context


def check_precision_name(name: str) -> None:
    """Raise InputError unless name is one of PRECISIONS."""
    if name not in PRECISIONS:
        raise InputError(f"no precision {name!r}: choose one of {', '.join(PRECISIONS)}")


def choose_precision(name: str, device: torch.device) -> Precision:
    """Decide in which precision a model computes on a device.

    Args:
        name: "auto" takes bfloat16 where the hardware multiplies it, float32 elsewhere. "bf16" is
            also taken on a processor that has to convert it, slowly, so that a model trained with
            it can be used everywhere.
        device: where the model is.

    Raises:
        InputError: no such precision, or "bf16" on a GPU that has none.
    """
    check_precision_name(name)
    why_not = why_no_bf16(device)
    if name == "auto":
        if why_not is None:
            return Precision("bf16", device, "the hardware has it")
        return Precision("fp32", device, why_not)
    if name == "fp32":
        return Precision("fp32", device, "as asked for")
    if why_not is None:
        return Precision("bf16", device, "as asked for")
    if device.type == "cuda":
        raise InputError(f"precision bf16 is not to be had: {why_not}; give auto or fp32")
    return Precision("bf16", device, f"as asked for, but slow: {why_not}")


def why_no_bf16(device: torch.device) -> str | None:
    """Return why a device does not multiply bfloat16 by itself; None if it does."""
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if capability >= GPU_CAPABILITY:
            return None
        found, least = (".".join(map(str, pair)) for pair in (capability, GPU_CAPABILITY))
        return f"this GPU has compute capability {found}, bfloat16 begins at {least}"
    if any(cpu_features().get(feature) for feature in CPU_FEATURES):
        return None
    return "this processor has no bfloat16 products (AMX or AVX512-BF16)"


def cpu_features() -> dict[str, object]:
    """Return what torch knows of the processor; empty where this torch cannot tell."""
    capabilities = getattr(torch.cpu, "get_capabilities", None)
    return {} if capabilities is None else dict(capabilities())
