"""The weight-dropped LSTM on a GPU: the only place that chooses its kernel.

Where why_not_persistent() has nothing against it, T steps are one launch of the persistent CUDA
C++ kernel (lstm_persistent.py, csrc/cuda). Forward and backward are asked separately: what the one
saves for the other is the same on both paths.

The Triton path takes any H, T and B: the dropped weight is made once a call, the input projection
is one product for many steps, and a step is one product of cuBLAS (rocBLAS) and one kernel of
lstm_cell.py. On both paths what needs no order in time (dw_ih, dw_hh, dx) is one product after the
last step. Everything is queued on the current stream and nothing waits for it, so a CUDA graph can
capture a call; the seed is read by the kernel, so every replay draws the mask of the seed it finds.
Products of float32 tensors are as exact as torch.set_float32_matmul_precision allows.

Sizes: T time steps, B batch rows, I input features, H hidden units. Transient memory beyond the
results: the dropped weight [4H, H], sums [B, 4H] and states [B, H], or on the persistent path two
states (forward) or dgates (backward) of a step; forward without save the gates of CHUNK_ROWS rows
[CHUNK_ROWS, 4H]; backward dgates [T, B, 4H] and h before each step [T, B, H],
and the undropped dw_hh [4H, H] in the accumulation dtype.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ulmfit_fast.kernels import lstm_persistent
from ulmfit_fast.kernels.mask import mask_arguments

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
#: Rows (steps times batch rows) of one input projection where the gates are not kept: 4H of a row
#: are 9 KiB at H 1152 in 16 bits, so 19 MB; fewer rows would leave a large GPU partly idle.
CHUNK_ROWS = 2048
#: Units of a program: at 2 warps a thread has 4 neighbours, 16 bytes of float32. Not timed yet.
BLOCK_H = 256
#: Blocks of Philox of a program, 4 elements each. Not timed yet.
BLOCK_PHILOX = 256


def why_not_persistent(w_hh: Tensor, B: int, backward: bool) -> str | None:
    """Return why a layer runs on the Triton kernels, or None where it runs on the persistent one.

    Args:
        w_hh: recurrent weights; contiguous, shape [4H, H].
        B: batch rows.
        backward: which of the two ops.

    Returns:
        reason: part of a sentence, without a full stop.
    """
    if not w_hh.is_cuda or torch.version.hip is not None:
        return "it is CUDA C++"
    if torch.cuda.get_device_capability(w_hh.device) < (8, 0):
        return "it needs a GPU of compute capability 8.0 or newer"
    return lstm_persistent.why_not(w_hh, B, backward)


def lstm_forward(
    x: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    bias: Tensor | None,
    h0: Tensor,
    c0: Tensor,
    lengths: Tensor | None,
    seed: Tensor | None,
    drop_p: float,
    reverse: bool,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Run the layer; arguments and results as in reference.lstm_forward.

    Raises:
        NotImplementedError: a dtype that the kernels do not know.
        RuntimeError: a GPU that is too old for the dtype.
    """
    check_support("lstm_forward", x)
    from ulmfit_fast.kernels import lstm_cell

    (T, B, _), H = x.shape, w_hh.shape[1]
    wide = accumulation_dtype(x.dtype)
    x, w_ih, w_hh = x.contiguous(), w_ih.to(x.dtype).contiguous(), w_hh.to(x.dtype).contiguous()
    bias = None if bias is None else bias.to(x.dtype)
    lengths = None if lengths is None else lengths.contiguous()
    # Triton launches on the current device, which need not be x's.
    with torch.cuda.device_of(x):
        persistent = why_not_persistent(w_hh, B, backward=False) is None
        w_t = None if persistent else dropped_weight(w_hh, drop_p, seed).t()
        h, c_state = fresh(h0, h0.dtype), fresh(c0, wide)  # after the last step: h_n, c_n
        y = x.new_empty(T, B, H)
        c = x.new_empty((T, B, H), dtype=wide) if save else None
        n_slots = T if save else min(T, max(1, CHUNK_ROWS // B))
        gates = x.new_empty(n_slots, B, 4 * H)
        sums = None if persistent else x.new_empty((B, 4 * H), dtype=wide)
        block, grid = cell_grid(B, H)
        order = range(T)[::-1] if reverse else range(T)
        for begin in range(0, T, n_slots):
            steps = order[begin : begin + n_slots]
            first = min(steps)
            run, slots = slice(first, first + len(steps)), gates[: len(steps)]
            project(x[run], w_ih, bias, slots)
            if w_t is None or sums is None:
                torch.ops.ulmfit_fast_cuda.lstm_forward_steps(
                    w_hh, slots, y[run], h, c_state, None if c is None else c[run], lengths, seed,
                    drop_p, reverse, first, lstm_persistent.n_groups(w_hh, B, backward=False),
                )  # fmt: skip
                continue
            for t in steps:
                multiply(h, w_t, sums)
                lstm_cell._lstm_forward_kernel[grid](
                    gates, y, c, h, c_state, sums, lengths, t - first, t, B, H, block, num_warps=2
                )  # fmt: skip
    c_n = c_state.to(c0.dtype)
    if c is None:
        return y, h, c_n, x.new_empty(0, dtype=wide), x.new_empty(0)
    return y, h, c_n, c, gates


def lstm_backward(
    dy: Tensor,
    dh_n: Tensor,
    dc_n: Tensor,
    x: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    h0: Tensor,
    c0: Tensor,
    y: Tensor,
    c: Tensor,
    gates: Tensor,
    lengths: Tensor | None,
    seed: Tensor | None,
    drop_p: float,
    reverse: bool,
    need_dx: bool,
    need_dw: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of lstm_forward; arguments and results as in reference.lstm_backward.

    Raises:
        NotImplementedError: a dtype that the kernels do not know.
        RuntimeError: a GPU that is too old for the dtype.

    Numbers: gradients of the pre-activations are rounded to x's dtype before products with them.
    """
    check_support("lstm_backward", x)
    (T, B, _), H = x.shape, w_hh.shape[1]
    wide, of_weights = accumulation_dtype(x.dtype), w_hh.dtype
    x, w_ih, w_hh, dy = (t.to(x.dtype).contiguous() for t in (x, w_ih, w_hh, dy))
    y, c, gates = y.contiguous(), c.contiguous(), gates.contiguous()
    lengths = None if lengths is None else lengths.contiguous()
    c_initial = c0.to(wide).contiguous()
    with torch.cuda.device_of(x):
        dh, dc = fresh(dh_n, wide), fresh(dc_n, wide)
        keep = need_dx or need_dw
        if why_not_persistent(w_hh, B, backward=True) is None:
            dgates = x.new_empty(T, B, 4 * H)
            n_groups = lstm_persistent.n_groups(w_hh, B, backward=True)
            dbias = x.new_empty((n_groups, 4 * H), dtype=wide)
            torch.ops.ulmfit_fast_cuda.lstm_backward_steps(
                w_hh, dy, gates, c, c_initial, dgates, dh, dc, dbias, lengths, seed, drop_p,
                reverse, n_groups,
            )  # fmt: skip
            dbias = dbias.sum(dim=0).to(x.dtype)
        else:
            dgates = x.new_empty(T if keep else 1, B, 4 * H)
            w = dropped_weight(w_hh, drop_p, seed)
            step_back((dgates, dh, dc), dy, (gates, c, c_initial), w, lengths, reverse)
            dbias = None
        flat = dgates.flatten(0, 1)  # [T B, 4H]
        dx = (flat @ w_ih).unflatten(0, (T, B)) if need_dx else x.new_empty(0)
        if not need_dw:
            none = [x.new_empty(0, dtype=of_weights) for _ in range(3)]
            return dx, none[0], none[1], none[2], dh.to(h0.dtype), dc.to(c0.dtype)
        dw_ih = flat.t() @ x.flatten(0, 1)
        h_before = states_before(h0, y, lengths, reverse).flatten(0, 1)
        dw_hh = gradient_of_weight(flat.t(), h_before, drop_p, seed)
        if dbias is None:
            dbias = flat.sum(dim=0, dtype=wide).to(x.dtype)
    dw_ih, dw_hh, dbias = (d.to(of_weights) for d in (dw_ih, dw_hh, dbias))
    return dx, dw_ih, dw_hh, dbias, dh.to(h0.dtype), dc.to(c0.dtype)


def step_back(
    grads: tuple[Tensor, Tensor, Tensor],
    dy: Tensor,
    saved: tuple[Tensor, Tensor, Tensor],
    w: Tensor,
    lengths: Tensor | None,
    reverse: bool,
) -> None:
    """Run the Triton kernel over all steps, last to first.

    Args:
        grads: dgates [T, B, 4H], or [1, B, 4H] where it is not wanted; dh and dc [B, H]: in the
            gradients of h_n and c_n, out those of h0 and c0.
        dy: shape [T, B, H].
        saved: gates [T, B, 4H], c [T, B, H] and c0 [B, H].
        w: dropped weight; shape [4H, H].
        lengths: shape [B] or None.
        reverse: direction.
    """
    from ulmfit_fast.kernels import lstm_cell

    (dgates, dh, dc), (gates, c, c_initial) = grads, saved
    T, B, H = dy.shape
    dh_held = None if lengths is None else torch.zeros_like(dh)
    block, grid = cell_grid(B, H)
    for t in range(T) if reverse else reversed(range(T)):
        t_before = t + 1 if reverse else t - 1
        begins = t_before in (-1, T)
        slot = t if len(dgates) == T else 0
        lstm_cell._lstm_backward_kernel[grid](
            dgates, dh_held, dc, dh, dy, gates, c, c_initial if begins else c, lengths,
            slot, t, 0 if begins else t_before, B, H, block, num_warps=2,
        )  # fmt: skip
        multiply(dgates[slot], w, dh)
    if dh_held is not None:
        dh.add_(dh_held)


def check_support(op: str, x: Tensor) -> None:
    """Raise unless the Triton path knows x's dtype and its GPU can compute in it."""
    if x.dtype not in DTYPES:
        known = ", ".join(str(t).removeprefix("torch.") for t in DTYPES)
        raise NotImplementedError(f"{op}: the Triton kernels know {known}, found {x.dtype}")
    if not x.is_cuda or torch.version.hip is not None:
        return
    found = torch.cuda.get_device_capability(x.device)
    needed = (8, 0) if x.dtype == torch.bfloat16 else (7, 5)
    if found < needed:
        raise RuntimeError(
            f"{op}: {str(x.dtype).removeprefix('torch.')} needs a GPU of compute capability "
            f"{needed[0]}.{needed[1]} or newer, found {found[0]}.{found[1]} "
            f"({torch.cuda.get_device_name(x.device)})"
        )


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of sums and of the cell state: at least float32."""
    return torch.promote_types(dtype, torch.float32)


def cell_grid(B: int, H: int) -> tuple[int, tuple[int, int]]:
    """Return the units of a program of a time step, and the grid: batch rows by tiles of units."""
    block = min(BLOCK_H, 1 << (H - 1).bit_length())
    return block, (B, -(-H // block))


def fresh(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a contiguous copy that a kernel may write over."""
    return tensor.to(dtype, copy=True, memory_format=torch.contiguous_format)


def project(x: Tensor, w_ih: Tensor, bias: Tensor | None, gates: Tensor) -> None:
    """Write x W_ih^T + bias; x [.., B, I] and gates [.., B, 4H] are contiguous."""
    rows, out = x.flatten(0, 1), gates.flatten(0, 1)
    if bias is None:
        torch.mm(rows, w_ih.t(), out=out)
    else:
        torch.addmm(bias, rows, w_ih.t(), out=out)


def multiply(a: Tensor, b: Tensor, out: Tensor) -> None:
    """Write a b, summed and kept in out's dtype: that of a and b, or float32 beside 16 bits."""
    if a.dtype == out.dtype:
        torch.mm(a, b, out=out)
    elif a.is_cuda:
        torch.mm(a, b, out.dtype, out=out)
    else:  # the interpreter: torch's CPU product of 16-bit tensors has a 16-bit result
        torch.mm(a.to(out.dtype), b.to(out.dtype), out=out)


def drop(out: Tensor, weight: Tensor, drop_p: float, seed: Tensor | None) -> Tensor:
    """Write reference.drop_connect(weight), rounded once to out's dtype; both are contiguous."""
    if seed is None:
        raise ValueError(f"seed: a tensor is needed where drop_p is {drop_p}")
    import triton.language as tl

    from ulmfit_fast.kernels import lstm_cell

    wide = tl.float64 if weight.dtype == torch.float64 else tl.float32
    grid = (-(-weight.numel() // (4 * BLOCK_PHILOX)),)
    lstm_cell._drop_kernel[grid](
        out, weight, seed, weight.numel(), *mask_arguments(drop_p), wide, BLOCK_PHILOX
    )
    return out


def dropped_weight(w_hh: Tensor, drop_p: float, seed: Tensor | None) -> Tensor:
    """Return drop_connect(w_hh), or w_hh itself where nothing is dropped; contiguous."""
    w_hh = w_hh.contiguous()
    if drop_p == 0:
        return w_hh
    return drop(w_hh.new_empty(w_hh.shape), w_hh, drop_p, seed)


def gradient_of_weight(da_t: Tensor, h: Tensor, drop_p: float, seed: Tensor | None) -> Tensor:
    """Return the gradient of the undropped w_hh; da_t [4H, T B], h [T B, H], result [4H, H]."""
    if drop_p == 0:
        return da_t @ h
    dw = h.new_empty((len(da_t), h.shape[1]), dtype=accumulation_dtype(h.dtype))
    multiply(da_t, h, dw)
    return drop(h.new_empty(dw.shape), dw, drop_p, seed)


def states_before(h0: Tensor, y: Tensor, lengths: Tensor | None, reverse: bool) -> Tensor:
    """Return the hidden state that each step began with; contiguous, shape [T, B, H].

    Beyond a row's length it is anything finite: dgates are 0 there.
    """
    T = len(y)
    h = y.new_empty(y.shape)
    if not reverse:
        h[0] = h0
        h[1:] = y[:-1]
        return h
    h[T - 1] = h0
    if lengths is None:
        h[:-1] = y[1:]
        return h
    t = torch.arange(1, T, device=y.device).unsqueeze(1)
    torch.where((t < lengths).unsqueeze(2), y[1:], h0, out=h[:-1])
    return h
