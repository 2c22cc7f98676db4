"""linear_cross_entropy: held to float64, its edges, and what it refuses."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import loss_calls
import pytest
import torch
import torch.nn.functional as F
from loss_calls import IGNORED, Case, draw, run_autograd
from numerics import assert_no_worse
from torch import Tensor

from ulmfit_fast import functional, reference

#: Rows and classes around the blocks of the kernels (64 tokens, 96 and 192 classes, 512 tokens).
CASES = [
    *(Case(shape) for shape in ((1, 1, 1), (1, 5, 2), (7, 3, 1), (33, 17, 65), (130, 40, 513))),
    *(Case((70, 24, 1030), dtype) for dtype in (torch.bfloat16, torch.float16, torch.float64)),
    *(Case((64, 96, 192), dtype) for dtype in (torch.bfloat16, torch.float32)),
    *(Case((600, 33, 97), dtype) for dtype in (torch.bfloat16, torch.float32)),
    Case((70, 24, 1030), torch.bfloat16, masters=True),
    Case((70, 23, 1031), torch.bfloat16, masters=True, layout="strided"),
    Case((70, 24, 1030), torch.float16, masters=True, layout="transposed"),
    Case((70, 24, 1030), layout="strided"),
    Case((70, 24, 1030), layout="transposed"),
    Case((70, 24, 1030), bias=False),
    Case((70, 24, 1030), label_smoothing=0.1),
    Case((70, 24, 1030), torch.bfloat16, label_smoothing=0.3, masters=True),
    *(Case((70, 24, 1030), reduction=reduction) for reduction in ("sum", "none")),
    Case((70, 24, 1030), torch.bfloat16, reduction="none", label_smoothing=0.2),
    Case((70, 24, 1030), scale=30.0),
    Case((70, 24, 1030), torch.bfloat16, scale=30.0),
    Case((70, 24, 1030), ignored=0.0),
]
X, W, B = torch.randn(4, 3), torch.randn(5, 3), torch.randn(5)
T = torch.tensor([0, 4, IGNORED, 2])


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.usefixtures("_instruction_set")
def test_loss_and_gradients_are_no_worse_than_plain_pytorch(case: Case) -> None:
    loss_calls.check(functional.linear_cross_entropy, case)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_reference_passes_the_same_test(case: Case) -> None:
    loss_calls.check(reference.linear_cross_entropy, case)


def _forget_the_bias(x: Tensor, w: Tensor, b: Tensor | None, *rest: object) -> Tensor:
    return reference.linear_cross_entropy(x, w, None if b is None else b * 1e-3, *rest)


def _average_over_ignored_rows(x: Tensor, w: Tensor, b: Tensor | None, *rest: object) -> Tensor:
    loss = reference.linear_cross_entropy(x, w, b, *rest)
    return loss * ((rest[0] != IGNORED).sum() / len(x))


def _leave_out_the_last_class(x: Tensor, w: Tensor, b: Tensor | None, *rest: object) -> Tensor:
    lost = F.pad(torch.zeros(len(w) - 1), (0, 1), value=-30.0)
    return reference.linear_cross_entropy(x, w, lost if b is None else b + lost, *rest)


def _take_a_wrong_target(
    x: Tensor, w: Tensor, b: Tensor | None, t: Tensor, *rest: object
) -> Tensor:
    shifted = torch.where(t == IGNORED, t, (t + 1) % len(w))
    return reference.linear_cross_entropy(x, w, b, shifted, *rest)


def _lose_smoothing(x: Tensor, w: Tensor, b: Tensor | None, t: Tensor, *rest: object) -> Tensor:
    return reference.linear_cross_entropy(x, w, b, t, rest[0], 0.0, rest[2])


@pytest.mark.parametrize(
    "mutant",
    [
        _forget_the_bias,
        _average_over_ignored_rows,
        _leave_out_the_last_class,
        _take_a_wrong_target,
        _lose_smoothing,
    ],
)
def test_wrong_losses_fail(mutant: Callable[..., Tensor]) -> None:
    case = Case((70, 24, 33), label_smoothing=0.1)
    with pytest.raises(AssertionError):
        loss_calls.check(mutant, case)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.usefixtures("_instruction_set")
def test_result_does_not_depend_on_what_scratch_memory_held(dtype: torch.dtype) -> None:
    call = draw(Case((90, 20, 300), dtype, label_smoothing=0.1))
    found = []
    for byte in (0, 0xFF):
        torch.ops.ulmfit_fast_cpu.fill_scratch(byte)
        found.append(run_autograd(functional.linear_cross_entropy, call))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.usefixtures("_instruction_set")
def test_ignored_rows_have_no_gradient_and_no_part_in_the_others() -> None:
    call = draw(Case((70, 24, 300), ignored=0.5))
    found = run_autograd(functional.linear_cross_entropy, call)
    ignored = call.targets == IGNORED
    assert not found["dx"][ignored].any()
    assert found["dx"][~ignored].any(dim=1).all()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_all_targets_ignored_is_what_torch_says(reduction: str) -> None:
    leaves = [t.clone().requires_grad_() for t in (X, W, B)]
    targets = torch.full((4,), IGNORED)
    loss = functional.linear_cross_entropy(*leaves, targets, reduction=reduction)
    expected = F.cross_entropy(F.linear(X, W, B), targets, reduction=reduction)
    assert torch.equal(loss, expected) or (loss.isnan() and expected.isnan())
    loss.sum().backward()
    assert all(leaf.grad is not None and not leaf.grad.any() for leaf in leaves)


def test_no_rows_at_all() -> None:
    leaves = [t.clone().requires_grad_() for t in (X[:0], W, B)]
    loss = functional.linear_cross_entropy(*leaves, T[:0], reduction="sum")
    loss.backward()
    assert loss == 0
    assert all(leaf.grad is not None and not leaf.grad.any() for leaf in leaves)


def test_a_vocabulary_of_one_word_has_nothing_to_lose() -> None:
    leaves = [t.clone().requires_grad_() for t in (X, W[:1], B[:1])]
    loss = functional.linear_cross_entropy(*leaves, torch.zeros(4, dtype=torch.int64))
    loss.backward()
    assert loss == 0
    assert all(leaf.grad is not None and leaf.grad.abs().max() < 1e-6 for leaf in leaves)


@pytest.mark.parametrize(
    "wanted", [(True, False, False), (False, True, False), (False, False, True)]
)
def test_only_gradients_that_are_wanted_are_made(wanted: tuple[bool, ...]) -> None:
    whole = run_autograd(functional.linear_cross_entropy, draw(Case((20, 8, 30))))
    call = draw(Case((20, 8, 30)))
    tensors = [
        t.detach().requires_grad_(want)
        for t, want in zip((call.hidden, call.weight, call.bias), wanted, strict=True)
        if t is not None
    ]
    functional.linear_cross_entropy(*tensors, call.targets).backward(torch.tensor(1.5))
    for tensor, want, name in zip(tensors, wanted, ("dx", "dw", "db"), strict=True):
        assert (tensor.grad is not None) == want
        if tensor.grad is not None:
            assert torch.equal(tensor.grad, whole[name])


def test_the_gradient_is_the_same_for_a_loss_times_one_and_a_loss_scaled_and_back() -> None:
    x = X.clone().requires_grad_()
    loss = functional.linear_cross_entropy(x, W, B, T)
    (once,) = torch.autograd.grad(loss, x, retain_graph=True)
    (twice,) = torch.autograd.grad(loss * 2, x)
    assert torch.equal(once * 2, twice)


def test_a_second_derivative_is_refused() -> None:
    x = X.clone().requires_grad_()
    loss = functional.linear_cross_entropy(x, W, B, T, reduction="none").sum()
    (dx,) = torch.autograd.grad(loss, x, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"ulmfit_fast\.reference\.linear_cross_entropy"):
        dx.sum().backward()


def test_a_gradient_that_is_part_of_a_loss_is_not_taken_for_a_constant() -> None:
    hidden, weight = torch.randn(4, 3, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    loss = functional.linear_cross_entropy(hidden, weight, None, torch.tensor([0, 1, 2, 3]))
    (gradient,) = torch.autograd.grad(loss, hidden, create_graph=True)
    assert gradient.requires_grad
    with pytest.raises(NotImplementedError, match=r"reference\.linear_cross_entropy"):
        torch.autograd.grad(loss + gradient.pow(2).sum(), weight)


def test_autocast_multiplies_in_16_bits_and_returns_float32() -> None:
    x = torch.randn(20, 8, requires_grad=True)
    w, t = torch.randn(30, 8, requires_grad=True), torch.randint(0, 30, (20,))
    with torch.autocast("cpu", torch.bfloat16):
        loss = functional.linear_cross_entropy(x, w, None, t)
    loss.backward()
    rounded = functional.linear_cross_entropy(x.bfloat16(), w.bfloat16(), None, t)
    assert loss.dtype == w.grad.dtype == x.grad.dtype == torch.float32
    assert torch.equal(loss, rounded)


def test_it_compiles_into_one_graph() -> None:
    x, w = X.clone().requires_grad_(), W.clone().requires_grad_()

    def loss_of(x: Tensor, w: Tensor) -> Tensor:
        return functional.linear_cross_entropy(x * 2, w, B, T) * 3

    expected = torch.autograd.grad(loss_of(x, w), (x, w))
    compiled = torch.compile(loss_of, fullgraph=True, backend="aot_eager")
    for found, wanted in zip(torch.autograd.grad(compiled(x, w), (x, w)), expected, strict=True):
        assert torch.allclose(found, wanted, rtol=1e-6, atol=1e-7)


BAD_CALLS = {
    "hidden, weight: expected shapes [N, E] and [V, E], found [4, 3] and [3, 5]": (X, W.t(), B, T),
    "weight: expected at least one class and one feature, found [0, 3]": (X, W[:0], None, T),
    "bias: expected shape [5], found [4]": (X, W, B[:4], T),
    "targets: expected shape [4], found [3]": (X, W, B, T[:3]),
    "targets: expected int64, found torch.int32": (X, W, B, T.int()),
    "targets: expected 0..4, or -100 to ignore the row; found 5 at row 1": (X, W, B, T + 1),
    "targets: expected 0..4, or -100 to ignore the row; found -1 at row 0": (X, W, B, T - 1),
    "weight: expected torch.float32 like hidden, found torch.bfloat16": (
        X, W.bfloat16(), B, T,
    ),
    "bias: expected torch.float32 like weight, found torch.float64": (X, W, B.double(), T),
    "hidden: expected a floating-point tensor, found torch.int64": (X.long(), W, B, T),
    "weight: expected on cpu beside hidden, found on meta": (X, W.to("meta"), B, T),
}  # fmt: skip


@pytest.mark.parametrize("message", BAD_CALLS)
def test_bad_arguments_are_named(message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        functional.linear_cross_entropy(*BAD_CALLS[message])


def test_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match=r"label_smoothing: expected a share in \[0, 1\], found 2"):
        functional.linear_cross_entropy(X, W, B, T, label_smoothing=2.0)
    with pytest.raises(ValueError, match="reduction: expected one of mean, sum, none, found 'max'"):
        functional.linear_cross_entropy(X, W, B, T, reduction="max")


def test_a_target_that_nobody_checked_makes_the_loss_and_its_gradients_nan() -> None:
    arguments = (X, W, B, torch.tensor([0, 7, 1, 2]), IGNORED, 0.0, "mean", True, True)
    loss, _, dx, dw, db = torch.ops.ulmfit_fast.linear_cross_entropy_forward(*arguments)
    assert loss.isnan()
    assert dx[1].isnan().all()
    assert dx[[0, 2, 3]].isfinite().all()
    assert dw.isnan().any()
    assert db.isnan().any()


@contextmanager
def threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    yield
    torch.set_num_threads(before)


#: Slices of the vocabulary: a thread has one, of whole blocks of 192 classes.
MANY_CLASSES = 3 * 192 + 1


@pytest.mark.usefixtures("_instruction_set")
@pytest.mark.parametrize("n_threads", [2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_slices_of_the_vocabulary_add_up(dtype: torch.dtype, n_threads: int) -> None:
    case = Case((70, 24, MANY_CLASSES), dtype, label_smoothing=0.1)
    with threads(n_threads):
        loss_calls.check(functional.linear_cross_entropy, case)
        again = [run_autograd(functional.linear_cross_entropy, draw(case)) for _ in range(2)]
    assert all(torch.equal(again[0][name], again[1][name]) for name in again[0])


@pytest.mark.usefixtures("_instruction_set")
@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize(
    ("first", "last"), [(0, 192), (384, 576), (0, 576)], ids=["first", "slice", "all but one"]
)
def test_classes_that_the_bias_forbids_have_no_share(first: int, last: int, n_threads: int) -> None:
    call = draw(Case((20, 24, MANY_CLASSES), ignored=0.0))
    call.targets.fill_(MANY_CLASSES - 1)
    assert call.bias is not None
    call.bias[first:last] = -torch.inf
    allowed = [row for row in range(MANY_CLASSES) if not first <= row < last]
    part = replace(call, weight=call.weight[allowed], bias=call.bias[allowed])
    part.targets.fill_(len(allowed) - 1)
    expected = run_autograd(functional.linear_cross_entropy, part)
    call.targets.fill_(MANY_CLASSES - 1)
    with threads(n_threads):
        found = run_autograd(functional.linear_cross_entropy, call)
    assert torch.allclose(found["loss"], expected["loss"], rtol=1e-5)
    assert torch.allclose(found["dx"], expected["dx"], atol=1e-6)
    assert torch.allclose(found["dw"][allowed], expected["dw"], atol=1e-6)
    assert not found["dw"][first:last].any()


def test_shares_that_no_float_holds_are_nothing() -> None:
    # Products with denormal numbers are slow; -1e4 is how people write "forbidden".
    call = draw(Case((20, 24, 500), ignored=0.0, scale=30.0))
    found = run_autograd(functional.linear_cross_entropy, call)
    small = found["dw"].abs()
    assert not ((small > 0) & (small < torch.finfo(torch.float32).tiny)).any()


def test_backward_makes_nothing_as_large_as_the_weight() -> None:
    x, w = torch.randn(6, 5, requires_grad=True), torch.randn(1000, 5, requires_grad=True)
    loss = functional.linear_cross_entropy(x, w, None, torch.arange(6))
    with torch.profiler.profile(record_shapes=True) as profile:
        loss.backward()
    assert "aten::zeros" not in {event.key for event in profile.key_averages()}


def test_a_scaled_loss_in_float16_has_the_gradients_of_pytorch() -> None:
    case = Case((70, 24, 300), torch.float16)
    call = draw(case)
    scale = 2.0**14

    def scaled(*arguments: object) -> Tensor:
        return functional.linear_cross_entropy(*arguments) * scale

    def plainly(*arguments: object) -> Tensor:
        return loss_calls.plain(*arguments) * scale

    found, theirs = run_autograd(scaled, call), run_autograd(plainly, call)
    exact = run_autograd(plainly, call.to(torch.float64))
    for name in ("dx", "dw"):
        assert found[name].isfinite().all()
        assert_no_worse(name, found[name], theirs[name], exact[name], torch.float16)
