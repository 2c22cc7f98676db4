"""The persistent CUDA kernels of the weight-dropped LSTM: what they take, how they are laid out.

One launch runs T steps of a layer: a group of ceil(H / units) blocks holds all of w_hh and works on
a part of the batch rows, and all blocks have to be on the GPU together. Kernels and their layouts:
csrc/cuda/lstm_forward.cu and lstm_backward.cu.

Sizes: T time steps, B batch rows, H hidden units.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

DTYPES = (torch.bfloat16, torch.float16)
#: As in csrc/launchers.h: units of a block, the largest H, the rows of a group of the forward one.
FORWARD_UNITS, BACKWARD_UNITS = 18, 32
MAX_UNITS = 1152
MAX_ROWS = 128
#: Rows that a group takes before there is a second one: a tile of the matrix instructions.
TILE_ROWS = 16


def why_not(w_hh: Tensor, B: int, backward: bool) -> str | None:
    """Return why a layer has to run on the Triton kernels instead, or None.

    Args:
        w_hh: recurrent weights on a GPU, contiguous; shape [4H, H].
        B: batch rows.
        backward: which of the two kernels.

    Returns:
        reason: part of a sentence, without a full stop.
    """
    H = w_hh.shape[1]
    if not hasattr(torch.ops.ulmfit_fast_cuda, "lstm_forward_steps"):
        return "the library ulmfit_fast._cuda was not built"
    if w_hh.dtype not in DTYPES:
        return f"it takes bfloat16 and float16, found {str(w_hh.dtype).removeprefix('torch.')}"
    if H % 2 or H > MAX_UNITS:
        return f"it takes an even H of at most {MAX_UNITS}, found {H}"
    if w_hh.data_ptr() % 16:
        return "w_hh does not begin at a multiple of 16 bytes"
    found, needed = resident_blocks(w_hh, backward), blocks_of_group(H, backward)
    if found < needed:
        return f"it needs {needed} blocks at once, and this GPU holds {found} of them"
    if not backward and rows_of_group(B, groups(B, H, found, backward)) > MAX_ROWS:
        return f"it takes {found // needed * MAX_ROWS} rows at H {H} on this GPU, found {B}"
    return None


def n_groups(w_hh: Tensor, B: int, backward: bool) -> int:
    """Return the groups of a launch that why_not() has nothing against."""
    return groups(B, w_hh.shape[1], resident_blocks(w_hh, backward), backward)


def groups(B: int, H: int, resident: int, backward: bool) -> int:
    """Return how many groups share B rows where so many blocks run at once; none is empty."""
    most = max(1, resident // blocks_of_group(H, backward))
    wanted = min(most, -(-B // TILE_ROWS))
    return -(-B // rows_of_group(B, wanted))


def rows_of_group(B: int, n: int) -> int:
    """Return the rows of each of n groups but the last, which may have fewer."""
    return -(-B // n)


def blocks_of_group(H: int, backward: bool) -> int:
    """Return the blocks that hold all units."""
    return -(-H // (BACKWARD_UNITS if backward else FORWARD_UNITS))


def resident_blocks(w_hh: Tensor, backward: bool) -> int:
    """Return how many blocks of the kernel for w_hh its GPU runs at once; asked for once."""
    return _resident_blocks(w_hh.device, w_hh.dtype, w_hh.shape[1], backward)


@lru_cache(maxsize=256)
def _resident_blocks(device: torch.device, dtype: torch.dtype, H: int, backward: bool) -> int:
    like = torch.empty((0, H), dtype=dtype, device=device)
    found: int = torch.ops.ulmfit_fast_cuda.lstm_resident_blocks(like, backward)
    return found
