"""Good arguments of every op, drawn at random, and what a tensor can be changed to."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ulmfit_fast import reference

Arguments = dict[str, Any]
FLOATS = (torch.float32, torch.float32, torch.float64, torch.bfloat16, torch.float16)
DTYPES = (
    *FLOATS, torch.complex64, torch.bool, torch.uint8, torch.int32, torch.int64,
    torch.float8_e4m3fn, torch.complex32, torch.uint16,
)  # fmt: skip
SIZES = (0, 1, 1, 2, 3, 5, 8, 17)
ODD_SCALARS: tuple[Any, ...] = (
    None, -1, 0, 1, 2**62, -(2**63), 0.0, -0.0, -0.1, 0.5, 1.0, 1.5, 1e-300, 1e300,
    float("nan"), float("inf"), -float("inf"), "none", "mean", "", "x\0", [], [0], [3, 1], 1j,
)  # fmt: skip


def is_finite(tensor: Tensor) -> bool:
    """Say whether a dense tensor of known values has finite numbers only, of no extreme size."""
    if tensor.layout != torch.strided or tensor.device.type == "meta" or tensor.is_complex():
        return False
    return not tensor.is_floating_point() or bool((tensor.double().abs() < 1e4).all())


def size(rng: random.Random, least: int = 0) -> int:
    return rng.choice([n for n in SIZES if n >= least])


def normal(rng: random.Random, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Draw a tensor in order, the other way round, with gaps, or unaligned."""
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    x = torch.randn(shape, generator=generator).to(dtype)
    return laid_out(x, rng)


def laid_out(x: Tensor, rng: random.Random) -> Tensor:
    how = rng.randrange(8)
    if how == 0 and x.dim() > 1:
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    if how == 1:
        gaps = x.new_zeros([2 * n + 1 for n in x.shape])
        strided = gaps[tuple(slice(1, None, 2) for _ in x.shape)]
        return strided.copy_(x)
    if how == 2:
        memory = x.new_zeros(x.numel() + 1)
        return memory[1:].view(x.shape).copy_(x)
    return x


def seed(rng: random.Random) -> Tensor:
    return torch.tensor(rng.choice([0, 1, -1, 2**62 + 5, rng.randrange(2**63)])).reshape(
        rng.choice([(), (1,), (1, 1)])
    )


def changed_tensor(x: Tensor, rng: random.Random) -> Any:
    """Return something in the place of a tensor: of another dtype, shape, layout or device."""
    what = rng.randrange(20)
    changes: dict[int, Callable[[], Any]] = {
        0: lambda: x.resolve_neg().to(rng.choice(DTYPES)),
        1: lambda: x.unsqueeze(rng.randrange(x.dim() + 1)),
        2: lambda: x[0] if x.dim() and x.shape[0] else x.new_zeros(0),
        3: lambda: x.new_zeros(()),
        4: lambda: x.new_zeros([*x.shape[:-1], x.shape[-1] + 1] if x.dim() else [2]),
        5: lambda: x[:-1] if x.dim() else x,
        6: lambda: x.new_zeros([0] * max(1, x.dim())),
        7: lambda: x.to("meta"),
        8: lambda: x.to_sparse() if x.dim() else x,
        9: lambda: None,
        10: lambda: rng.choice(ODD_SCALARS),
        11: lambda: x[..., :1].expand(x.shape) if x.dim() and x.shape[-1] else x,
        12: lambda: overlapping(x),
        13: lambda: x.detach().clone().requires_grad_() if x.is_floating_point() else x,
        14: lambda: torch._neg_view(x) if x.dtype in FLOATS else -x if x.dtype != torch.bool else x,
        15: lambda: x.flatten(),
        16: lambda: filled(x, rng),
        17: lambda: filled(x, rng),
        18: lambda: x.flip(0) if x.dim() else x,
        19: lambda: x.t() if x.dim() == 2 else x.transpose(0, -1) if x.dim() else x,
    }
    try:
        return changes[what]()
    except (RuntimeError, NotImplementedError, TypeError, IndexError):
        return x  # there is no such tensor


def overlapping(x: Tensor) -> Tensor:
    """Return a view whose rows share memory."""
    return torch.as_strided(x.contiguous().clone(), x.shape, [1] * x.dim()) if x.numel() else x


def filled(x: Tensor, rng: random.Random) -> Tensor:
    """Return a copy with one element of an extreme value."""
    y = x.detach().clone()
    values = [0, -1, 1, 2**31, 2**62, -(2**63)]
    if y.is_floating_point():
        values = [float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 1e-40, 0.0]
    if y.numel() and y.dtype != torch.bool:
        y.view(-1)[rng.randrange(y.numel())] = rng.choice(values)
    return y


def _masked(rng: random.Random) -> tuple[float, Tensor | None]:
    """Return a chance and a seed, or no seed."""
    return (0.0, None) if rng.random() < 0.3 else (rng.choice([0.0, 0.3, 0.9]), seed(rng))


def drop_connect(rng: random.Random) -> Arguments:
    shape = [size(rng) for _ in range(rng.randrange(4))]
    weight = normal(rng, *shape, dtype=rng.choice(FLOATS))
    return {"weight": weight, "drop_p": rng.choice([0.0, 0.3, 0.99]), "seed": seed(rng)}


def variational_dropout(rng: random.Random) -> Arguments:
    x = normal(rng, size(rng), size(rng), size(rng), dtype=rng.choice(FLOATS))
    return {"x": x, "drop_p": rng.choice([0.0, 0.3]), "seed": seed(rng)}


def activation_regularization(rng: random.Random) -> Arguments:
    x = normal(rng, size(rng, 1), size(rng, 1), size(rng, 1), dtype=rng.choice(FLOATS))
    drop_p, of_mask = _masked(rng)
    return {"x": x, "drop_p": drop_p, "seed": of_mask, "alpha": 2.0, "beta": rng.choice([0.0, 1.0])}


def activation_regularization_backward(rng: random.Random) -> Arguments:
    forward = activation_regularization(rng)
    x = forward["x"]
    wide = reference.accumulation_dtype(x.dtype)
    into = x.new_empty(0) if forward["seed"] is None else normal(rng, *x.shape, dtype=x.dtype)
    return {"d_dropped": into, "d_penalty": torch.tensor(1.5, dtype=wide), **forward}


def concat_pool(rng: random.Random) -> Arguments:
    B, T, E = size(rng), size(rng, 1), size(rng)
    start = torch.tensor([rng.randrange(T) for _ in range(B)], dtype=torch.int64)
    end = torch.tensor([rng.randrange(int(s), T) + 1 for s in start], dtype=torch.int64)
    return {"output": normal(rng, B, T, E, dtype=rng.choice(FLOATS)), "start": start, "end": end}


def concat_pool_backward(rng: random.Random) -> Arguments:
    forward = concat_pool(rng)
    B, T, E = forward["output"].shape
    argmax = reference.concat_pool(**forward)[1]
    grad = normal(rng, B, 3 * E, dtype=forward["output"].dtype)
    return {"grad": grad, "argmax": argmax, "start": forward["start"], "end": forward["end"],
            "n_positions": T}  # fmt: skip


def embedding_dropout(rng: random.Random) -> Arguments:
    V, E = size(rng, 1), size(rng, 1)
    ids = torch.randint(0, V, [size(rng) for _ in range(rng.randrange(3))])
    drop_p, of_mask = _masked(rng)
    weight = normal(rng, V, E, dtype=rng.choice(FLOATS))
    padding = rng.choice([None, 0, V - 1])
    return {"ids": ids, "weight": weight, "drop_p": drop_p, "seed": of_mask, "padding_idx": padding}


def embedding_dropout_backward(rng: random.Random) -> Arguments:
    forward = embedding_dropout(rng)
    ids, weight = forward.pop("ids"), forward.pop("weight")
    grad = normal(rng, *ids.shape, weight.shape[1], dtype=weight.dtype)
    return {"grad": grad, "ids": ids, "n_rows": len(weight), **forward}


def linear_cross_entropy_forward(rng: random.Random) -> Arguments:
    N, E, V = size(rng), size(rng, 1), size(rng, 1)
    dtype = rng.choice(FLOATS)
    of_weight = rng.choice([dtype, reference.accumulation_dtype(dtype)])
    targets = torch.randint(0, V, (N,))
    targets[torch.rand(N) < 0.2] = -100
    return {
        "hidden": normal(rng, N, E, dtype=dtype),
        "weight": normal(rng, V, E, dtype=of_weight),
        "bias": rng.choice([None, normal(rng, V, dtype=of_weight)]),
        "targets": targets,
        "ignore_index": -100,
        "label_smoothing": rng.choice([0.0, 0.1, 1.0]),
        "reduction": rng.choice(["mean", "sum", "none"]),
        "need_dx": rng.random() < 0.5,
        "need_dw": rng.random() < 0.5,
    }


def linear_cross_entropy_backward(rng: random.Random) -> Arguments:
    forward = linear_cross_entropy_forward(rng)
    loss, lse, *_ = reference.linear_cross_entropy_forward(**forward)
    grad = torch.randn(loss.shape, dtype=loss.dtype)
    head = {name: forward.pop(name) for name in ("hidden", "weight", "bias", "targets")}
    return {"grad": grad, **head, "lse": lse, **forward}


def lstm_forward(rng: random.Random) -> Arguments:
    T, B, n_in, H = size(rng, 1), size(rng, 1), size(rng, 1), size(rng, 1)
    return {
        **_layer(rng, (T, B, n_in, H), B),
        "lengths": rng.choice([None, torch.randint(1, T + 1, (B,))]),
        **_lstm_mask(rng),
        "reverse": rng.random() < 0.5,
        "save": rng.random() < 0.7,
    }


def _layer(rng: random.Random, sizes: tuple[int, int, int, int], n_states: int) -> Arguments:
    T, B, n_in, H = sizes
    dtype = rng.choice(FLOATS)
    of_weight = rng.choice([dtype, reference.accumulation_dtype(dtype)])
    of_c = rng.choice([dtype, reference.accumulation_dtype(dtype)])
    return {
        "x": normal(rng, T, B, n_in, dtype=dtype),
        "w_ih": normal(rng, 4 * H, n_in, dtype=of_weight),
        # Small, as dropout makes them ten times larger: else every rounding grows with the steps.
        "w_hh": normal(rng, 4 * H, H, dtype=of_weight).mul_(0.1),
        "bias": rng.choice([None, normal(rng, 4 * H, dtype=of_weight)]),
        "h0": normal(rng, n_states, H, dtype=dtype),
        "c0": normal(rng, n_states, H, dtype=of_c),
    }


def _lstm_mask(rng: random.Random) -> Arguments:
    drop_p, of_mask = _masked(rng)
    return {"seed": of_mask, "drop_p": drop_p}


def lstm_chunks_forward(rng: random.Random) -> Arguments:
    rows = sorted(rng.choice((1, 2, 3, 5)) for _ in range(rng.randrange(1, 4)))
    sizes = size(rng, 1), sum(rows), size(rng, 1), size(rng, 1)
    return {
        **_layer(rng, sizes, rows[-1]),
        "rows": rows,
        **_lstm_mask(rng),
        "save": rng.random() < 0.7,
    }


def lstm_backward(rng: random.Random) -> Arguments:
    forward = {**lstm_forward(rng), "save": True}
    y, h_n, c_n, c, gates = reference.lstm_forward(**forward)
    into = {"dy": torch.randn_like(y), "dh_n": torch.randn_like(h_n), "dc_n": torch.randn_like(c_n)}
    layer = {name: forward[name] for name in ("x", "w_ih", "w_hh", "h0", "c0")}
    rest = {name: forward[name] for name in ("lengths", "seed", "drop_p", "reverse")}
    needs = {"need_dx": rng.random() < 0.7, "need_dw": rng.random() < 0.7}
    return {**into, **layer, "y": y, "c": c, "gates": gates, **rest, **needs}


def layerwise_adamw_(rng: random.Random) -> Arguments:
    shapes = [[size(rng) for _ in range(rng.randrange(3))] for _ in range(rng.randrange(1, 4))]
    params = [torch.randn(shape) for shape in shapes]
    averaged, shadowed, n = rng.random() < 0.4, rng.random() < 0.4, len(shapes)
    return {
        "params": params,
        "grads": [torch.randn(shape) for shape in shapes],
        "exp_avgs": [torch.randn(shape) * 0.1 for shape in shapes],
        "exp_avg_sqs": [torch.rand(shape) * 0.1 for shape in shapes],
        "steps": [torch.tensor(float(rng.randrange(5))) for _ in shapes],
        "shadows": [p.bfloat16() for p in params] if shadowed else [],
        "averages": [torch.randn(shape) for shape in shapes] if averaged else [],
        "n_averaged": [torch.tensor(1.0) for _ in shapes] if averaged else [],
        "grad_norm": torch.tensor(-1.0),
        "skipped_steps": torch.tensor(3),
        "ticket": torch.tensor(0, dtype=torch.int32),
        "layers": torch.tensor([[1e-2, 0.1, 0.7, 0.99, 1e-8]] * 2, dtype=torch.float64),
        "layer_of": [rng.randrange(2) for _ in range(n)],
        "grad_scale": rng.choice([None, torch.tensor([2.0])]),
        "found_inf": rng.choice([None, torch.tensor([0.0]), torch.tensor([1.0])]),
        "max_grad_norm": rng.choice([None, 0.5]),
        "skip_nonfinite": rng.random() < 0.5,
        "average_weight": 0.1 if averaged else 0.0,
    }


#: Of every op of the namespace; tests/test_ops_fuzz.py fails where one is missing.
GOOD: dict[str, Callable[[random.Random], Arguments]] = {
    made.__name__: made
    for made in (
        drop_connect, variational_dropout, activation_regularization,
        activation_regularization_backward, concat_pool, concat_pool_backward, embedding_dropout,
        embedding_dropout_backward, linear_cross_entropy_forward, linear_cross_entropy_backward,
        lstm_forward, lstm_chunks_forward, lstm_backward, layerwise_adamw_,
    )
}  # fmt: skip
