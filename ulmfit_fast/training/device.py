"""Where to train."""

from __future__ import annotations

import torch

from ulmfit_fast.errors import InputError


def choose_device(name: str | None) -> torch.device:
    """Return the device to train on; None takes a GPU where torch sees one.

    Raises:
        InputError: no such device here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"no device {name!r}: give cpu or cuda") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"no kernels for device {name!r}: give cpu or cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(
            f"device {name!r} is not usable: torch {torch.__version__} sees no GPU; give cpu"
        )
    return device
