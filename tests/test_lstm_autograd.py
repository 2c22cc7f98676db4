"""functional.lstm under autograd: nothing saved or computed in vain, gradients of any strides."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import pytest
import torch
from lstm_calls import STATE, WEIGHTS, Case, draw, run
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ulmfit_fast import functional

SHAPE = (6, 7, 10, 17)


class Recorder(TorchDispatchMode):
    """Keeps the arguments and results of the calls of the package's ops."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, tuple[tuple[Any, ...], Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.namespace == "ulmfit_fast":
            self.calls[func._schema.name.split("::")[1]] = (args, result)
        return result


def frozen_sets() -> Iterator[frozenset[str]]:
    groups = (("x",), WEIGHTS, STATE)
    for n in range(1, 3):
        for frozen in combinations(groups, n):
            yield frozenset(name for group in frozen for name in group)
    yield frozenset({"w_hh"})


@pytest.mark.parametrize("frozen", list(frozen_sets()), ids=lambda f: "-".join(sorted(f)))
def test_what_is_frozen_gets_no_gradient_and_costs_none(frozen: frozenset[str]) -> None:
    call = draw(Case(SHAPE, lengths="some"))
    expected = run(functional.lstm, call)
    leaves = {name: t.requires_grad_(name not in frozen) for name, t in call.leaves().items()}
    with Recorder() as recorder:
        y, (h_n, c_n) = functional.lstm(*call.arguments(leaves))
        torch.autograd.backward([y, h_n, c_n], list(call.cotangents.values()))
    for name, leaf in leaves.items():
        if name in frozen:
            assert leaf.grad is None
        else:
            assert torch.equal(leaf.grad, expected[f"d{name}"]), name
    arguments, results = recorder.calls["lstm_backward"]
    need_dx, need_dw = "x" not in frozen, not frozen.issuperset(WEIGHTS)
    assert arguments[-2:] == (need_dx, need_dw)
    shapes = [list(t.shape) for t in results[:4]]
    assert (shapes[0] == [0]) == (not need_dx)
    assert [shape == [0] for shape in shapes[1:]] == [not need_dw] * 3


@pytest.mark.parametrize("way", ["no_grad", "inference_mode", "nothing requires it"])
def test_nothing_is_saved_where_no_gradient_is_wanted(way: str) -> None:
    call = draw(Case(SHAPE, lengths="some"))
    leaves = call.leaves() if way == "no_grad" else call.tensors
    modes = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}
    with Recorder() as recorder, modes.get(way, torch.enable_grad)():
        y, (h_n, c_n) = functional.lstm(*call.arguments(leaves))
    arguments, (*_, c, gates) = recorder.calls["lstm_forward"]
    assert arguments[-1] is False
    assert c.shape == gates.shape == (0,)
    saving = torch.ops.ulmfit_fast.lstm_forward(*call.forward_arguments(save=True))
    for found, expected in zip((y, h_n, c_n), saving[:3], strict=True):
        assert torch.equal(found, expected)


def test_backward_leaves_what_was_saved_and_can_run_again() -> None:
    call = draw(Case(SHAPE, lengths="some"))
    leaves = call.leaves()
    copies = {name: leaf.detach().clone() for name, leaf in leaves.items()}
    y, (h_n, c_n) = functional.lstm(*call.arguments(leaves))
    first, second = (
        torch.autograd.grad(
            [y, h_n, c_n], leaves.values(), call.cotangents.values(), retain_graph=True
        )
        for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(torch.equal(leaves[name], copy) for name, copy in copies.items())


def test_output_gradients_may_have_any_strides() -> None:
    call = draw(Case(SHAPE, lengths="some"))
    leaves = call.leaves()
    y, _ = functional.lstm(*call.arguments(leaves))
    T, B, H = y.shape
    dy = torch.randn(H, B, T).permute(2, 1, 0)
    one = torch.ones(()).expand(T, B, H)
    for strided in (dy, one, dy[::1, :1].expand(T, B, H)):
        found, expected = (
            torch.autograd.grad(y, leaves.values(), grad, retain_graph=True)
            for grad in (strided, strided.contiguous())
        )
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_gradient_of_a_sum_is_that_of_ones() -> None:
    call = draw(Case(SHAPE))
    leaves = call.leaves()
    y, _ = functional.lstm(*call.arguments(leaves))
    expected = torch.autograd.grad(y, leaves.values(), torch.ones_like(y), retain_graph=True)
    y.sum().backward()
    assert all(torch.equal(a.grad, b) for a, b in zip(leaves.values(), expected, strict=True))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [None, (2, 1)], ids=["whole", "lengths"])
def test_lstm_has_the_gradient_that_differences_give(
    lengths: tuple[int, ...] | None, reverse: bool
) -> None:
    call = draw(Case((3, 2, 2, 3), torch.float64, lengths=lengths, reverse=reverse, drop_p=0.4))
    leaves = call.leaves()

    def outputs(*tensors: Tensor) -> tuple[Tensor, ...]:
        y, state = functional.lstm(*call.arguments(dict(zip(leaves, tensors, strict=True))))
        return y, *state

    assert torch.autograd.gradcheck(outputs, tuple(leaves.values()))


def test_second_derivative_is_refused_and_the_way_to_it_named() -> None:
    call = draw(Case((3, 2, 2, 3), torch.float64))
    leaves = call.leaves()
    y, _ = functional.lstm(*call.arguments(leaves))
    (dx,) = torch.autograd.grad(y.square().sum(), leaves["x"], create_graph=True)
    with pytest.raises(NotImplementedError, match=r"second ones call ulmfit_fast\.reference\.lstm"):
        dx.square().sum().backward()


def test_gradient_of_a_call_that_saved_nothing_is_refused() -> None:
    call = draw(Case(SHAPE))
    arguments = [
        a.detach().requires_grad_() if isinstance(a, Tensor) and a.is_floating_point() else a
        for a in call.forward_arguments(save=False)
    ]
    y, *_ = torch.ops.ulmfit_fast.lstm_forward(*arguments)
    with pytest.raises(RuntimeError, match="gradient is wanted of a call with save=False"):
        y.sum().backward()
