"""State dicts: torch.optim.AdamW's and ours are one format, both ways, and resuming is exact."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from test_optim import distance, draw_params, groups_of, run
from torch import nn

from ulmfit_fast import LayerwiseAdamW

Optimizer = torch.optim.Optimizer


def through_a_file(state_dict: dict[str, Any]) -> dict[str, Any]:
    """Save and load a state dict as users do."""
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    return loaded


@pytest.mark.parametrize("flags", [{}, {"fused": True}, {"foreach": True}], ids=str)
def test_training_goes_on_in_torch_and_comes_back(flags: dict[str, bool]) -> None:
    moving, staying = draw_params(), draw_params(torch.float64)
    exact = torch.optim.AdamW(groups_of(staying))
    run(exact, range(30))
    ours = LayerwiseAdamW(groups_of(moving))
    run(ours, range(10))
    torchs = torch.optim.AdamW(groups_of(moving), **flags)
    torchs.load_state_dict(through_a_file(ours.state_dict()))
    run(torchs, range(10, 20))
    back = LayerwiseAdamW(groups_of(moving), lr=123.0)
    back.load_state_dict(through_a_file(torchs.state_dict()))
    run(back, range(20, 30))
    assert distance(moving, staying) <= 16
    assert [float(s["step"]) for s in back.state.values()] == [30.0] * 5


@pytest.mark.parametrize("flags", [{}, {"fused": True}, {"foreach": False}], ids=str)
def test_loaded_flags_of_adamw_are_ours_again(flags: dict[str, bool]) -> None:
    torchs = torch.optim.AdamW(groups_of(draw_params()), **flags)
    run(torchs, range(2))
    ours = LayerwiseAdamW(groups_of(draw_params()))
    ours.load_state_dict(torchs.state_dict())
    keys = set(torch.optim.AdamW(draw_params()).param_groups[0])
    for group in ours.param_groups:
        assert keys <= set(group)
        assert group["fused"] is True
        assert group["frozen"] is False
    run(ours, range(2, 3))


@pytest.mark.parametrize("n_steps", [0, 1, 7])
@pytest.mark.parametrize("n_frozen", [0, 2])
def test_resumed_run_has_the_same_bits(n_steps: int, n_frozen: int) -> None:
    def frozen(step: int) -> int:
        return n_frozen if step < 10 else 0

    options: Any = {"max_grad_norm": 0.5, "average": "mean", "bf16_shadow": True}
    params = draw_params()
    optimizer = LayerwiseAdamW(groups_of(params), **options)
    run(optimizer, range(n_steps), n_frozen=frozen)
    resumed = [nn.Parameter(p.detach().clone()) for p in params]
    other = LayerwiseAdamW(groups_of(resumed), **options)
    other.load_state_dict(through_a_file(optimizer.state_dict()))
    for each in (optimizer, other):
        run(each, range(n_steps, 14), n_frozen=frozen)
    for p, q in zip(params, resumed, strict=True):
        assert torch.equal(p, q)
        for name, value in optimizer.state[p].items():
            assert torch.equal(value, other.state[q][name]), name
        assert torch.equal(other.shadow(q), q.bfloat16())


def test_groups_keep_the_frozen_flag_and_betas_of_json() -> None:
    params = draw_params()
    optimizer = LayerwiseAdamW(groups_of(params))
    optimizer.param_groups[0]["frozen"] = True
    saved = optimizer.state_dict()
    for group in saved["param_groups"]:
        group["betas"] = list(group["betas"])
    other = LayerwiseAdamW(groups_of(draw_params()))
    other.load_state_dict(saved)
    assert [g["frozen"] for g in other.param_groups] == [True, False, False, False, False]
    run(other, range(2))


def test_saved_moments_of_another_layout_are_laid_out_as_the_parameter() -> None:
    start = torch.randn(4, 3, 2, 5)
    plain = nn.Parameter(start.clone())
    last = nn.Parameter(start.to(memory_format=torch.channels_last))
    optimizers = [LayerwiseAdamW([plain]), LayerwiseAdamW([last])]
    run(optimizers[0], range(3))
    with torch.no_grad():
        last.copy_(plain)
    optimizers[1].load_state_dict(optimizers[0].state_dict())
    for optimizer in optimizers:
        run(optimizer, range(3, 6))
    assert torch.equal(plain, last)


def test_state_of_old_files_with_counts_as_numbers_is_taken() -> None:
    torchs = torch.optim.AdamW(groups_of(draw_params()))
    run(torchs, range(3))
    old = copy.deepcopy(torchs.state_dict())
    for state in old["state"].values():
        state["step"] = 3
    ours = LayerwiseAdamW(groups_of(draw_params()))
    ours.load_state_dict(old)
    run(ours, range(3, 4))
    assert {float(s["step"]) for s in ours.state.values()} == {4.0}


def unchanged(optimizer: Optimizer, before: dict[str, Any]) -> bool:
    now = optimizer.state_dict()
    pairs = [
        (now["state"][key][name], before["state"][key][name])
        for key in before["state"]
        for name in before["state"][key]
    ]
    return now["param_groups"] == before["param_groups"] and all(torch.equal(*p) for p in pairs)


def test_a_state_dict_that_does_not_fit_changes_nothing() -> None:
    params = draw_params()
    ours = LayerwiseAdamW(groups_of(params))
    run(ours, range(2))
    before = copy.deepcopy(ours.state_dict())

    fewer = torch.optim.AdamW(params)
    with pytest.raises(ValueError, match=r"state dict: groups of \[5\] parameters do not fit"):
        ours.load_state_dict(fewer.state_dict())

    amsgrad = torch.optim.AdamW(groups_of(draw_params()), amsgrad=True)
    with pytest.raises(ValueError, match="state dict, group 0: amsgrad=True is not supported"):
        ours.load_state_dict(amsgrad.state_dict())

    wider = [nn.Parameter(torch.randn(*p.shape, 2)) for p in params]
    grown = torch.optim.AdamW(groups_of(wider))
    run(grown, range(1))
    with pytest.raises(ValueError, match=r"group 0, parameter 0: exp_avg.* has shape \[7, 5, 2\]"):
        ours.load_state_dict(grown.state_dict())
    assert unchanged(ours, before)
    run(ours, range(2, 3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda p: torch.optim.SGD(p, momentum=0.9),
            "group 0 has no betas, eps: it is not of AdamW",
        ),
        (lambda p: torch.optim.Adam(p, weight_decay=0.1), "is of Adam, whose weight decay is part"),
        (
            lambda p: torch.optim.NAdam(p),
            "parameter 0: its state is exp_avg, exp_avg_sq, mu_product",
        ),
        (lambda p: torch.optim.Adamax(p), "parameter 0: its state is exp_avg, exp_inf, step"),
    ],
    ids=["SGD", "Adam", "NAdam", "Adamax"],
)
def test_state_of_another_optimizer_changes_nothing(make: Any, message: str) -> None:
    other = make(draw_params())
    run(other, range(2))
    ours = LayerwiseAdamW(draw_params())
    run(ours, range(2))
    before = copy.deepcopy(ours.state_dict())
    with pytest.raises(ValueError, match=message):
        ours.load_state_dict(other.state_dict())
    assert unchanged(ours, before)


def test_settings_out_of_their_ranges_in_a_state_dict_change_nothing() -> None:
    ours = LayerwiseAdamW(draw_params())
    before = copy.deepcopy(ours.state_dict())
    spoiled = copy.deepcopy(before)
    spoiled["param_groups"][0]["betas"] = (1.5, 0.9)
    with pytest.raises(ValueError, match=r"state dict, group 0: beta1 is 1\.5"):
        ours.load_state_dict(spoiled)
    assert unchanged(ours, before)


def test_adam_without_decay_is_adamw_without_decay() -> None:
    adam, ours = torch.optim.Adam(draw_params()), LayerwiseAdamW(draw_params(), weight_decay=0.1)
    run(adam, range(2))
    ours.load_state_dict(adam.state_dict())
    assert ours.param_groups[0]["weight_decay"] == 0


def test_a_hook_may_regroup_a_state_dict_before_it_is_checked() -> None:
    together = LayerwiseAdamW(draw_params())
    run(together, range(2))
    params = draw_params()
    ours = LayerwiseAdamW([{"params": params[:2]}, {"params": params[2:]}])

    def regroup(optimizer: object, state_dict: dict[str, Any]) -> dict[str, Any]:
        (group,) = state_dict["param_groups"]
        halves = [{**group, "params": group["params"][part]} for part in (slice(2), slice(2, None))]
        return {**state_dict, "param_groups": halves}

    ours.register_load_state_dict_pre_hook(regroup)
    ours.load_state_dict(together.state_dict())
    assert float(ours.state[params[4]]["step"]) == 2


@pytest.mark.parametrize("wrong", [{}, None, {"state": {}}], ids=str)
def test_what_is_no_state_dict_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="state dict: expected that of an optimizer"):
        LayerwiseAdamW(draw_params()).load_state_dict(wrong)


def test_a_count_below_0_is_refused() -> None:
    ours = LayerwiseAdamW(draw_params())
    run(ours, range(2))
    spoiled = copy.deepcopy(ours.state_dict())
    spoiled["state"][0]["step"].fill_(-3)
    with pytest.raises(ValueError, match=r"parameter 0: step is -3\.0; it counts from 0"):
        ours.load_state_dict(spoiled)


def test_frozen_groups_stay_frozen_under_a_state_dict_of_torch() -> None:
    torchs = torch.optim.AdamW(groups_of(draw_params()))
    run(torchs, range(2))
    ours = LayerwiseAdamW(groups_of(draw_params()))
    ours.param_groups[1]["frozen"] = True
    ours.load_state_dict(torchs.state_dict())
    assert [g["frozen"] for g in ours.param_groups] == [False, True, False, False, False]
