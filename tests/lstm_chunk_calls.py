"""Calls of one LSTM layer over chunks: by what is tested, plain PyTorch and float64.

Plain PyTorch and float64 run one chunk after the other, the state detached between two. As in
lstm_calls.py, plain PyTorch is the less exact of two ways.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from lstm_calls import OUTPUTS, SEED, WEIGHTS, Call, Case, draw
from numerics import assert_no_worse, relative_error
from torch import Tensor

from ulmfit_fast import reference

LSTMOfChunks = Callable[..., tuple[Tensor, tuple[Tensor, Tensor]]]


@dataclass(frozen=True)
class ChunkCase:
    """A call over chunks: rows of each, and everything else of a Case, whose B they sum up to."""

    rows: tuple[int, ...]
    case: Case

    def __str__(self) -> str:
        """Return a short name for pytest."""
        return f"rows{'-'.join(map(str, self.rows))}-{self.case}"


def chunk_case(
    rows: tuple[int, ...], sizes: tuple[int, int, int], dtype: torch.dtype, **changes: Any
) -> ChunkCase:
    """Return a case of T, I, H."""
    T, n_inputs, H = sizes
    return ChunkCase(rows, Case((T, sum(rows), n_inputs, H), dtype, **changes))


def draw_chunks(case: ChunkCase, index: int = 0) -> Call:
    """Draw the inputs of a case: those of a Case, with states of the last chunk's rows."""
    call = draw(case.case, index)
    n_states = case.rows[-1]

    def cut(named: dict[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
        return {k: v[:n_states] if k in names else v for k, v in named.items()}

    return replace(
        call,
        tensors=cut(call.tensors, ("h0", "c0")),
        cotangents=cut(call.cotangents, ("h_n", "c_n")),
    )


def one_after_the_other(
    x: Tensor,
    state: tuple[Tensor, Tensor],
    weights: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
    rows: Sequence[int],
    drop_p: float,
    seed: Tensor | None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Compute functional.lstm_chunks by a call of reference.lstm for each chunk."""
    begun, ys = 0, []
    h, c = (s[:0] for s in state)
    for chunk, n in zip(torch.split(x, list(rows), dim=1), rows, strict=True):
        h = torch.cat([h.detach(), state[0][begun:n]])
        c = torch.cat([c.detach(), state[1][begun:n]])
        y, (h, c) = reference.lstm(chunk, (h, c), weights, drop_p, seed)
        ys.append(y)
        begun = n
    return torch.cat(ys, dim=1), (h, c)


def forward_arguments(call: Call, rows: Sequence[int], save: bool = True) -> tuple[object, ...]:
    """Return the arguments of the op lstm_chunks_forward."""
    x, state, (w_ih, w_hh, b_ih, b_hh), drop_p, seed, *_ = call.arguments()
    bias = None if b_ih is None else b_ih + b_hh
    return x, w_ih, w_hh, bias, *state, list(rows), seed, drop_p, save


def run_chunks(lstm: LSTMOfChunks, call: Call, rows: Sequence[int]) -> dict[str, Tensor]:
    """Return the outputs and, named d..., the gradients of everything that was given."""
    leaves = call.leaves()
    weights = tuple(leaves.get(name) for name in WEIGHTS)
    seed = SEED.to(call.tensors["x"].device) if call.drop_p > 0 else None
    state = leaves["h0"], leaves["c0"]
    y, (h_n, c_n) = lstm(leaves["x"], state, weights, rows, call.drop_p, seed)
    outputs = dict(zip(OUTPUTS, (y, h_n, c_n), strict=True))
    of = [outputs[name] for name in call.cotangents]
    grads = torch.autograd.grad(of, list(leaves.values()), list(call.cotangents.values()))
    named = {f"d{name}": grad for name, grad in zip(leaves, grads, strict=True)}
    return {**{name: output.detach() for name, output in outputs.items()}, **named}


def run_chunks_by_hand(call: Call, rows: Sequence[int]) -> dict[str, Tensor]:
    """Return what run_chunks returns, by the reference of both ops, which rounds the gates."""
    x, w_ih, w_hh, _, _, c0, _, seed, drop_p, _ = forward_arguments(call, rows)
    y, h_n, c_n, h_starts, c_starts, c, gates = reference.lstm_chunks_forward(
        *forward_arguments(call, rows)
    )
    cotangents = {"y": torch.zeros_like(y), "h_n": torch.zeros_like(h_n), "c_n": c_n * 0}
    cotangents |= call.cotangents
    dh_n, dc_n = torch.zeros_like(h_starts), torch.zeros_like(c_starts)
    dh_n[-rows[-1] :], dc_n[-rows[-1] :] = cotangents["h_n"], cotangents["c_n"]
    dx, dw_ih, dw_hh, dbias, dh, dc = reference.lstm_backward(
        cotangents["y"], dh_n, dc_n, x, w_ih, w_hh, h_starts, c_starts, y, c, gates,
        None, seed, drop_p, False, True, True,
    )  # fmt: skip
    firsts = [0, *accumulate(rows)]
    begins = torch.cat(
        [
            torch.arange(first + begun, first + n)
            for first, begun, n in zip(firsts, [0, *rows], rows, strict=False)
        ]
    )
    found = {"y": y, "h_n": h_n, "c_n": c_n, "dx": dx, "dw_ih": dw_ih, "dw_hh": dw_hh}
    found |= {"dh0": dh[begins], "dc0": dc[begins].to(c0.dtype)}
    if "b_ih" in call.tensors:
        found |= {"db_ih": dbias, "db_hh": dbias}
    return found


def assert_chunks_no_worse(lstm: LSTMOfChunks, case: ChunkCase, n_draws: int = 3) -> None:
    """Fail unless every output and every gradient is as exact as plain PyTorch's."""
    found, plain, exact = [], [], []
    narrow = torch.float32 if case.case.dtype == torch.float64 else case.case.dtype
    eps = [torch.finfo(dtype).eps for dtype in (case.case.dtype, narrow)]
    for index in range(n_draws):
        call = draw_chunks(case, index)
        exact.append(run_chunks(one_after_the_other, call.to(torch.float64), case.rows))
        found.append(run_chunks(lstm, call, case.rows))
        small = call.to(narrow) if narrow != case.case.dtype else call
        ways = (
            run_chunks(one_after_the_other, small, case.rows),
            run_chunks_by_hand(small, case.rows),
        )
        plain.append({})
        for name, e in exact[-1].items():
            worst = max((way[name] for way in ways), key=lambda t, e=e: relative_error(t, e))
            error = (worst.double() - e) * (eps[0] / eps[1])
            plain[-1][name] = worst if narrow == case.case.dtype else e + error
    for name in exact[0]:
        together = (torch.stack([draws[name] for draws in way]) for way in (found, plain, exact))
        assert_no_worse(name, *together, case.case.dtype)
