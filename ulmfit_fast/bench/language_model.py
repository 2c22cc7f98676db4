"""One whole training step of a language model: ours, and the same model written in torch.

T time steps, B batch rows, E embedding size, H hidden units, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ulmfit_fast.bench.clock import Call
from ulmfit_fast.bench.kinds import OURS, Check, E, Kind, Size, compare
from ulmfit_fast.bench.operations import BOTH, MAX_GRAD_NORM
from ulmfit_fast.model import AWDLSTMConfig, Dropouts, LanguageModel
from ulmfit_fast.optim import LayerwiseAdamW, layer_param_groups
from ulmfit_fast.training.config import FASTAI_LM_DROPOUTS
from ulmfit_fast.training.precision import Precision

# Weights of the activation regularisations, AdamW's settings: fastai's.
ALPHA, BETA = 2.0, 1.0
LR, BETAS, EPS, WEIGHT_DECAY = 5e-3, (0.8, 0.99), 1e-5, 0.01
N_LAYERS = 3


def _new_model(size: Size, dropouts: Dropouts, device: torch.device) -> LanguageModel:
    config = AWDLSTMConfig(size.V, E, size.H, N_LAYERS, dropouts=dropouts)
    return LanguageModel(config).to(device).train()


def _batch(size: Size, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return ids and targets, each [B, T]; frequent words are the first, as in a vocabulary."""
    share = torch.rand(size.B, size.T + 1)
    tokens = (size.V**share).long().clamp(max=size.V - 1).to(device)
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def _precision(dtype: torch.dtype, device: torch.device) -> Precision:
    return Precision("fp32" if dtype == torch.float32 else "bf16", device, "measured")


def _locked(x: Tensor, drop_p: float) -> Tensor:
    """Drop features of x [T, B, F], the same ones at every step."""
    return x * F.dropout(x.new_ones(1, *x.shape[1:]), drop_p)


def torch_loss(model: LanguageModel, ids: Tensor, targets: Tensor) -> Tensor:
    """Return our model's loss, with AR and TAR, by torch's own operations.

    Args:
        model: its parameters are taken, and in train() its dropouts.
        ids: [B, T].
        targets: [B, T].
    """
    drop, encoder = model.config.dropouts, model.encoder
    if not model.training:
        drop = drop.scaled(0.0)
    weight = encoder.embedding.weight
    words = F.dropout(weight.new_ones(len(weight), 1), drop.embed)  # whole words
    x = _locked(F.embedding(ids.t(), weight * words, model.config.pad_id), drop.input)
    for layer, rnn in enumerate(encoder.rnns):
        if layer:
            x = _locked(x, drop.hidden)
        w_ih, w_hh, b_ih, b_hh = (p for p in rnn.parameters())
        zeros = x.new_zeros(1, x.shape[1], w_hh.shape[1])
        flat = [w_ih, F.dropout(w_hh, drop.weight), b_ih, b_hh]
        x = torch.lstm(x, (zeros, zeros), flat, True, 1, 0.0, True, False, False)[0]
    dropped = _locked(x, drop.output)
    logits = F.linear(dropped, weight, model.decoder_bias).flatten(0, 1)
    wide = logits if logits.dtype == torch.float64 else logits.float()
    loss = F.cross_entropy(wide, targets.t().flatten())
    kept, raw = (t if t.dtype == torch.float64 else t.float() for t in (dropped, x))
    return loss + ALPHA * kept.square().mean() + BETA * raw.diff(dim=0).square().mean()


def _param_groups(model: LanguageModel) -> list[dict[str, Any]]:
    return layer_param_groups(
        model.layer_groups(), lr=LR, lr_decay=1.0, weight_decay=WEIGHT_DECAY,
        undecayed=model.undecayed_parameters(),
    )  # fmt: skip


def build(size: Size, dtype: torch.dtype, device: torch.device) -> Mapping[str, Call]:
    """Return whole steps: forward and backward pass, clip and update; each on its own model."""
    precision = _precision(dtype, device)
    model = _new_model(size, FASTAI_LM_DROPOUTS, device)
    other = copy.deepcopy(model)
    ids, targets = _batch(size, device)
    optimizer = LayerwiseAdamW(
        _param_groups(model), betas=BETAS, eps=EPS, max_grad_norm=MAX_GRAD_NORM
    )
    adamw = torch.optim.AdamW(_param_groups(other), betas=BETAS, eps=EPS, fused=True)

    def ours() -> None:
        with precision.computing():
            parts, _ = model.loss(ids, targets, None, ALPHA, BETA)
        torch.autograd.backward(parts.total)
        optimizer.step()
        optimizer.zero_grad()

    def peer() -> None:
        with precision.computing():
            loss = torch_loss(other, ids, targets)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(other.parameters(), MAX_GRAD_NORM)
        adamw.step()
        adamw.zero_grad()

    return {OURS: ours, "torch, AdamW(fused)": peer}


def check(dtype: torch.dtype, device: torch.device) -> Check:
    """Compare the loss and all gradients without dropout, at a small size."""
    precision = _precision(dtype, device)
    model = _new_model(Size(V=300, H=64), Dropouts().scaled(0.0), device)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5.0)  # so that every part of the loss counts, AR and TAR too
    ids, targets = _batch(Size(T=9, B=8, V=300), device)
    parameters = list(model.parameters())
    with precision.computing():
        ours = model.loss(ids, targets, None, ALPHA, BETA)[0].total
        plain = torch_loss(model, ids, targets)
    wide = copy.deepcopy(model).double()
    exact = torch_loss(wide, ids, targets)
    return compare(
        [ours, *torch.autograd.grad(ours, parameters)],
        [plain, *torch.autograd.grad(plain, parameters)],
        [exact, *torch.autograd.grad(exact, list(wide.parameters()))],
        dtype,
    )


def _cost(size: Size) -> float:
    """Return about how many operations a step has, the optimizer's counted as its memory's."""
    weights = 4 * size.H * (E + size.H) * 2 + 4 * E * (size.H + E)
    softmax = size.V * E
    return 6.0 * size.T * size.B * (weights + softmax) + 500.0 * (weights + softmax)


STEP = Kind(
    "language_model", "Training step of a language model: forward, backward, update", 0.4,
    [Size(70, 64, 1152, 30_000), Size(70, 32, 1152, 30_000), Size(35, 32, 1152, 30_000),
     Size(18, 32, 1152, 30_000), Size(18, 16, 1152, 15_000), Size(9, 8, 1152, 10_000),
     Size(9, 8, 256, 2_000)],
    BOTH,
    cost=_cost,
    n_bytes=lambda s: 4.0 * (3 * s.T * s.B * s.V + 60 * s.T * s.B * s.H + 25 * s.V * E
                             + 200 * s.H * (E + s.H)),
    build=build, check=check,
)  # fmt: skip
