"""LayerwiseAdamW for fastai: the steps, state, freezing and weight decay of fastai's Adam."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("fastai")
from fastai.optimizer import SGD, Adam
from fastai_models import classifier_data, classifier_learner, seed_everything

from ulmfit_fast.errors import InputError
from ulmfit_fast.interop.fastai import AWD_LSTM, LayerwiseAdamW

pytestmark = pytest.mark.peer

SHAPES = [[(3, 4), (4,)], [(5,), (2, 3)]]


def groups(seed: int = 0) -> list[list[Tensor]]:
    torch.manual_seed(seed)
    return [[torch.nn.Parameter(torch.randn(shape)) for shape in group] for group in SHAPES]


def step(opt: Any, seed: int) -> None:
    """Take a step with gradients of a seed."""
    torch.manual_seed(seed)
    for params in opt.param_lists:
        for p in params:
            grad = torch.randn(p.shape)
            p.grad = grad if p.requires_grad else None
    opt.step()
    opt.zero_grad()


def assert_equal_parameters(found: Any, expected: Any) -> None:
    for params, others in zip(found.param_lists, expected.param_lists, strict=True):
        for p, q in zip(params, others, strict=True):
            # Steps of up to 0.5, each rounded a few times, may end near zero.
            torch.testing.assert_close(p, q, rtol=2e-6, atol=2e-6)


numbers = st.floats(1e-4, 0.5)


@settings(max_examples=25, deadline=None)
@given(
    hypers=st.lists(st.tuples(numbers, numbers, st.floats(0.0, 0.99)), min_size=1, max_size=6),
    wd=st.floats(0.0, 0.5),
    sqr_mom=st.floats(0.5, 0.999),
    eps=st.sampled_from([1e-8, 1e-5, 1e-2]),
    undecayed=st.sets(st.integers(0, 3)),
)
def test_steps_are_those_of_fastais_adam_under_any_schedule(
    hypers: list[tuple[float, float, float]],
    wd: float,
    sqr_mom: float,
    eps: float,
    undecayed: set[int],
) -> None:
    optimizers = [
        opt_func(groups(), lr=1e-3, sqr_mom=sqr_mom, eps=eps, wd=wd)
        for opt_func in (Adam, LayerwiseAdamW)
    ]
    for opt in optimizers:
        params = [p for group in opt.param_lists for p in group]
        for place in undecayed:
            opt.state[params[place]]["do_wd"] = False
        for seed, (low, high, mom) in enumerate(hypers):
            opt.set_hypers(lr=slice(low, high), mom=mom)
            step(opt, seed)
    assert_equal_parameters(optimizers[1], optimizers[0])


def test_hypers_are_fastais() -> None:
    theirs, ours = (f(groups(), lr=slice(1e-4, 1e-2)) for f in (Adam, LayerwiseAdamW))
    for expected, found in zip(theirs.hypers, ours.hypers, strict=True):
        assert found == expected
    assert [len(group["params"]) for group in ours.param_groups] == [2, 2]


@pytest.mark.parametrize(("first", "second"), [(Adam, LayerwiseAdamW), (LayerwiseAdamW, Adam)])
def test_state_dicts_go_both_ways(first: Any, second: Any, tmp_path: Path) -> None:
    source = first(groups(), lr=1e-2)
    source.state[source.param_lists[0][0]]["do_wd"] = False
    for seed in range(3):
        step(source, seed)
    torch.save(source.state_dict(), tmp_path / "state.pth")
    target = second(groups(), lr=1.0)
    for params, others in zip(target.param_lists, source.param_lists, strict=True):
        for p, q in zip(params, others, strict=True):
            p.data.copy_(q)
    target.load_state_dict(torch.load(tmp_path / "state.pth", weights_only=False))
    for opt in (source, target):
        opt.set_hypers(mom=0.7)
        for seed in range(3, 6):
            step(opt, seed)
    assert_equal_parameters(target, source)
    assert int(target.state[target.param_lists[0][0]]["step"]) == 6


def test_a_frozen_group_stands_still_and_its_state_is_cleared() -> None:
    opt = LayerwiseAdamW(groups(), lr=1e-2, wd=0.1)
    opt.state[opt.param_lists[1][0]]["do_wd"] = False
    step(opt, 0)
    for p in (p for params in opt.param_lists for p in params):
        p.grad = torch.ones_like(p)
    opt.freeze_to(-1)
    assert [p.grad is None for params in opt.param_lists for p in params] == [True] * 2 + [
        False
    ] * 2
    opt.clear_state()
    assert opt.state[opt.param_lists[1][0]] == {"do_wd": False}
    before = [[p.detach().clone() for p in params] for params in opt.param_lists]
    step(opt, 1)
    moved = [
        [not torch.equal(p, q) for p, q in zip(params, others, strict=True)]
        for params, others in zip(opt.param_lists, before, strict=True)
    ]
    assert moved == [[False, False], [True, True]]
    assert int(opt.state[opt.param_lists[1][0]]["step"]) == 1
    opt.unfreeze()
    assert all(p.requires_grad for params in opt.param_lists for p in params)


def test_what_is_marked_force_train_is_trained_in_a_frozen_group() -> None:
    opt = LayerwiseAdamW(groups(), lr=1e-2)
    batch_norm = opt.param_lists[0][1]
    opt.state[batch_norm]["force_train"] = True
    opt.freeze_to(1)
    before = batch_norm.detach().clone()
    step(opt, 0)
    assert not torch.equal(batch_norm, before)


@pytest.mark.parametrize("wd_bn_bias", [False, True])
def test_a_learner_exempts_the_same_parameters_from_decay(wd_bn_bias: bool, tmp_path: Path) -> None:
    dls = classifier_data(["xxunk", "xxpad", "cat", "dog"])
    states = []
    for opt_func in (Adam, LayerwiseAdamW):
        seed_everything(0)
        learn = classifier_learner(
            AWD_LSTM, dls, tmp_path, opt_func=opt_func, wd_bn_bias=wd_bn_bias
        )
        learn.create_opt()
        learn.opt.set_hypers(lr=slice(1e-3, 0.1), wd=0.3)
        step(learn.opt, 0)
        step(learn.opt, 1)
        states.append(learn.model.state_dict())
    for name, expected in states[0].items():
        torch.testing.assert_close(states[1][name], expected, rtol=1e-5, atol=1e-6, msg=name)


def test_clipping_is_that_of_the_whole_gradient() -> None:
    theirs = Adam(groups(), lr=1e-2)
    ours = partial(LayerwiseAdamW, max_grad_norm=0.5)(groups(), lr=1e-2)
    for seed in range(3):
        torch.manual_seed(seed)
        params = [p for group in theirs.param_lists for p in group]
        for p in params:
            p.grad = torch.randn(p.shape)
        norm = torch.nn.utils.clip_grad_norm_(params, 0.5)
        theirs.step()
        step(ours, seed)
        torch.testing.assert_close(ours.last_grad_norm, norm)
    assert_equal_parameters(ours, theirs)


def test_a_step_that_is_not_finite_changes_nothing() -> None:
    opt = LayerwiseAdamW(groups(), lr=1e-2)
    step(opt, 0)
    before = [p.detach().clone() for params in opt.param_lists for p in params]
    for params in opt.param_lists:
        for p in params:
            p.grad = torch.full_like(p, float("nan"))
    opt.step()
    after = [p for params in opt.param_lists for p in params]
    assert all(torch.equal(p, q) for p, q in zip(after, before, strict=True))
    assert int(opt.skipped_steps) == 1


def other_groups() -> dict[str, Any]:
    return LayerwiseAdamW(groups()[:1], lr=1e-2).state_dict()


def other_shapes() -> dict[str, Any]:
    opt = Adam([[torch.nn.Parameter(torch.randn(7)) for _ in group] for group in SHAPES], lr=1e-2)
    step(opt, 0)
    return opt.state_dict()


def other_optimizer() -> dict[str, Any]:
    opt = SGD(groups(), lr=1e-2, mom=0.9)
    step(opt, 0)
    return opt.state_dict()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (other_groups, "of 1 groups and 2 parameters, expected 2 and 4"),
        (other_shapes, r"parameter 0 has shape \[7\], expected \[3, 4\]"),
        (other_optimizer, "parameter 0 lacks sqr_avg, step: it is not that of an Adam"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(make: Any, message: str) -> None:
    opt, other = (LayerwiseAdamW(groups(), lr=1e-2) for _ in range(2))
    step(opt, 0)
    step(other, 0)
    with pytest.raises(InputError, match=message):
        opt.load_state_dict(make())
    step(opt, 1)
    step(other, 1)
    assert_equal_parameters(opt, other)


def test_a_closure_is_refused_as_in_fastai() -> None:
    with pytest.raises(NotImplementedError, match="no closure"):
        LayerwiseAdamW(groups(), lr=1e-2).step(lambda: None)
