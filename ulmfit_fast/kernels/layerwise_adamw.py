"""The optimizer's step on a GPU: the only place that chooses its kernels.

CUDA C++ where the library was built (csrc/cuda/layerwise_adamw.cu): two launches, one where nothing
needs the norm, every address and every number an argument by value. Else Triton (adamw_tiles.py):
as many launches, and a table of addresses that goes to the GPU with every step. On either path
nothing waits for the GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ulmfit_fast.kernels.mask import double_bits

#: Elements of a tile, those that a program moves at a time, and its warps: a thread has 4 of every
#: array under way, and forms the tile's factors in float64 once in 8 turns. Not timed yet.
TILE, LINE = 8192, 1024
N_WARPS = 8
#: A program looks for its tile among so many tensors at least: other numbers below compile nothing.
MIN_TENSORS = 32
#: Copies to the GPU that captures may hold, for each size of a tensor on the host.
N_SPARES = 8
#: The op of the library ulmfit_fast._cuda, where it was built from this version; set by _native.
cuda_kernel: Callable[..., object] | None = None
#: Pinned memory for captures, which cannot allocate any, by the number of elements.
_spares: dict[int, list[Tensor]] = {}
#: What CUDA graphs send again on every replay: it lives as long as the process.
_captured: list[Tensor] = []


def layerwise_adamw_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    steps: Sequence[Tensor],
    shadows: Sequence[Tensor],
    averages: Sequence[Tensor],
    n_averaged: Sequence[Tensor],
    grad_norm: Tensor,
    skipped_steps: Tensor,
    ticket: Tensor,
    layers: Tensor,
    layer_of: Sequence[int],
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
    max_grad_norm: float | None,
    skip_nonfinite: bool,
    average_weight: float,
) -> None:
    """Take the step; arguments as in reference.layerwise_adamw_."""
    if cuda_kernel is not None:
        cuda_kernel(
            params, grads, exp_avgs, exp_avg_sqs, steps, shadows, averages, n_averaged, grad_norm,
            skipped_steps, ticket, layers, layer_of, grad_scale, found_inf, max_grad_norm,
            skip_nonfinite, average_weight,
        )  # fmt: skip
        return
    from ulmfit_fast.kernels import adamw_tiles

    device = params[0].device
    # Triton launches on the current device, which need not be that of params.
    with torch.cuda.device_of(params[0]):
        addresses = [
            [t.data_ptr() for t in each] if each else [0] * len(params)
            for each in (params, grads, exp_avgs, exp_avg_sqs, steps, shadows, averages, n_averaged)
        ]
        rows, n_tiles = table_rows(addresses, [p.numel() for p in params], layer_of)
        rows += [double_bits(torch.inf if max_grad_norm is None else max_grad_norm)]
        rows += [double_bits(average_weight), *[0] * 9]
        table = on_device(torch.tensor(rows, device="cpu"), device)
        layers = layers if layers.device == device else on_device(layers, device)
        tiles = (len(params), n_tiles)
        wanted = {
            "TENSORS": max(MIN_TENSORS, 1 << (len(params) - 1).bit_length()),
            "TILE": TILE,
            "LINE": LINE,
            "ALIGNED": not any(a % 16 for each in (*addresses[:4], *addresses[5:7]) for a in each),
            "num_warps": N_WARPS,
        }
        grid, measure = (max(1, n_tiles),), skip_nonfinite or max_grad_norm is not None
        sums = grad_norm.new_empty(n_tiles + 1, dtype=torch.float64) if measure else None
        if measure:
            adamw_tiles._adamw_norm_kernel[grid](
                sums, grad_norm, ticket, table, grad_scale, *tiles, **wanted
            )
        adamw_tiles._adamw_update_kernel[grid](
            skipped_steps, ticket, sums, table, layers, grad_scale, found_inf, *tiles, **wanted,
            MEASURE=measure, SKIP_NONFINITE=skip_nonfinite, HAS_SHADOW=bool(shadows),
            HAS_AVERAGE=bool(averages),
        )  # fmt: skip


def table_rows(
    addresses: list[list[int]], sizes: list[int], layer_of: Sequence[int]
) -> tuple[list[int], int]:
    """Return the rows of adamw_tiles' table, one after the other, and the number of tiles."""
    rows: list[int] = []
    n_tiles = 0
    for *of_tensor, size, layer in zip(*addresses, sizes, layer_of, strict=True):
        rows += [*of_tensor, size, n_tiles, layer]
        n_tiles += -(-size // TILE)
    return rows, n_tiles


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Send a tensor to a GPU without waiting for it.

    Raises:
        RuntimeError: a stream is being captured, and nothing of this size was sent before.
    """
    if device.type != "cuda":
        return tensor  # the interpreter
    n = tensor.numel()
    if not torch.cuda.is_current_stream_capturing():
        spares = _spares.setdefault(n, [])
        while len(spares) < N_SPARES:
            spares.append(torch.empty_like(tensor).pin_memory())
        return tensor.pin_memory().to(device, non_blocking=True)
    if not _spares.get(n):
        raise RuntimeError(
            "layerwise_adamw_: take the step before a CUDA graph captures it; a step outside of a "
            f"capture prepares {N_SPARES} captures"
        )
    pinned = _spares[n].pop().copy_(tensor)
    _captured.append(pinned)
    return pinned.to(device, non_blocking=True)
