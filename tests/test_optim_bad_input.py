"""What LayerwiseAdamW refuses: one clear line each, and nothing has changed."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ulmfit_fast import LayerwiseAdamW
from ulmfit_fast.optim import layer_param_groups, set_rates


def one(*shape: int, dtype: torch.dtype = torch.float32) -> nn.Parameter:
    return nn.Parameter(torch.ones(shape, dtype=dtype), requires_grad=dtype.is_floating_point)


def twice() -> LayerwiseAdamW:
    p = one(2)
    return LayerwiseAdamW([{"params": [p]}, {"params": [p]}])


AT_CONSTRUCTION: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "no parameters": (lambda: LayerwiseAdamW([]), ValueError, "empty parameter list"),
    "empty group": (
        lambda: LayerwiseAdamW([{"params": [one(2)]}, {"params": []}]),
        ValueError,
        "group 1 has no parameters: leave the group out",
    ),
    "parameter in two groups": (twice, ValueError, "more than one parameter group"),
    "parameter twice in a group": (
        lambda: LayerwiseAdamW([p := one(2), p]),
        ValueError,
        "group 0 holds a parameter twice: list each once",
    ),
    "negative lr": (
        lambda: LayerwiseAdamW([{"params": [one(2)]}, {"params": [one(2)], "lr": -1.0}]),
        ValueError,
        "group 1: lr is -1.0; give a number 0 or more",
    ),
    "NaN lr": (lambda: LayerwiseAdamW([one(2)], lr=float("nan")), ValueError, "group 0: lr is nan"),
    "lr of many elements": (
        lambda: LayerwiseAdamW([one(2)], lr=torch.ones(3)),
        ValueError,
        "group 0: lr is a tensor of shape [3]; give a number or a tensor with one element",
    ),
    "beta of 1": (
        lambda: LayerwiseAdamW([one(2)], betas=(0.9, 1.0)),
        ValueError,
        "group 0: beta2 is 1.0; give a number in [0, 1)",
    ),
    "negative eps": (lambda: LayerwiseAdamW([one(2)], eps=-1e-8), ValueError, "eps is -1e-08"),
    "negative decay": (
        lambda: LayerwiseAdamW([one(2)], weight_decay=-0.1),
        ValueError,
        "weight_decay is -0.1",
    ),
    "amsgrad": (
        lambda: LayerwiseAdamW([one(2)], amsgrad=True),
        ValueError,
        "LayerwiseAdamW: amsgrad=True is not supported: ",
    ),
    "maximize in a group": (
        lambda: LayerwiseAdamW([{"params": [one(2)], "maximize": True}]),
        ValueError,
        "group 0: maximize=True is not supported: negate the loss instead",
    ),
    "differentiable": (
        lambda: LayerwiseAdamW([one(2)], differentiable=True),
        ValueError,
        "differentiable=True is not supported",
    ),
    "unknown argument": (
        lambda: LayerwiseAdamW([one(2)], momentum=0.9),  # type: ignore[call-arg]
        TypeError,
        "momentum: LayerwiseAdamW has no such argument",
    ),
    "max_grad_norm of 0": (
        lambda: LayerwiseAdamW([one(2)], max_grad_norm=0.0),
        ValueError,
        "max_grad_norm: expected a number above 0 or None, found 0.0",
    ),
    "max_grad_norm of words": (
        lambda: LayerwiseAdamW([one(2)], max_grad_norm="1"),  # type: ignore[arg-type]
        ValueError,
        "max_grad_norm: expected a number above 0 or None, found '1'",
    ),
    "max_grad_norm in a group": (
        lambda: LayerwiseAdamW([{"params": [one(2)], "max_grad_norm": 1.0}]),
        ValueError,
        "group 0: max_grad_norm is of all groups together: give it to LayerwiseAdamW",
    ),
    "frozen by a word": (
        lambda: LayerwiseAdamW([{"params": [one(2)], "frozen": "no"}]),
        ValueError,
        "group 0: frozen is 'no'; give True or False",
    ),
    "group without parameters": (
        lambda: LayerwiseAdamW([{"lr": 1.0}]),
        ValueError,
        'group 0: expected a dict with "params", found dict',
    ),
    "average": (
        lambda: LayerwiseAdamW([one(2)], average="median"),  # type: ignore[arg-type]
        ValueError,
        "average: expected None, \"mean\" or a weight in [0, 1), found 'median'",
    ),
    "bfloat16 parameter": (
        lambda: LayerwiseAdamW([("w", one(2, dtype=torch.bfloat16))]),
        NotImplementedError,
        "group 0, parameter 'w': expected float32, found torch.bfloat16; keep float32 parameters",
    ),
    "complex parameter": (
        lambda: LayerwiseAdamW([nn.Parameter(torch.ones(2, dtype=torch.complex64))]),
        ValueError,
        "group 0, parameter 0: expected float32, found torch.complex64",
    ),
    "integer parameter": (
        lambda: LayerwiseAdamW([one(2, dtype=torch.int64)]),
        ValueError,
        "group 0, parameter 0: expected float32, found torch.int64",
    ),
}


@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate")
@pytest.mark.parametrize("name", AT_CONSTRUCTION)
def test_constructor_refuses(name: str) -> None:
    make, kind, message = AT_CONSTRUCTION[name]
    with pytest.raises(kind, match=re.escape(message)) as raised:
        make()
    assert "\n" not in str(raised.value)


def test_a_group_that_is_refused_is_not_added() -> None:
    optimizer = LayerwiseAdamW([one(2)])
    with pytest.raises(ValueError, match="group 1: lr is -2"):
        optimizer.add_param_group({"params": [one(3)], "lr": -2})
    assert len(optimizer.param_groups) == 1


def sparse(p: Tensor) -> None:
    p.grad = p.detach().to_sparse()


def reshaped(p: Tensor) -> None:
    p.grad = None
    p.data = torch.ones(9)
    p.grad = torch.ones(9)


def halved(p: Tensor) -> None:
    p.grad = None
    p.data = p.data.half()
    p.grad = torch.ones_like(p)


def gappy(p: Tensor) -> None:
    p.data = torch.ones(3, 4)[:, :2]
    p.grad = torch.ones(3, 2)


IN_STEP: dict[str, tuple[Callable[[Tensor], None], bool, type[Exception], str]] = {
    "sparse gradient": (
        sparse,
        True,
        NotImplementedError,
        "parameter 0: a gradient with layout torch.sparse_coo is not supported; make it dense",
    ),
    "shape changed": (
        reshaped,
        True,
        ValueError,
        "group 1, parameter 0: expected exp_avg of shape [9], found [3, 2]; make a new optimizer",
    ),
    "dtype changed": (
        halved,
        True,
        NotImplementedError,
        "group 1, parameter 0: expected float32, found torch.float16",
    ),
    "memory with gaps": (
        gappy,
        False,
        NotImplementedError,
        "parameter 0: its memory has gaps or overlaps (strides [4, 1]); make it contiguous",
    ),
}


@pytest.mark.parametrize("name", IN_STEP)
def test_step_refuses_before_anything_has_changed(name: str) -> None:
    spoil, after_a_step, kind, message = IN_STEP[name]
    first, second = one(4), one(3, 2)
    optimizer = LayerwiseAdamW([{"params": [first]}, {"params": [second]}])
    for p in (first, second):
        p.grad = torch.ones_like(p)
    if after_a_step:
        optimizer.step()
    before = first.detach().clone()
    spoil(second)
    for _ in range(2):
        with pytest.raises(kind, match=re.escape(message)):
            optimizer.step()
        assert torch.equal(first, before)
        assert float(optimizer.state.get(first, {"step": 0})["step"]) == int(after_a_step)


def test_parameters_on_two_devices_are_refused() -> None:
    params = [one(2), nn.Parameter(torch.ones(2, device="meta"))]
    for p in params:
        p.grad = torch.ones_like(p)
    with pytest.raises(
        ValueError, match=r"parameters on cpu and meta: .* needs them on one device"
    ):
        LayerwiseAdamW(params).step()
    assert torch.equal(params[0], torch.ones(2))


def test_state_left_behind_on_another_device_is_named() -> None:
    p = one(2)
    p.grad = torch.ones(2)
    optimizer = LayerwiseAdamW([p])
    optimizer.step()
    optimizer.state[p]["exp_avg_sq"] = torch.ones(2, device="meta")
    before = p.detach().clone()
    with pytest.raises(ValueError, match="it is on cpu, its exp_avg_sq on meta: move the model"):
        optimizer.step()
    assert torch.equal(p, before)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [("lr", -1.0, "group 0: lr is -1.0"), ("betas", (1.5, 0.9), "group 0: beta1 is 1.5")],
)
def test_settings_that_a_scheduler_spoils_are_found(setting: str, value: Any, message: str) -> None:
    p = one(2)
    p.grad = torch.ones(2)
    optimizer = LayerwiseAdamW([p])
    optimizer.param_groups[0][setting] = value
    with pytest.raises(ValueError, match=message):
        optimizer.step()
    assert torch.equal(p, torch.ones(2))


def test_compiled_op_refuses_what_would_write_foreign_memory() -> None:
    from adamw_calls import Case, draw

    op = torch.ops.ulmfit_fast_cpu.layerwise_adamw_
    wrong: dict[str, tuple[str, Any]] = {
        "params: expected at least one": ("params", []),
        "lists of different lengths": ("grads", []),
        "exp_avgs: expected shape and strides of params": ("exp_avgs", [torch.ones(5, 7)]),
        "steps: expected one float32": ("steps", [torch.ones(2)]),
        "shadows: wrong dtype": ("shadows", [torch.ones(7, 5)]),
        "layer_of: no such layer": ("layer_of", [3]),
        "layers: expected float64": ("layers", torch.ones(3, 4, dtype=torch.float64)),
        "grad_norm: expected one float32": ("grad_norm", torch.ones(0)),
        "skipped_steps: expected one integer": ("skipped_steps", torch.ones(())),
        "found_inf: expected one float32": ("found_inf", torch.ones(2)),
        "params: expected dense memory": ("params", [torch.ones(7, 9)[:, :5]]),
    }
    for message, (name, value) in wrong.items():
        arguments = draw(Case(((7, 5),))) | {name: value}
        with pytest.raises(RuntimeError, match=message):
            op(*arguments.values())


def test_layer_param_groups_and_set_rates_name_what_is_wrong() -> None:
    layers = {"body": [one(2)], "head": [one(3)]}
    for wrong, message in ({"lr": -1.0}, "lr is -1.0"), ({"lr_decay": 0.0}, "lr_decay is 0.0"):
        with pytest.raises(ValueError, match=message):
            layer_param_groups(layers, **{"lr": 1.0, **wrong})
    optimizer = LayerwiseAdamW(layer_param_groups(layers, lr=1.0))
    with pytest.raises(ValueError, match="group 1 is 'head'; rates are of body"):
        set_rates(optimizer, {"body": 0.5}, (0.9, 0.99))
    assert [g["lr"] for g in optimizer.param_groups] == [1 / 2.6, 1.0]
    with pytest.raises(ValueError, match="group 0 is of no layer; rates are of body"):
        set_rates(LayerwiseAdamW([one(2)]), {"body": 0.5}, (0.9, 0.99))
