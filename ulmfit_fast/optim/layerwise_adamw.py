"""AdamW over layers that each have their own settings: clip, check, decay and update in one op."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypedDict, Unpack, overload

import torch
from torch import Tensor

from ulmfit_fast import _native
from ulmfit_fast.optim import checks
from ulmfit_fast.optim.copies import NUMBERS, Numbers, Shadows
from ulmfit_fast.optim.settings import LiveSettings, rows_of
from ulmfit_fast.optim.state import (
    LIKE_PARAM,
    State,
    add_average,
    adopt,
    in_layout_of,
    new_state,
)
from ulmfit_fast.optim.views import WithViews

#: What torch.optim.AdamW keeps in a group too, so that its state dicts and ours are one format.
ADAMW_FLAGS: dict[str, Any] = {
    "amsgrad": False,
    "maximize": False,
    "foreach": None,
    "capturable": False,
    "differentiable": False,
    "fused": True,
    "decoupled_weight_decay": True,
}
#: Attributes that a copy takes along.
KEPT_BY_COPIES = (
    *("max_grad_norm", "skip_nonfinite", "_averaging", "_average", "_has_shadows", "_settings"),
    *("_shadows", "_numbers"),
)


class Options(TypedDict, total=False):
    """Further arguments of LayerwiseAdamW; the last five are torch.optim.AdamW's."""

    bf16_shadow: bool
    average: float | Literal["mean"] | None
    capturable: bool
    amsgrad: bool
    maximize: bool
    differentiable: bool
    foreach: bool | None
    fused: bool | None


class Live(NamedTuple):
    """A parameter that this step moves, its gradient in its memory layout, and its group."""

    param: Tensor
    grad: Tensor
    group: int


class LayerwiseAdamW(WithViews):
    """AdamW with a parameter group for every layer, all of them in one pass.

        g = grad * min(1, max_grad_norm / (norm of all gradients + 1e-6))
        m = m + (1 - beta1) (g - m),  v = v + (1 - beta2) (g^2 - v)
        p = p - lr weight_decay p - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

    Equivalent to: torch.nn.utils.clip_grad_norm_ and torch.optim.AdamW(...).step(), with lr, betas,
    eps and weight_decay of each group. Gradients are not modified. A parameter whose gradient is
    None, or whose group has "frozen": True, is not in the norm and neither moves nor decays nor
    counts the step; under lr=0 the moments move, as in torch.

    Args:
        params: parameters, (name, parameter) pairs, or groups as in every torch optimizer; a group
            may have lr, betas, eps, weight_decay and frozen of its own.
        lr: learning rate: a number, or a tensor with one element, which is read on its device.
        betas: decay rates of the moments, in [0, 1).
        eps: added to the root of the second moment.
        weight_decay: decoupled: the parameter shrinks by lr * weight_decay.
        max_grad_norm: largest norm of all unfrozen gradients together; None does not clip.
        skip_nonfinite: a step in which any unfrozen gradient is infinite or NaN changes nothing but
            skipped_steps. Without it and without max_grad_norm, the norm is not computed.
        **options:
            bf16_shadow: keep bfloat16 copies of the parameters, see shadow().
            average: keep an average of the parameters: "mean" of all, or the weight of the old
                average (.999) in an exponential one. See averaging and averaged().
            capturable: learning rates, decays and betas are read from the GPU's memory, so that a
                CUDA graph can hold the step. See replay().
            foreach, fused: taken for scripts written for AdamW; they change nothing.

    Attributes:
        max_grad_norm: as above; may be set between steps.
        skip_nonfinite: as above; may be set between steps.
        averaging: whether steps go into the average; True from the start where there is one. For
            NT-ASGD set it to False, and to True when validation stops getting better.

    Raises:
        ValueError: a setting out of its range, a group without parameters, a parameter twice,
            amsgrad, maximize or differentiable; in step(), parameters on several devices, or
            gradients that do not fit them.
        NotImplementedError: parameters in float64 or 16 bits, sparse gradients, DTensor.
        RuntimeError: in step(), a CUDA graph is being captured without capturable.

    Works with torch's schedulers, GradScaler (which only looks for infinities: the step divides),
    DDP, hooks and closures.
    Numbers: norm and all factors in float64, the rest in float32, each parameter rounded once. The
        same bits on every run, for any number of threads and any grid.
    Source: Loshchilov, Hutter 2019, arXiv:1711.05101; Howard, Ruder 2018, arXiv:1801.06146, 3.2.
    """

    #: torch.amp.GradScaler then sets grad_scale and found_inf instead of unscaling the gradients.
    _step_supports_amp_scaling = True

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        max_grad_norm: float | None = None,
        skip_nonfinite: bool = True,
        **options: Unpack[Options],
    ) -> None:
        for name in options:
            if name not in Options.__annotations__:
                raise TypeError(f"{name}: LayerwiseAdamW has no such argument")
        checks.check_flags(options, "LayerwiseAdamW")
        average = options.get("average")
        checks.check_average(average)
        checks.check_max_grad_norm(max_grad_norm)
        self.max_grad_norm = max_grad_norm
        self.skip_nonfinite = skip_nonfinite
        self._average = average
        self._averaging = average is not None
        self._has_shadows = bool(options.get("bf16_shadow"))
        self._settings = LiveSettings(bool(options.get("capturable")))
        self._shadows = Shadows()
        self._numbers = Numbers()
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        flags = {**ADAMW_FLAGS, "capturable": self._settings.capturable}
        super().__init__(params, {**defaults, "frozen": False, **flags})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as in every torch optimizer; raises as the constructor does."""
        checks.check_group(param_group, f"group {len(self.param_groups)}")
        super().add_param_group(param_group)
        where = f"group {len(self.param_groups) - 1}"
        try:
            checks.check_params(self.param_groups[-1], where)
            rows_of(self.param_groups)
        except (ValueError, NotImplementedError):
            del self.param_groups[-1]
            raise

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step; nothing waits for the GPU.

        Args:
            closure: computes the loss and the gradients, and returns the loss.

        Returns:
            loss: what closure returned.

        Raises:
            ValueError, NotImplementedError, RuntimeError: see the class; nothing has changed then.
        """
        self._check_not_averaged("step")
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        live = self._live()
        if not live:
            return loss
        torch.ops.ulmfit_fast.layerwise_adamw_(*self._arguments(live))
        if not torch.compiler.is_compiling():
            # The op does not count, as torch's own do; autograd and InferenceCopy rely on it.
            torch.autograd.graph.increment_version([each.param for each in live])
        return loss

    def _arguments(self, live: list[Live]) -> list[Any]:
        """Return the op's arguments; makes the state that is missing."""
        device = live[0].param.device
        _native.require_kernel("layerwise_adamw_", device)
        checks.check_max_grad_norm(self.max_grad_norm)
        capturing = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
        averages = self._averaging
        params = [each.param for each in live]
        if capturing:
            self._settings.check_capture(self.param_groups)
            self._check_complete(params, averages)
        layers = self._settings.tensor(self.param_groups, device, capturing)
        states = [self._state(p, averages) for p in params]
        averaged = states if averages else []
        arguments = [
            params,
            [each.grad for each in live],
            [s["exp_avg"] for s in states],
            [s["exp_avg_sq"] for s in states],
            [s["step"] for s in states],
            [self.shadow(p) for p in params] if self._has_shadows else [],
            [s["ax"] for s in averaged],
            [s["n_averaged"] for s in averaged],
            *(self._numbers.on(name, device) for name in NUMBERS),
            layers,
            [each.group for each in live],
            *(
                # Set by GradScaler.
                None if value is None else value.to(device, torch.float32, non_blocking=True)
                for value in (getattr(self, "grad_scale", None), getattr(self, "found_inf", None))
            ),
            self.max_grad_norm,
            self.skip_nonfinite,
            0.0 if self._average in (None, "mean") else 1.0 - float(self._average),
        ]
        if capturing:
            self._captured = self._held_by_graphs()
        return arguments

    def _live(self) -> list[Live]:
        """Return what this step moves, checked."""
        live = []
        for index, group in enumerate(self.param_groups):
            if group["frozen"]:
                continue
            for place, param in enumerate(group["params"]):
                grad = param.grad
                if grad is None:
                    continue
                state = self.state.get(param, {})
                try:
                    checks.check_gradient(param, grad, state)
                except (ValueError, NotImplementedError) as error:
                    name = checks.name_of(group, place, f"group {index}")
                    raise type(error)(f"{name}: {error}") from None
                live.append(Live(param, in_layout_of(grad, param), index))
        devices = {each.param.device for each in live}
        if len(devices) > 1:
            raise ValueError(
                f"parameters on {' and '.join(sorted(map(str, devices)))}: LayerwiseAdamW needs "
                "them on one device; make one optimizer for each"
            )
        return live

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state dict of this class or of torch.optim.AdamW, on whatever device it was.

        Learning rates and the other settings of the groups are loaded too, as in torch. Not in a
        state dict: skipped_steps, averaging, and what was given to the constructor.

        Raises:
            ValueError: other groups or shapes, settings out of their ranges, an unsupported flag,
                the state of another optimizer than AdamW; nothing has changed then.
        """
        self._check_not_averaged("load_state_dict")
        checks.check_is_state_dict(state_dict)
        frozen = [group["frozen"] for group in self.param_groups]

        def check(optimizer: object, state_dict: dict[str, Any]) -> None:
            checks.check_state_dict(state_dict, self.param_groups)
            rows_of(state_dict["param_groups"], "state dict, ")
            for index, group in enumerate(state_dict["param_groups"]):
                frozen[index] = group.get("frozen", frozen[index])  # torch's AdamW has no such flag

        # Behind the user's own hooks, which may still make it fit.
        hook = self.register_load_state_dict_pre_hook(check)
        try:
            super().load_state_dict(state_dict)
        finally:
            hook.remove()
        for group, flag in zip(self.param_groups, frozen, strict=True):
            group["frozen"] = flag
        self.sync_shadows()

    def state_dict(self) -> dict[str, Any]:
        """Return settings and state, in the format of torch.optim.AdamW.

        Raises:
            RuntimeError: inside averaged().
        """
        self._check_not_averaged("state_dict")
        return super().state_dict()

    def __getstate__(self) -> dict[str, Any]:
        """Return everything for copy and pickle; torch's own returns settings and state alone."""
        self._check_not_averaged("a copy")
        return {**super().__getstate__(), **{k: self.__dict__[k] for k in KEPT_BY_COPIES}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over a copy or a state dict, with the flags of AdamW as they are here."""
        super().__setstate__(state)
        for group in self.param_groups:
            group["betas"] = tuple(group["betas"])
            group.setdefault("frozen", False)
            group |= {**ADAMW_FLAGS, "capturable": self._settings.capturable}
        for param, kept in self.state.items():
            adopt(kept, param)

    def _state(self, param: Tensor, averages: bool) -> State:
        """Return the state of a parameter, complete and in its memory layout."""
        state: State = self.state[param]
        if "exp_avg" not in state:
            state.update(new_state(param))
        if averages and "ax" not in state:
            add_average(state, param)
        for name in LIKE_PARAM:
            if name in state:
                state[name] = in_layout_of(state[name], param)
        return state
