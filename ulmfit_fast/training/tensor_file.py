"""Safetensors files of strangers."""

from __future__ import annotations

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from ulmfit_fast.errors import InputError

#: Bytes of a safetensors header; one of ours has some hundred tensors, 100 bytes each. The library
#: takes up to 100 MB, for which it needs several times as much memory.
LARGEST_HEADER = 4 << 20


def parse_tensors(data: bytes, name: object) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, on the CPU.

    Args:
        data: content of the file.
        name: of the file, for messages.

    Raises:
        InputError: it is no such file, or has tensors that torch cannot hold.
    """
    n_bytes = int.from_bytes(data[:8], "little")
    if len(data) < 8 or n_bytes > min(LARGEST_HEADER, len(data) - 8):
        raise InputError(
            f"{name}: not readable (a header of {n_bytes:,} bytes in {len(data):,}); train again"
        )
    # As the library does, whose parser of JSON stops at a depth; the bytes begin with "{".
    if data[8:9] != b"{":
        raise InputError(f"{name}: not readable (its header is no JSON object); train again")
    try:
        return load(data)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        # A dtype of another version of the library is a KeyError, sizes beyond 64 bits the others.
        raise InputError(f"{name}: not readable ({error}); train again") from error
