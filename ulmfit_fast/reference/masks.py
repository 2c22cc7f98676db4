"""Random masks that are functions of a seed.

Element i of a tensor (row-major, whatever the strides) reads word i % 4 of Philox4x32-10 with
counter (j lo32, j hi32, 0, 0), j = i // 4, and key (seed lo32, seed hi32). It is kept iff that
word >= floor(drop_p * 2**32), and a kept value is multiplied by 1 / (1 - drop_p).
"""

from __future__ import annotations

import torch
from torch import Tensor

WORD = 0xFFFFFFFF
PHILOX_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
PHILOX_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)


def philox4x32(counter: tuple[Tensor, ...], key: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the four 32-bit words of Philox4x32-10.

    Args:
        counter: four int64 tensors of one shape, each holding 32-bit words.
        key: two int64 tensors that broadcast against them, 32-bit words.

    Returns:
        words: four int64 tensors in [0, 2**32).

    Source: Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3".
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        # int64 products wrap modulo 2**64, so both 32-bit halves come out right.
        p0 = c0 * PHILOX_MULTIPLIERS[0]
        p1 = c2 * PHILOX_MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((p1 >> 32) & WORD) ^ c1 ^ k0,
            p1 & WORD,
            ((p0 >> 32) & WORD) ^ c3 ^ k1,
            p0 & WORD,
        )
        k0 = (k0 + PHILOX_KEY_STEPS[0]) & WORD
        k1 = (k1 + PHILOX_KEY_STEPS[1]) & WORD
    return c0, c1, c2, c3


def keep_mask(shape: torch.Size | tuple[int, ...], drop_p: float, seed: Tensor) -> Tensor:
    """Draw which elements of a tensor stay.

    Args:
        shape: any shape; elements are counted in row-major order.
        drop_p: chance that an element is dropped, in [0, 1).
        seed: int64 tensor with one element; the mask lies on its device.

    Returns:
        keep: bool tensor of the shape, True where the element stays.
    """
    n = torch.Size(shape).numel()
    words = _words(torch.arange((n + 3) // 4, device=seed.device), seed)
    threshold = int(drop_p * 2**32)
    return (torch.stack(words, dim=1).flatten()[:n] >= threshold).reshape(shape)


def keep_at(index: Tensor, drop_p: float, seed: Tensor) -> Tensor:
    """Draw which of some elements stay: keep_mask at their places in row-major order.

    Args:
        index: int64, any shape, >= 0.
        drop_p: chance that an element is dropped, in [0, 1).
        seed: int64 tensor with one element, on index's device.

    Returns:
        keep: bool tensor of index's shape.
    """
    words = torch.stack(_words(index >> 2, seed), dim=-1)
    word = words.gather(-1, (index & 3).unsqueeze(-1)).squeeze(-1)
    return word >= int(drop_p * 2**32)


def _words(block: Tensor, seed: Tensor) -> tuple[Tensor, ...]:
    """Return the words of blocks of four elements."""
    zero = torch.zeros_like(block)
    seed = seed.reshape(())
    return philox4x32((block & WORD, block >> 32, zero, zero), (seed & WORD, (seed >> 32) & WORD))


def drop_connect(weight: Tensor, drop_p: float, seed: Tensor) -> Tensor:
    """Zero each element with chance drop_p and rescale the rest by 1 / (1 - drop_p).

    Args:
        weight: any shape and strides, floating point.
        drop_p: chance that an element is zero, in [0, 1).
        seed: int64 tensor with one element, on weight's device.

    Returns:
        dropped: contiguous tensor of weight's shape and dtype; dropped entries are +0.
    """
    keep = keep_mask(weight.shape, drop_p, seed)
    return torch.where(keep, weight * (1.0 / (1.0 - drop_p)), 0.0).contiguous()


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of sums and of the cell state: at least float32."""
    return torch.promote_types(dtype, torch.float32)
