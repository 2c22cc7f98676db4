"""Arguments that kernels take as bits, because Triton would round or refuse the number itself."""

from __future__ import annotations

import struct


def double_bits(value: float) -> int:
    """Return the bits of a float64 as an int64: a float argument would be rounded to float32."""
    (bits,) = struct.unpack("q", struct.pack("d", value))
    return int(bits)


def float_argument(value: float) -> int:
    """Return double_bits for an argument of a kernel; those of -0.0 for 0.0, whose are an int32."""
    return double_bits(value if value else -0.0)


def mask_arguments(drop_p: float) -> tuple[int, int]:
    """Return what a kernel needs of a mask of reference/masks.py beside the seed.

    Args:
        drop_p: chance that an element is dropped, in [0, 1).

    Returns:
        threshold: least word that keeps an element, a uint32, as an int32 of the same bits.
        scale_bits: 1 / (1 - drop_p) as float_argument.
    """
    threshold = int(drop_p * 2**32)
    return threshold - (threshold >> 31 << 32), float_argument(1.0 / (1.0 - drop_p))
