"""LayerwiseAdamW as an optimizer of fastai's: all parameters in one op, fastai's Adam otherwise."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from fastai.optimizer import Optimizer
from torch import Tensor

from ulmfit_fast import optim
from ulmfit_fast.errors import InputError
from ulmfit_fast.optim.state import adopt

#: fastai's names of what is kept of a parameter, and torch's.
STATE_NAMES = {"grad_avg": "exp_avg", "sqr_avg": "exp_avg_sq", "step": "step"}


class LayerwiseAdamW(Optimizer):  # type: ignore[misc]
    """fastai's Adam with decoupled weight decay, as one op over all groups and parameters.

        m = m + (1 - mom) (g - m),  v = v + (1 - sqr_mom) (g^2 - v)
        p = p - lr wd p - lr (m / (1 - mom^t)) / (sqrt(v / (1 - sqr_mom^t)) + eps)

    An opt_func of a Learner, alone or as partial(LayerwiseAdamW, max_grad_norm=0.25). Groups,
    hypers, freeze_to, do_wd and state are fastai's, and state dicts go both ways with its Adam.
    Where it differs: a frozen group stands still (fastai's decays it while it has a gradient of
    zeros), zero_grad frees gradients, and a step whose gradients are not finite changes nothing.

    Args:
        params: a list of parameters, or a list of lists, one for each group.
        lr: learning rate: a number, a slice, or one for each group.
        mom: decay rate of the first moment.
        sqr_mom: decay rate of the second moment.
        eps: added to the root of the second moment.
        wd: weight decay: a parameter with do_wd shrinks by lr * wd.
        max_grad_norm: largest norm of all gradients together; None does not clip.
        skip_nonfinite: leave out steps whose gradients are not finite.

    Raises:
        InputError: in load_state_dict, a state of other groups or shapes; nothing has changed then.
        NotImplementedError: parameters that are not float32.

    Numbers: those of ulmfit_fast.optim.LayerwiseAdamW.
    """

    state: defaultdict[Any, dict[str, Any]]

    def __init__(
        self,
        params: Any,
        lr: Any,
        mom: float = 0.9,
        sqr_mom: float = 0.99,
        eps: float = 1e-5,
        wd: float = 0.01,
        max_grad_norm: float | None = None,
        skip_nonfinite: bool = True,
    ) -> None:
        super().__init__(params, [], lr=lr, mom=mom, sqr_mom=sqr_mom, eps=eps, wd=wd)
        self.adamw = optim.LayerwiseAdamW(
            list(self._groups()), max_grad_norm=max_grad_norm, skip_nonfinite=skip_nonfinite
        )

    def _groups(self) -> Iterator[dict[str, Any]]:
        """Yield torch's groups: for each of fastai's, what decays and what does not."""
        for params, hyper in zip(self.param_lists, self.hypers, strict=True):
            for decays in (True, False):
                chosen = [p for p in params if self.state[p].get("do_wd", True) is decays]
                if chosen:
                    yield {
                        "params": chosen,
                        "lr": hyper["lr"],
                        "betas": (hyper["mom"], hyper["sqr_mom"]),
                        "eps": hyper["eps"],
                        "weight_decay": hyper["wd"] if decays else 0.0,
                    }

    def step(self, closure: None = None) -> None:
        """Move every parameter that has a gradient.

        Raises:
            NotImplementedError: a closure, as in all of fastai's optimizers.
        """
        if closure is not None:
            raise NotImplementedError("fastai's optimizers take no closure")
        defaults = self.adamw.defaults
        self.adamw.param_groups = [{**defaults, **group} for group in self._groups()]
        self.adamw.step()
        self._share_state()

    def _share_state(self) -> None:
        """Have state hold the tensors of the op under fastai's names."""
        for param, kept in self.adamw.state.items():
            self.state[param].update({ours: kept[theirs] for ours, theirs in STATE_NAMES.items()})

    def zero_grad(self) -> None:
        """Free the gradients."""
        for param in self._params():
            param.grad = None

    def freeze_to(self, n: int) -> None:
        """Freeze all groups below n, as in fastai; what is frozen loses its gradient."""
        super().freeze_to(n)
        for param in self._params():
            if not param.requires_grad:
                param.grad = None

    def clear_state(self) -> None:
        """Forget the moments and counts, not what is marked do_wd or force_train."""
        super().clear_state()
        self.adamw.state.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return hypers, and the state of each parameter, as fastai's Adam has them."""
        found: dict[str, Any] = super().state_dict()
        counted = [{**s, "step": int(s["step"])} if "step" in s else s for s in found["state"]]
        return {**found, "state": counted}

    def load_state_dict(self, sd: dict[str, Any]) -> None:
        """Load a state dict of this class or of fastai's Adam; raises as the class says."""
        params = list(self._params())
        _check_state_dict(sd, params, len(self.param_lists))
        super().load_state_dict(sd)
        self.state = defaultdict(dict, self.state)
        self.adamw.state.clear()
        for param in params:
            state = self.state[param]
            if "grad_avg" in state:
                kept = {theirs: state[ours] for ours, theirs in STATE_NAMES.items()}
                adopt(kept, param)
                self.adamw.state[param] = kept
        self._share_state()

    def _params(self) -> Iterator[Tensor]:
        """Yield every parameter of every group."""
        for params in self.param_lists:
            yield from params

    @property
    def skipped_steps(self) -> Tensor:
        """Number of steps left out as their gradients were not finite; on the device."""
        return self.adamw.skipped_steps

    @property
    def last_grad_norm(self) -> Tensor:
        """Norm of all gradients in the last step, before clipping; on the device."""
        return self.adamw.last_grad_norm


def _check_state_dict(sd: dict[str, Any], params: list[Tensor], n_groups: int) -> None:
    """Raise InputError unless a state dict has these groups and parameters."""
    if len(sd["hypers"]) != n_groups or len(sd["state"]) != len(params):
        found = f"{len(sd['hypers'])} groups and {len(sd['state'])} parameters"
        raise InputError(
            f"optimizer state of {found}, expected {n_groups} and {len(params)}: load it into a "
            "learner of the same model and splitter"
        )
    for place, (param, state) in enumerate(zip(params, sd["state"], strict=True)):
        if "grad_avg" not in state:
            continue
        missing = STATE_NAMES.keys() - state.keys()
        if missing:
            what = f"optimizer state of parameter {place} lacks {', '.join(sorted(missing))}"
            raise InputError(f"{what}: it is not that of an Adam")
        if state["grad_avg"].shape != param.shape or state["sqr_avg"].shape != param.shape:
            found = f"shape {list(state['grad_avg'].shape)}, expected {list(param.shape)}"
            raise InputError(f"optimizer state of parameter {place} has {found}: another model")
