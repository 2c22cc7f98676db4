"""What the bench measures: both sides do the same work, and wrong work is not timed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from small_bench import SMALL
from torch import Tensor

from ulmfit_fast import functional
from ulmfit_fast.bench import language_model, operations
from ulmfit_fast.bench.kinds import OURS, Check, Kind, Size, compare, relative_error
from ulmfit_fast.bench.run import KINDS
from ulmfit_fast.model import Dropouts
from ulmfit_fast.optim import LayerwiseAdamW

CPU = torch.device("cpu")
CASES = [(kind, dtype) for kind in KINDS for dtype in kind.dtypes]


def name_of(value: object) -> str:
    return value.name if isinstance(value, Kind) else str(value)


@pytest.mark.parametrize(("kind", "dtype"), CASES, ids=name_of)
def test_our_results_pass_the_check(kind: Kind, dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    check = kind.check(dtype, CPU)
    assert check.is_right
    assert 0 < check.error < check.allowed < 0.05


@pytest.mark.parametrize(("kind", "dtype"), CASES, ids=name_of)
def test_every_implementation_runs_at_every_size(kind: Kind, dtype: torch.dtype) -> None:
    for size in SMALL:
        calls = kind.build(size, dtype, CPU)
        assert next(iter(calls)) == OURS
        assert len(calls) >= 2
        for call in calls.values():
            call()
            call()


@pytest.mark.parametrize("kind", KINDS, ids=name_of)
def test_sizes_shrink(kind: Kind) -> None:
    costs, memory = [kind.cost(s) for s in kind.sizes], [kind.n_bytes(s) for s in kind.sizes]
    assert costs == sorted(costs, reverse=True)
    assert memory == sorted(memory, reverse=True)
    assert memory[-1] < 3e8


def scaled(function: Callable[..., Tensor], factor: float) -> Callable[..., Tensor]:
    def wrong(*arguments: object, **options: object) -> object:
        found = function(*arguments, **options)
        if isinstance(found, tuple):
            return found[0] * factor, *found[1:]
        return found * factor

    return wrong


@pytest.mark.parametrize("name", ["lstm", "linear_cross_entropy"])
@pytest.mark.parametrize("factor", [1.00001, math.nan])
def test_a_wrong_kernel_fails_the_check(
    name: str, factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = operations.check_lstm if name == "lstm" else operations.check_loss
    monkeypatch.setattr(functional, name, scaled(getattr(functional, name), factor))
    assert not check(torch.float32, CPU).is_right


def test_an_optimizer_that_does_not_clip_fails_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    def unclipped(groups: object, max_grad_norm: float) -> LayerwiseAdamW:
        return LayerwiseAdamW(groups, max_grad_norm=None)

    monkeypatch.setattr(operations, "LayerwiseAdamW", unclipped)
    assert not operations.check_optimizer(torch.float32, CPU).is_right


def test_a_wrong_language_model_fails_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    regularize = functional.activation_regularization

    def without_temporal(raw: Tensor, alpha: float, beta: float, *rest: object) -> object:
        return regularize(raw, alpha, 0.999 * beta, *rest)

    monkeypatch.setattr(functional, "activation_regularization", without_temporal)
    assert not language_model.check(torch.float32, CPU).is_right


@pytest.mark.parametrize("name", ["output", "hidden", "input", "embed", "weight"])
def test_torch_drops_what_ours_drops(name: str) -> None:
    """Mean and spread of the losses over masks agree for each dropout alone."""
    torch.manual_seed(0)
    size = Size(T=5, B=8, H=12, V=30)
    model = language_model._new_model(size, replace(Dropouts().scaled(0.0), **{name: 0.4}), CPU)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0)
    ids, targets = language_model._batch(size, CPU)
    n = 80
    with torch.no_grad():
        ours = torch.stack([model.loss(ids, targets, None, 2.0, 1.0)[0].total for _ in range(n)])
        theirs = torch.stack([language_model.torch_loss(model, ids, targets) for _ in range(n)])
    error = math.sqrt(float(ours.var() + theirs.var()) / n)
    assert abs(float(ours.mean() - theirs.mean())) < 4 * error
    assert float(theirs.std()) > 1e-3
    assert float(ours.std() / theirs.std()) == pytest.approx(1, abs=0.4)
    with torch.no_grad():
        whole = language_model.torch_loss(model.eval(), ids, targets)
        exact = model.loss(ids, targets, None, 2.0, 1.0)[0].total
    assert float(whole) == pytest.approx(float(exact))


def test_steps_train_both_models() -> None:
    torch.manual_seed(0)
    calls = language_model.build(Size(6, 4, 24, 40), torch.float32, CPU)
    losses: dict[str, list[float]] = {name: [] for name in calls}
    backward = torch.autograd.backward
    for name, call in calls.items():

        def telling(loss: Tensor, name: str = name) -> None:
            losses[name].append(float(loss.detach()))
            backward(loss)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.autograd, "backward", telling)
            for _ in range(30):
                call()
    for each in losses.values():
        assert sum(each[-5:]) < sum(each[:5]) - 2


def test_relative_errors_and_what_is_allowed() -> None:
    exact = torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert relative_error(exact + torch.tensor([0.0, 0.5]), exact) == pytest.approx(0.1)
    found = compare([exact.float() * 1.01], [exact.float() * 1.02], [exact], torch.float32)
    assert found.error == pytest.approx(0.01, rel=1e-4)
    assert found.allowed == pytest.approx(0.04, rel=1e-3)
    assert not Check(math.nan, 1.0).is_right
    two = compare([exact, exact * math.nan], [exact, exact], [exact, exact], torch.float32)
    assert math.isnan(two.error)
