"""An AWD-LSTM's parameters, and one clipped AdamW step over them by ours and by its peers.

Sizes: V vocabulary, E embedding, H hidden units.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import machine
import timing
import torch
from torch import Tensor, nn

from ulmfit_fast import LayerwiseAdamW, _native

BETAS, EPS, WEIGHT_DECAY = (0.7, 0.99), 1e-8, 0.01
#: Of the last group; every group below learns this many times slower (ULMFiT).
LR, LR_FACTOR = 4e-3, 2.6
MAX_GRAD_NORM = 0.25
SEED = 1
#: Steps of the check before the timing.
CHECKED_STEPS = 3
#: Distance from float64 that the check allows, in parts of how far the parameters moved. Rounding
#: to float32 makes up to 3e-6 of it; a step without the clip is 5e-3 off (V 10000, 2026-11-25).
ALLOWED_ERROR = 1e-5
#: Floats for each parameter that a run holds: parameters, gradients, a copy of both, the check's
#: float64 results with its moments and temporary results; and two moments of each implementation.
N_HELD, N_MOMENTS = 16, 2

#: Groups of parameters, each with its gradient or, where the group is frozen, without.
Groups = list[list[nn.Parameter]]
Step = Callable[[], object]


@dataclass(frozen=True)
class Point:
    """An AWD-LSTM E -> H -> H -> E with a tied decoder, and what a step over it does."""

    V: int
    clips: bool = True
    n_frozen: int = 0
    E: int = 400
    H: int = 1152

    def __str__(self) -> str:
        """Return the name of the case."""
        frozen = f", {self.n_frozen} groups frozen" if self.n_frozen else ""
        return f"V {self.V} {'clip' if self.clips else 'no clip'}{frozen}"

    @property
    def shapes(self) -> list[list[list[int]]]:
        """Shapes of the parameters of each group: embedding, three LSTM layers, decoder bias."""
        layers = [(self.E, self.H), (self.H, self.H), (self.H, self.E)]
        lstms = [[[4 * h, i], [4 * h, h], [4 * h], [4 * h]] for i, h in layers]
        return [[[self.V, self.E]], *lstms, [[self.V]]]

    @property
    def n_held(self) -> int:
        """Number of all parameters."""
        return sum(math.prod(shape) for group in self.shapes for shape in group)

    @property
    def n_params(self) -> int:
        """Number of the parameters that a step moves."""
        return sum(math.prod(shape) for group in self.shapes[self.n_frozen :] for shape in group)

    @property
    def max_grad_norm(self) -> float | None:
        """What the norm of all gradients is clipped to."""
        return MAX_GRAD_NORM if self.clips else None

    def sizes(self) -> dict[str, int]:
        """Return legend letter -> size."""
        return {"V": self.V, "E": self.E, "H": self.H}


class Network:
    """Random parameters and gradients, the same tensors for every implementation.

    Nothing computes new gradients during a run. Whoever clips them in place does so once: from its
    second call on it multiplies them by almost 1, which takes the same time.
    """

    def __init__(self, point: Point, device: str) -> None:
        generator = torch.Generator(device).manual_seed(SEED)

        def normal(shape: list[int], std: float) -> Tensor:
            return std * torch.randn(shape, generator=generator, device=device)

        self.point = point
        self.groups: Groups = []
        for k, shapes in enumerate(point.shapes):
            self.groups.append([nn.Parameter(normal(shape, 0.05)) for shape in shapes])
            if k >= point.n_frozen:
                for param in self.groups[-1]:
                    param.grad = normal(list(param.shape), 1e-3)
        self.params = [param for group in self.groups for param in group]
        self.first_params = [param.detach().clone() for param in self.params]
        self.first_grads = [None if p.grad is None else p.grad.clone() for p in self.params]

    def restore_grads(self) -> None:
        """Give the gradients their first values, in place."""
        for param, first in zip(self.params, self.first_grads, strict=True):
            if param.grad is not None:
                param.grad.copy_(first)

    @torch.no_grad()
    def restore(self) -> None:
        """Give parameters and gradients their first values, in place."""
        self.restore_grads()
        for param, first in zip(self.params, self.first_params, strict=True):
            param.copy_(first)

    @functools.cached_property
    def exact(self) -> list[Tensor]:
        """Parameters after CHECKED_STEPS of plain torch in float64."""
        copies = iter([nn.Parameter(first.double()) for first in self.first_params])
        groups = [list(itertools.islice(copies, len(group))) for group in self.groups]
        params = [param for group in groups for param in group]
        step = _adamw(foreach=False, fused=False)(groups, self.point.max_grad_norm)
        for _ in range(CHECKED_STEPS):
            for param, first in zip(params, self.first_grads, strict=True):
                param.grad = None if first is None else first.double()
            step()
        return [param.detach() for param in params]


def settings_of(groups: Groups) -> list[dict[str, Any]]:
    """Return the groups as torch's optimizers take them, each with its own settings."""
    rates = [LR / LR_FACTOR**k for k in reversed(range(len(groups)))]
    shared = {"betas": BETAS, "eps": EPS, "weight_decay": WEIGHT_DECAY}
    return [{"params": g, "lr": lr, **shared} for g, lr in zip(groups, rates, strict=True)]


def _layerwise(groups: Groups, max_grad_norm: float | None, capturable: bool) -> LayerwiseAdamW:
    rows = [{**row, "frozen": row["params"][0].grad is None} for row in settings_of(groups)]
    return LayerwiseAdamW(
        rows,
        max_grad_norm=max_grad_norm,
        skip_nonfinite=max_grad_norm is not None,  # else there is no norm to compute
        capturable=capturable,
    )


def _ours(groups: Groups, max_grad_norm: float | None) -> Step:
    return _layerwise(groups, max_grad_norm, capturable=False).step


def _ours_in_graph(groups: Groups, max_grad_norm: float | None) -> Step:
    optimizer = _layerwise(groups, max_grad_norm, capturable=True)
    graph = timing.capture(optimizer.step)
    for state in optimizer.state.values():  # forgets the steps before the capture
        for tensor in state.values():
            tensor.zero_()
    return lambda: optimizer.replay(graph)


def _clipped(groups: Groups, max_grad_norm: float | None, step: Step) -> Step:
    """Return a step behind torch's clip, as torch's documentation and fastai's GradientClip do."""
    params = [param for group in groups for param in group]

    def clip_and_step() -> None:
        nn.utils.clip_grad_norm_(params, max_grad_norm)
        step()

    return step if max_grad_norm is None else clip_and_step


def _adamw(**flags: bool) -> Callable[[Groups, float | None], Step]:
    def build(groups: Groups, max_grad_norm: float | None) -> Step:
        optimizer = torch.optim.AdamW(settings_of(groups), **flags)
        return _clipped(groups, max_grad_norm, optimizer.step)

    return build


def _adamw_scaled(groups: Groups, max_grad_norm: float | None) -> Step:
    """Return a step that clips through what torch has for GradScaler.

    The kernel divides the gradients by optimizer.grad_scale while it reads them, so clip_grad_norm_
    need not read and write them first; it writes them back divided.
    """
    optimizer = torch.optim.AdamW(settings_of(groups), fused=True)
    params = [param for group in groups for param in group]
    optimizer.found_inf = torch.zeros((), device=params[0].device)

    def step() -> None:
        norm = nn.utils.get_total_norm([p.grad for p in params if p.grad is not None])
        optimizer.grad_scale = ((norm + 1e-6) / max_grad_norm).clamp(min=1.0)
        optimizer.step()

    return step


def _fastai(groups: Groups, max_grad_norm: float | None) -> Step:
    from fastai.optimizer import Adam

    rows = settings_of(groups)
    (mom, sqr_mom), rates = BETAS, [row["lr"] for row in rows]
    optimizer = Adam(groups, LR, mom, sqr_mom, EPS, WEIGHT_DECAY, decouple_wd=True)
    optimizer.set_hyper("lr", rates)
    return _clipped(groups, max_grad_norm, optimizer.step)


def _apex(groups: Groups, max_grad_norm: float | None) -> Step:
    from apex.optimizers import FusedAdam

    return _clipped(groups, max_grad_norm, FusedAdam(settings_of(groups), adam_w_mode=True).step)


@dataclass(frozen=True)
class Implementation:
    """One way to take the step.

    Args:
        what: the expression that is timed, with clipping.
        unclipped: without it; None where only clipped steps are timed.
        build: makes the step over groups with their gradients, and the largest norm of these.
        update_bytes: read and written for each parameter by the update.
        clip_bytes: further ones for clipping.
    """

    what: str
    unclipped: str | None
    build: Callable[[Groups, float | None], Step]
    update_bytes: int
    clip_bytes: int

    def n_bytes(self, point: Point) -> int:
        """Return what a step reads and writes, at 4 bytes a number."""
        return point.n_params * (self.update_bytes + (self.clip_bytes if point.clips else 0))


# Bytes a parameter, counted from the passes over memory. One pass of an update reads p, g, m, v and
# writes p, m, v: 28. A loop over operations on whole tensors: decay 8, lerp of m 12, v 8 + 12,
# root, division and eps 8 each, addcdiv 16: 80; fastai moves m in two operations: 88. The norm
# reads g: 4; clip_grad_norm_ then reads and writes it: 4 + 8. With grad_scale only the norm reads g
# before the update, which writes it: 4 + 4.
_CLIPPED = "clip_grad_norm_"
_OURS = "LayerwiseAdamW(max_grad_norm=0.25)", "LayerwiseAdamW(skip_nonfinite=False)"
IMPLEMENTATIONS = {
    "ulmfit_fast": Implementation(*_OURS, _ours, 28, 4),
    "ulmfit_fast_graph": Implementation(
        *(f"{what} in a CUDA graph" for what in _OURS), _ours_in_graph, 28, 4
    ),
    "torch_loop": Implementation(
        f"{_CLIPPED}, AdamW(foreach=False)", None, _adamw(foreach=False, fused=False), 80, 12
    ),
    "torch_foreach": Implementation(
        f"{_CLIPPED}, AdamW(foreach=True)", None, _adamw(foreach=True), 80, 12
    ),
    "torch_default": Implementation(f"{_CLIPPED}, AdamW()", "AdamW()", _adamw(), 80, 12),
    "torch_fused": Implementation(
        f"{_CLIPPED}, AdamW(fused=True)", "AdamW(fused=True)", _adamw(fused=True), 28, 12
    ),
    "torch_fused_scaled": Implementation(
        "get_total_norm, AdamW(fused=True) that divides by grad_scale and writes the gradients",
        *(None, _adamw_scaled, 28, 8),
    ),
    "fastai": Implementation(f"{_CLIPPED}, fastai's Adam", None, _fastai, 88, 12),
    "apex": Implementation(f"{_CLIPPED}, apex's FusedAdam", "apex's FusedAdam", _apex, 28, 12),
}


def why_left_out(impl: str, point: Point, device: str) -> str | None:
    """Return why an implementation cannot be measured here; None where it can."""
    if impl in ("ulmfit_fast_graph", "apex") and device != "cuda":
        return "needs --device cuda"
    if not point.clips and IMPLEMENTATIONS[impl].unclipped is None:
        return "timed with clipping only"
    if impl.startswith("ulmfit_fast"):
        reason = _native.why_missing("layerwise_adamw_", device)
        return reason and f"no kernel to measure: {reason}"
    if impl == "fastai" and find_spec("fastai") is None:
        return "fastai is not installed (requirements/peers.txt)"
    if impl == "apex" and find_spec("amp_C") is None:
        return "apex is not installed with its CUDA extensions"
    return None


def why_too_large(point: Point, device: str) -> str | None:
    """Return why a run over all implementations does not fit into free memory; None if it does."""
    n_floats = point.n_held * (N_HELD + N_MOMENTS * len(IMPLEMENTATIONS))
    needed, free = 4 * n_floats, machine.free_bytes(device)
    if needed <= free:
        return None
    return f"needs about {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free"


def build_checked(impl: str, network: Network) -> tuple[Step, float]:
    """Return the step of an implementation, CHECKED_STEPS of which were compared with float64.

    Returns:
        step: over the parameters of the network.
        error: ||p - p64|| / ||p64 - first p|| over all parameters together.

    Raises:
        AssertionError: the error is larger than ALLOWED_ERROR: do not time it.
    """
    step = IMPLEMENTATIONS[impl].build(network.groups, network.point.max_grad_norm)
    network.restore()
    for _ in range(CHECKED_STEPS):
        network.restore_grads()
        step()
    wrong = moved = 0.0
    for found, exact, first in zip(
        network.params, network.exact, network.first_params, strict=True
    ):
        wrong += float((found.detach() - exact).square().sum())
        moved += float((exact - first).square().sum())
    error = math.sqrt(wrong / moved)
    if not error <= ALLOWED_ERROR:  # NaN is none
        raise AssertionError(f"{impl} is {error:.1e} from float64, {ALLOWED_ERROR:.0e} is allowed")
    return step, error


def build_or_leave_out(impl: str, network: Network) -> tuple[Step | None, float, str | None]:
    """Return the step of an implementation, its error, and why it is not timed: None if it passes.

    A wrong kernel of ours raises; a wrong peer is left out.
    """
    try:
        return *build_checked(impl, network), None
    except AssertionError as wrong:
        if impl.startswith("ulmfit_fast"):
            raise
        return None, math.inf, f"not the same work: {wrong}"
