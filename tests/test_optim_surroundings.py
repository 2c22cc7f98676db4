"""LayerwiseAdamW whatever torch's defaults are, and whatever changes between its steps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from test_optim import draw_params, groups_of, run, set_gradients
from torch import nn

from ulmfit_fast import LayerwiseAdamW


def trained() -> list[nn.Parameter]:
    params = draw_params()
    run(LayerwiseAdamW(groups_of(params), max_grad_norm=0.5), range(3))
    return params


@contextmanager
def default_device(name: str) -> Iterator[None]:
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    "default",
    [lambda: default_device("meta"), lambda: default_dtype(torch.float64)],
    ids=["device", "dtype"],
)
def test_torchs_defaults_change_nothing(default: Callable[[], Any]) -> None:
    expected = trained()
    params = draw_params()
    optimizer = LayerwiseAdamW(groups_of(params), max_grad_norm=0.5)
    for step in range(3):
        set_gradients(params, step)
        with default():
            optimizer.step()
    assert all(torch.equal(p, e) for p, e in zip(params, expected, strict=True))
    assert optimizer.last_grad_norm.dtype == torch.float32
    assert int(optimizer.skipped_steps) == 0


def test_a_frozen_group_on_another_device_is_in_nobodys_way() -> None:
    elsewhere = nn.Parameter(torch.ones(3, device="meta"))
    p = nn.Parameter(torch.ones(3))
    optimizer = LayerwiseAdamW([{"params": [elsewhere], "frozen": True}, {"params": [p]}])
    p.grad = torch.ones(3)
    optimizer.step()
    assert bool((p < 1).all())
    assert float(optimizer.state[p]["step"]) == 1
    assert float(optimizer.last_grad_norm) == pytest.approx(3**0.5)


def test_a_parameter_laid_out_anew_takes_its_state_along() -> None:
    start = torch.randn(4, 3, 2, 5)
    plain, moved = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    options: Any = {"average": "mean", "bf16_shadow": True}
    optimizers = [LayerwiseAdamW([p], **options) for p in (plain, moved)]
    for optimizer in optimizers:
        run(optimizer, range(2))
    moved.grad = None
    moved.data = moved.data.to(memory_format=torch.channels_last)
    for optimizer in optimizers:
        run(optimizer, range(2, 4))
    assert torch.equal(plain, moved)
    assert torch.equal(optimizers[1].shadow(moved), plain.bfloat16())
    ax = [o.state[p]["ax"] for o, p in zip(optimizers, (plain, moved), strict=True)]
    assert torch.equal(*ax)


def test_a_bound_that_makes_no_sense_is_refused_when_it_is_set_later_too() -> None:
    params = draw_params()
    before = [p.detach().clone() for p in params]
    optimizer = LayerwiseAdamW(params)
    optimizer.max_grad_norm = -1.0
    with pytest.raises(ValueError, match="max_grad_norm: expected a number above 0 or None"):
        run(optimizer, range(1))
    assert all(torch.equal(p, b) for p, b in zip(params, before, strict=True))


def test_bfloat16_copies_are_those_of_the_average_inside_its_block() -> None:
    params = draw_params()
    optimizer = LayerwiseAdamW(params, lr=0.1, average="mean", bf16_shadow=True)
    run(optimizer, range(4))
    outside = optimizer.shadow(params[0]).clone()
    with optimizer.averaged():
        assert torch.equal(optimizer.shadow(params[0]), params[0].bfloat16())
        assert not torch.equal(optimizer.shadow(params[0]), outside)
    assert torch.equal(optimizer.shadow(params[0]), outside)


def test_a_flag_set_in_a_group_later_is_refused() -> None:
    params = draw_params()
    optimizer = LayerwiseAdamW(params)
    optimizer.param_groups[0]["amsgrad"] = True
    with pytest.raises(ValueError, match="group 0: amsgrad=True is not supported"):
        run(optimizer, range(1))


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({"lr": None}, "group 1: lr is None; give a number or a tensor with one element"),
        ({"betas": 0.9}, "group 1: betas is 0.9; give two numbers"),
        ({"betas": (0.9,)}, r"group 1: betas is \(0.9,\); give two numbers"),
        ({"weight_decay": torch.ones(2)}, r"group 1: weight_decay is a tensor of shape \[2\]"),
    ],
)
def test_a_group_with_settings_of_the_wrong_kind_is_not_added(
    group: dict[str, Any], message: str
) -> None:
    optimizer = LayerwiseAdamW(draw_params())
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], **group})
    assert len(optimizer.param_groups) == 1


def test_a_gradient_of_0_moves_nothing_but_by_decay() -> None:
    p = nn.Parameter(torch.ones(5))
    p.grad = torch.zeros(5)
    optimizer = LayerwiseAdamW([p], lr=0.1, weight_decay=0.5, max_grad_norm=1.0)
    optimizer.step()
    assert torch.equal(p, torch.full((5,), 0.95))
    assert float(optimizer.last_grad_norm) == 0
    assert int(optimizer.skipped_steps) == 0


def test_inside_the_block_of_the_average_nothing_is_stepped_saved_or_copied() -> None:
    params = draw_params()
    optimizer = LayerwiseAdamW(params, lr=0.1, average="mean")
    run(optimizer, range(3))
    outside, average = params[0].detach().clone(), optimizer.state[params[0]]["ax"].clone()
    saved = optimizer.state_dict()
    with optimizer.averaged():
        for forbidden in (
            optimizer.step,
            optimizer.state_dict,
            lambda: optimizer.load_state_dict(saved),
            lambda: copy.deepcopy(optimizer),
        ):
            with pytest.raises(RuntimeError, match=r"inside averaged\(\): leave its block first"):
                forbidden()
        with optimizer.averaged():  # an evaluation inside another
            assert torch.equal(params[0], average)
        assert torch.equal(params[0], average)
    assert torch.equal(params[0], outside)
    assert torch.equal(optimizer.state[params[0]]["ax"], average)
    run(optimizer, range(3, 4))


def test_norms_and_counts_that_were_kept_stay_as_they_were() -> None:
    p = nn.Parameter(torch.ones(1))
    optimizer = LayerwiseAdamW([p])
    norms, counts = [], []
    for value in (1.0, 2.0, float("nan"), 3.0):
        p.grad = torch.full((1,), value)
        optimizer.step()
        norms.append(optimizer.last_grad_norm)
        counts.append(optimizer.skipped_steps)
    assert [float(n) for n in norms if n.isfinite()] == [1.0, 2.0, 3.0]
    assert [int(c) for c in counts] == [0, 0, 1, 1]


def test_averaging_needs_an_average() -> None:
    optimizer = LayerwiseAdamW(draw_params())
    optimizer.averaging = False
    with pytest.raises(ValueError, match="no average is kept"):
        optimizer.averaging = True


def test_replay_needs_a_capturable_optimizer() -> None:
    with pytest.raises(RuntimeError, match=r"make LayerwiseAdamW\(capturable=True\)"):
        LayerwiseAdamW(draw_params()).replay(None)  # type: ignore[arg-type]


def test_a_step_counts_as_a_version_of_what_it_moves_as_in_torch() -> None:
    moved, still = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer = LayerwiseAdamW([moved, still])
    moved.grad = torch.ones(3)
    squared = moved.square().sum()  # keeps moved for its gradient
    versions = moved._version, still._version
    optimizer.step()
    assert moved._version > versions[0]
    assert still._version == versions[1]
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.backward(squared)
