"""LayerwiseAdamW is torch.optim.AdamW for each layer: trajectories, schedulers, scaler, hooks."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ulmfit_fast import LayerwiseAdamW

Optimizer = torch.optim.Optimizer
SHAPES = ((7, 5), (5,), (33,), (4, 3, 2), (1,))
LAYERS: tuple[dict[str, Any], ...] = (
    {"lr": 3e-3, "betas": (0.7, 0.99), "weight_decay": 0.0},
    {"lr": 1e-2, "betas": (0.9, 0.999), "weight_decay": 0.1},
    {"lr": 4e-4, "betas": (0.8, 0.95), "weight_decay": 0.01, "eps": 1e-5},
    {"lr": 2e-3},
    {"lr": 0.0},
)


def draw_params(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    return [nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for s in SHAPES]


def groups_of(params: list[nn.Parameter]) -> list[dict[str, Any]]:
    """Return five layers of one parameter with their own settings."""
    return [{"params": [p], **layer} for p, layer in zip(params, LAYERS, strict=True)]


def set_gradients(params: list[nn.Parameter], step: int, n_frozen: int = 0) -> None:
    """Give every parameter but the first few the gradient of a step."""
    generator = torch.Generator().manual_seed(100 + step)
    for index, p in enumerate(params):
        grad = torch.randn(p.shape, generator=generator).to(p)
        p.grad = None if index < n_frozen else grad


def run(
    optimizer: Optimizer,
    steps: range,
    clip: float | None = None,
    n_frozen: Callable[[int], int] = lambda step: 0,
    after_step: Callable[[], None] = lambda: None,
) -> None:
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for step in steps:
        set_gradients(params, step, n_frozen(step))
        if clip is not None:
            nn.utils.clip_grad_norm_(params, clip)
        optimizer.step()
        after_step()


def distance(params: list[nn.Parameter], exact: list[nn.Parameter]) -> float:
    """Return the largest difference in units of float32 at 1."""
    pairs = zip(params, exact, strict=True)
    with torch.no_grad():
        return max(float((p.cpu().double() - e).abs().max()) for p, e in pairs) / 2**-23


def unfreezing(step: int) -> int:
    return max(0, 3 - step // 50)


@pytest.mark.parametrize("clip", [None, 0.5])
def test_200_steps_of_unfreezing_layers_are_those_of_adamw(clip: float | None) -> None:
    params, peers, exact = draw_params(), draw_params(), draw_params(torch.float64)
    ours = LayerwiseAdamW(groups_of(params), max_grad_norm=clip)
    torchs = torch.optim.AdamW(groups_of(peers))
    wide = torch.optim.AdamW(groups_of(exact))
    run(ours, range(200), None, unfreezing)
    run(torchs, range(200), clip, unfreezing)
    run(wide, range(200), clip, unfreezing)
    assert distance(params, exact) <= max(2 * distance(peers, exact), 8)
    counts = [
        [float(o.state[p]["step"]) for p in ps] for o, ps in ((ours, params), (torchs, peers))
    ]
    assert counts[0] == counts[1] == [50.0, 100.0, 150.0, 200.0, 200.0]


def test_frozen_group_stands_still_whatever_its_gradient() -> None:
    params = draw_params()
    before = params[1].detach().clone()
    groups = groups_of(params)
    groups[1]["frozen"] = True
    optimizer = LayerwiseAdamW(groups, max_grad_norm=1.0)
    set_gradients(params, 0)
    params[1].grad = torch.full_like(params[1], math.nan)
    optimizer.step()
    assert torch.equal(params[1], before)
    assert params[1] not in optimizer.state
    assert int(optimizer.skipped_steps) == 0
    rest = torch.cat([p.grad.flatten() for i, p in enumerate(params) if i != 1]).double()
    assert float(optimizer.last_grad_norm) == pytest.approx(float(rest.norm()), rel=1e-7)
    optimizer.param_groups[1]["frozen"] = False
    optimizer.step()
    assert int(optimizer.skipped_steps) == 1
    assert torch.equal(params[1], before)


def test_gradients_stay_as_they_are_and_a_rate_of_0_moves_the_moments() -> None:
    params = draw_params()
    optimizer = LayerwiseAdamW(groups_of(params), max_grad_norm=1e-3)
    set_gradients(params, 0)
    grads = [p.grad.clone() for p in params]
    before = params[4].detach().clone()
    optimizer.step()
    assert all(torch.equal(p.grad, g) for p, g in zip(params, grads, strict=True))
    assert torch.equal(params[4], before)
    assert float(optimizer.state[params[4]]["exp_avg"].abs()) > 0


SCHEDULERS: dict[str, Callable[[Optimizer], Any]] = {
    "LambdaLR": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)),
    "OneCycleLR": lambda o: torch.optim.lr_scheduler.OneCycleLR(
        o, max_lr=[g["lr"] + 1e-4 for g in o.param_groups], total_steps=40
    ),
    "CosineAnnealingLR": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 20),
    "SequentialLR": lambda o: torch.optim.lr_scheduler.SequentialLR(
        o,
        [torch.optim.lr_scheduler.ConstantLR(o), torch.optim.lr_scheduler.ExponentialLR(o, 0.9)],
        milestones=[10],
    ),
}


@pytest.mark.parametrize("tensor_lr", [False, True])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_move_it_as_they_move_adamw(name: str, tensor_lr: bool) -> None:
    found = []
    for make, dtype in ((LayerwiseAdamW, torch.float32), (torch.optim.AdamW, torch.float64)):
        params = draw_params(dtype)
        groups = groups_of(params)
        for group in groups:
            group["lr"] = (
                torch.tensor(group["lr"], dtype=torch.float64) if tensor_lr else group["lr"]
            )
        optimizer = make(groups, **({} if make is LayerwiseAdamW else {"foreach": False}))
        scheduler = SCHEDULERS[name](optimizer)
        seen: list[tuple[float, ...]] = []

        def note(scheduler: Any = scheduler, seen: Any = seen, optimizer: Any = optimizer) -> None:
            scheduler.step()
            settings = [(float(g["lr"]), *map(float, g["betas"])) for g in optimizer.param_groups]
            seen.extend(settings)

        run(optimizer, range(30), after_step=note)
        found.append((params, seen))
    assert found[0][1] == found[1][1]
    assert len(set(found[0][1])) > 30
    assert distance(found[0][0], found[1][0]) <= 16


def test_moving_betas_take_effect() -> None:
    params, same = draw_params(), draw_params()
    for ps, betas in ((params, (0.5, 0.9)), (same, (0.9, 0.999))):
        optimizer = LayerwiseAdamW(ps)
        run(optimizer, range(2))
        optimizer.param_groups[0]["betas"] = betas
        run(optimizer, range(2, 4))
    assert distance(params, same) > 100


@pytest.mark.parametrize("unscale", [False, True])
def test_grad_scaler_scales_skips_and_halves(unscale: bool) -> None:
    scaled, plain = draw_params(), draw_params()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1000)
    ours = LayerwiseAdamW(groups_of(scaled), max_grad_norm=0.5)
    twin = LayerwiseAdamW(groups_of(plain), max_grad_norm=0.5)
    for step in range(3):
        set_gradients(plain, step)
        twin.step()
        for p, q in zip(scaled, plain, strict=True):
            p.grad = q.grad * 1024.0
        scaler.scale(torch.zeros(()))  # as a loss would be
        if unscale:
            scaler.unscale_(ours)
        scaler.step(ours)
        scaler.update()
    assert all(torch.equal(p, q) for p, q in zip(scaled, plain, strict=True))
    assert torch.equal(ours.last_grad_norm, twin.last_grad_norm)
    before = [p.detach().clone() for p in scaled]
    scaled[2].grad[-1] = math.inf
    scaler.step(ours)
    scaler.update()
    assert scaler.get_scale() == 512.0
    assert int(ours.skipped_steps) == 1
    assert all(torch.equal(p, b) for p, b in zip(scaled, before, strict=True))
    assert {float(s["step"]) for s in ours.state.values()} == {3.0}


def test_closures_hooks_and_profiler_work_as_in_every_optimizer() -> None:
    params = draw_params()
    optimizer = LayerwiseAdamW(params)
    events: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: events.append("before"))
    optimizer.register_step_post_hook(lambda *_: events.append("after"))

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = sum(p.square().sum() for p in params)
        loss.backward()
        events.append("closure")
        return loss

    with torch.profiler.profile() as profiler:
        loss = optimizer.step(closure)
    assert events == ["before", "closure", "after"]
    assert float(loss.detach()) > 0
    names = {event.key for event in profiler.key_averages()}
    assert "Optimizer.step#LayerwiseAdamW.step" in names
    assert "ulmfit_fast::layerwise_adamw_" in names


def test_step_without_gradients_does_nothing() -> None:
    optimizer = LayerwiseAdamW(draw_params())
    assert optimizer.step() is None
    assert not optimizer.state
    assert math.isnan(float(optimizer.last_grad_norm))


def test_named_parameters_and_added_groups() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    optimizer = LayerwiseAdamW(model[1].named_parameters(), lr=0.1)
    optimizer.add_param_group({"params": model[0].named_parameters(), "lr": 0.01})
    before = [p.detach().clone() for p in model.parameters()]
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert all(not torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    assert optimizer.param_groups[1]["param_names"] == ["weight", "bias"]


@pytest.mark.parametrize("copy_of", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_copies_go_on_as_the_optimizer_does(copy_of: Callable[[Any], Any]) -> None:
    optimizer = LayerwiseAdamW(
        groups_of(draw_params()), max_grad_norm=0.3, bf16_shadow=True, average=0.9
    )
    run(optimizer, range(3))
    twin = copy_of(optimizer)
    run(optimizer, range(3, 6))
    run(twin, range(3, 6))
    for group, other in zip(optimizer.param_groups, twin.param_groups, strict=True):
        p, q = group["params"][0], other["params"][0]
        assert p is not q
        assert torch.equal(p, q)
        assert torch.equal(optimizer.state[p]["ax"], twin.state[q]["ax"])
        assert torch.equal(twin.shadow(q), q.bfloat16())


@pytest.mark.parametrize("layout", ["transposed", "channels_last", "expanded gradient"])
def test_any_dense_layout_of_parameter_and_gradient(layout: str) -> None:
    start, grad = torch.randn(4, 3, 2, 5), torch.randn(4, 3, 2, 5)
    plain = nn.Parameter(start.clone())
    param = nn.Parameter(start.clone())
    if layout == "transposed":
        param = nn.Parameter(start.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0))
    elif layout == "channels_last":
        param = nn.Parameter(start.to(memory_format=torch.channels_last))
    else:
        grad = torch.randn(1).expand(4, 3, 2, 5)
    for p in (plain, param):
        p.grad = grad.clone() if p is plain else grad
        LayerwiseAdamW([p], max_grad_norm=0.1).step()
    assert torch.equal(plain, param)


def test_bfloat16_shadows_follow_every_step_and_every_load() -> None:
    params = draw_params()
    optimizer = LayerwiseAdamW(groups_of(params), bf16_shadow=True)
    shadows = [optimizer.shadow(p) for p in params]
    for step in range(3):
        run(optimizer, range(step, step + 1))
        for p, shadow in zip(params, shadows, strict=True):
            assert torch.equal(shadow, p.bfloat16())
    with torch.no_grad():
        params[0].zero_()
    optimizer.sync_shadows()
    assert not shadows[0].any()
    with pytest.raises(RuntimeError, match=r"LayerwiseAdamW\(bf16_shadow=True\)"):
        LayerwiseAdamW(params).shadow(params[0])


def test_mean_of_the_parameters_is_that_of_torchs_asgd() -> None:
    params = draw_params()
    optimizer = LayerwiseAdamW(params, lr=0.05, average="mean")
    followers = [nn.Parameter(p.detach().clone()) for p in params]
    # Its first average is one parameter behind: t0 = -1 begins to count before the first step.
    asgd = torch.optim.ASGD(followers, lr=0.0, lambd=0.0, t0=-1)
    for step in range(9):
        run(optimizer, range(step, step + 1))
        with torch.no_grad():
            for follower, p in zip(followers, params, strict=True):
                follower.copy_(p)
                follower.grad = torch.zeros_like(p)
        asgd.step()
    for p, follower in zip(params, followers, strict=True):
        expected = asgd.state[follower]["ax"]
        assert torch.allclose(optimizer.state[p]["ax"], expected, rtol=1e-5, atol=1e-6)


def test_exponential_average_begins_with_the_first_parameters() -> None:
    params = draw_params()
    optimizer = LayerwiseAdamW(params, lr=0.05, average=0.8)
    expected: list[Tensor] = []
    for step in range(6):
        run(optimizer, range(step, step + 1))
        now = [p.detach().double() for p in params]
        expected = [0.8 * e + 0.2 * p for e, p in zip(expected, now, strict=True)] if step else now
    for p, e in zip(params, expected, strict=True):
        assert torch.allclose(optimizer.state[p]["ax"].double(), e, rtol=1e-6, atol=1e-7)


def test_averaging_starts_when_it_is_switched_on_and_swaps_in_and_out() -> None:
    params = draw_params()
    optimizer = LayerwiseAdamW(params, lr=0.05, average="mean")
    optimizer.averaging = False  # NT-ASGD: later
    run(optimizer, range(3))
    assert "ax" not in optimizer.state[params[0]]
    optimizer.averaging = True
    seen: list[Tensor] = []
    run(optimizer, range(3, 7), after_step=lambda: seen.append(params[0].detach().double()))
    assert len(seen) == 4
    now = params[0].detach().clone()
    address = params[0].data_ptr()
    with optimizer.averaged():
        inside = params[0].detach().double()
        assert params[0].data_ptr() == address
    assert torch.allclose(inside, torch.stack(seen).mean(0), rtol=1e-6, atol=1e-7)
    assert torch.equal(params[0], now)
    with pytest.raises(RuntimeError, match="no average is kept"), LayerwiseAdamW(params).averaged():
        pass
