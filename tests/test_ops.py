"""Every op of the namespace keeps PyTorch's contracts and its mask."""

from __future__ import annotations

import math

import adamw_calls
import loss_calls
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lstm_calls import SEED, Case, draw
from lstm_chunk_calls import chunk_case, draw_chunks
from lstm_chunk_calls import forward_arguments as chunk_arguments
from torch import Tensor

from ulmfit_fast import _ops, functional, reference

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

# Random123's known-answer tests of philox4x32-10: counter, key, expected.
PHILOX_VECTORS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (
        (0xFFFFFFFF,) * 4,
        (0xFFFFFFFF,) * 2,
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def layouts(weight: Tensor) -> dict[str, Tensor]:
    """Return a matrix as it is, dense but transposed, and cut from a larger buffer."""
    buffer = torch.zeros(weight.shape[0] + 1, weight.shape[1] + 3, dtype=weight.dtype)
    buffer[1:, 2:-1] = weight
    return {
        "contiguous": weight,
        "transposed": weight.t().contiguous().t(),
        "strided": buffer[1:, 2:-1],
    }


#: Calls of the LSTM ops: layouts, lengths, biases, a wider cell state, both directions.
LSTM_CASES = [
    Case((3, 2, 5, 4), lengths="some"),
    Case((3, 2, 5, 4), layout="transposed", reverse=True),
    Case((3, 2, 5, 4), layout="strided", lengths="some", bias=False),
    Case((1, 1, 1, 1), torch.float64, drop_p=0.0),
    Case((2, 3, 4, 5), torch.bfloat16, wide_c0=True, lengths="some", reverse=True),
    Case((2, 3, 4, 5), torch.float16),
]

CHUNK_CASES = [
    chunk_case((1, 2), (3, 5, 4), torch.float32),
    chunk_case((2,), (3, 5, 4), torch.bfloat16, wide_c0=True),
    chunk_case((1, 1, 3), (2, 4, 5), torch.float64, layout="strided", bias=False, drop_p=0.0),
]

#: Steps of the optimizer: everything optional there and not there.
ADAMW_CASES = [
    adamw_calls.Case(((3, 2), (5,))),
    adamw_calls.Case(((3, 2), (5,)), max_grad_norm=None, skip_nonfinite=False),
    adamw_calls.Case(((3, 2),), grad_scale=2.0, found_inf=0.0, shadow=True, average=0.1),
    adamw_calls.Case(((3, 2), (0,)), layout="transposed", poison=math.nan),
]
#: Losses: with and without what is optional, in all kinds of storage.
LOSS_CASES = [
    loss_calls.Case((5, 3, 7)),
    loss_calls.Case((5, 3, 7), bias=False, reduction="sum", label_smoothing=0.1),
    loss_calls.Case((5, 3, 7), torch.bfloat16, masters=True, layout="strided"),
    loss_calls.Case((4, 2, 6), torch.float64, reduction="none", layout="transposed"),
    loss_calls.Case((3, 4, 5), torch.float16, ignored=1.0, reduction="sum"),
]
#: Ops that no gradient passes.
NOT_DIFFERENTIABLE = (
    "activation_regularization_backward",
    "concat_pool_backward",
    "embedding_dropout_backward",
    "layerwise_adamw_",
    "linear_cross_entropy_backward",
    "lstm_backward",
)


def sequences() -> list[Tensor]:
    """Return [T, B, E] in all dtypes, one of them strided."""
    x = torch.randn(4, 3, 5)
    return [*(x.to(dtype) for dtype in FLOATS), torch.randn(3, 4, 5).transpose(0, 1), x[:1]]


def activation_samples() -> list[tuple[object, ...]]:
    seeded: list[tuple[object, ...]] = [(x, 0.3, SEED, 2.0, 1.0) for x in sequences()]
    return [*seeded, (torch.randn(4, 3, 5), 0.0, None, 2.0, 1.0)]


def activation_backward_samples() -> list[tuple[object, ...]]:
    penalty = torch.tensor(1.5)
    seeded: list[tuple[object, ...]] = [
        (x + 1, penalty.to(reference.accumulation_dtype(x.dtype)), x, 0.3, SEED, 2.0, 1.0)
        for x in sequences()
    ]
    return [*seeded, (torch.empty(0), penalty, torch.randn(4, 3, 5), 0.0, None, 2.0, 1.0)]


def embedding_samples() -> list[tuple[object, ...]]:
    ids = torch.tensor([[0, 1, 2], [5, 4, 1]])
    tables = [w for t in FLOATS for w in layouts(torch.randn(6, 7).to(t)).values()]
    dropped: list[tuple[object, ...]] = [(ids, table, 0.3, SEED, 1) for table in tables]
    return [*dropped, (ids.t(), tables[0], 0.0, None, None), (ids[0, 0], tables[0], 0.3, SEED, 0)]


def embedding_backward_samples() -> list[tuple[object, ...]]:
    ids = torch.tensor([[0, 1, 2], [5, 4, 1]])
    grads = [torch.randn(2, 3, 4).to(dtype) for dtype in FLOATS]
    dropped: list[tuple[object, ...]] = [(grad, ids, 6, 0.3, SEED, 1) for grad in grads]
    return [*dropped, (grads[0], ids, 9, 0.0, None, None)]


def pool_samples() -> list[tuple[object, ...]]:
    start, end = torch.tensor([0, 1, 3]), torch.tensor([4, 2, 4])
    return [(x.transpose(0, 1), start, end) for x in sequences()[:-1]]


def pool_backward_samples() -> list[tuple[object, ...]]:
    argmax, (_, start, end) = torch.tensor([[1], [1], [3]]).repeat(1, 5), pool_samples()[0]
    return [(torch.randn(3, 15).to(dtype), argmax, start, end, 4) for dtype in FLOATS]


LAYER_SAMPLES = {
    "activation_regularization": activation_samples,
    "activation_regularization_backward": activation_backward_samples,
    "concat_pool": pool_samples,
    "concat_pool_backward": pool_backward_samples,
    "embedding_dropout": embedding_samples,
    "embedding_dropout_backward": embedding_backward_samples,
    "variational_dropout": lambda: [(x, 0.3, SEED) for x in sequences()],
}


def samples(op: str, with_grad: bool) -> list[tuple[object, ...]]:
    """Return arguments of an op over layouts and dtypes, without gradients."""
    torch.manual_seed(1)
    if op == "drop_connect":
        matrices = [w for t in FLOATS for w in layouts(torch.randn(5, 7).to(t)).values()]
        return [(weight, 0.3, SEED) for weight in [*matrices, torch.randn(0), torch.randn(())]]
    if op in LAYER_SAMPLES:
        return LAYER_SAMPLES[op]()
    if op.startswith("linear_cross_entropy"):
        losses = [loss_calls.draw(case) for case in LOSS_CASES]
        if op.endswith("backward"):
            return [call.backward_arguments() for call in losses]
        at_once = [c.forward_arguments(True, True) for c in losses if c.case.reduction != "none"]
        return [*(call.forward_arguments() for call in losses), *at_once]
    if op == "lstm_chunks_forward":
        chunked = [(draw_chunks(case), case.rows) for case in CHUNK_CASES]
        saving = [chunk_arguments(*call) for call in chunked]
        return saving if with_grad else [*saving, chunk_arguments(*chunked[0], save=False)]
    calls = [draw(case) for case in LSTM_CASES]
    if op == "lstm_forward":
        saving = [call.forward_arguments() for call in calls]
        # Nothing to differentiate was saved there.
        return saving if with_grad else [*saving, calls[0].forward_arguments(save=False)]
    if op == "lstm_backward":
        wanted = [(need_dx, need_dw) for need_dx in (False, True) for need_dw in (False, True)]
        backwards = [calls[0].backward_arguments(*needs) for needs in wanted]
        return [*backwards, *(call.backward_arguments() for call in calls[1:])]
    if op == "layerwise_adamw_":
        return [tuple(adamw_calls.draw(case).values()) for case in ADAMW_CASES]
    raise AssertionError(f"no samples of {op}: add them here")


def namespace() -> list[str]:
    """Return the names of all registered ops, without the overload."""
    names = torch._C._dispatch_get_all_op_names()
    return sorted(n.split("::")[1].split(".")[0] for n in names if n.startswith("ulmfit_fast::"))


def test_schemas_are_all_ops_of_the_namespace() -> None:
    assert namespace() == sorted(_ops.SCHEMAS)


def check_registration(op: str, with_grad: bool) -> None:
    overload = getattr(torch.ops.ulmfit_fast, op).default
    for sample in samples(op, with_grad):
        arguments = [
            a.detach().requires_grad_(with_grad)
            if isinstance(a, Tensor) and a.is_floating_point()
            else a
            for a in sample
        ]
        torch.library.opcheck(overload, tuple(arguments))


@pytest.mark.parametrize("op", namespace())
def test_op_keeps_the_registration_contract(op: str) -> None:
    check_registration(op, with_grad=False)


@pytest.mark.parametrize("op", [op for op in namespace() if op not in NOT_DIFFERENTIABLE])
def test_differentiable_op_keeps_the_registration_contract(op: str) -> None:
    check_registration(op, with_grad=True)


def test_lstm_backward_is_differentiable_by_nobody() -> None:
    arguments = [
        a.detach().requires_grad_() if isinstance(a, Tensor) and a.is_floating_point() else a
        for a in samples("lstm_backward", with_grad=True)[-1]
    ]
    dx, *_ = torch.ops.ulmfit_fast.lstm_backward(*arguments)
    with pytest.raises(NotImplementedError, match=r"ulmfit_fast\.reference\.lstm"):
        dx.sum().backward()


@pytest.mark.parametrize(("counter", "key", "expected"), PHILOX_VECTORS)
def test_reference_philox_gives_the_published_words(
    counter: tuple[int, ...], key: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    words = reference.philox4x32(
        tuple(torch.tensor(c) for c in counter), tuple(torch.tensor(k) for k in key)
    )
    assert tuple(int(w) for w in words) == expected


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "strided"])
def test_drop_connect_has_the_gradient_that_differences_give(layout: str) -> None:
    torch.manual_seed(2)
    weight = layouts(torch.randn(4, 5, dtype=torch.float64))[layout].detach().requires_grad_()

    def dropped(w: Tensor) -> Tensor:
        return functional.drop_connect(w, 0.4, SEED)

    assert torch.autograd.gradcheck(dropped, (weight,))
    assert torch.autograd.gradgradcheck(dropped, (weight,))


def test_drop_connect_gradient_has_the_mask_of_the_forward_pass() -> None:
    weight = torch.ones(33, 7, requires_grad=True)
    dropped = functional.drop_connect(weight, 0.5, SEED)
    (grad,) = torch.autograd.grad(dropped.sum(), weight)
    assert torch.equal(grad, dropped.detach())


def test_drop_connect_compiles_into_one_graph() -> None:
    weight = torch.randn(6, 9, requires_grad=True)

    def loss(w: Tensor, seed: Tensor) -> Tensor:
        return (functional.drop_connect(w.t(), 0.5, seed) * 3).square().sum()

    (expected,) = torch.autograd.grad(loss(weight, SEED), weight)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    (found,) = torch.autograd.grad(compiled(weight, SEED), weight)
    assert torch.equal(found, expected)


def test_drop_connect_mask_is_a_function_of_the_logical_index() -> None:
    matrices = layouts(torch.randn(6, 10))
    dropped = [functional.drop_connect(weight, 0.5, SEED) for weight in matrices.values()]
    assert all(torch.equal(d, dropped[0]) and d.is_contiguous() for d in dropped)
    flat = functional.drop_connect(matrices["contiguous"].flatten(), 0.5, SEED)
    assert torch.equal(flat.view(6, 10), dropped[0])


@pytest.mark.parametrize("drop_p", [0.1, 0.5, 0.9])
def test_drop_connect_keeps_the_share_it_should(drop_p: float) -> None:
    n = 1 << 20
    kept = int(functional.drop_connect(torch.ones(n), drop_p, SEED).count_nonzero())
    sigma = math.sqrt(n * drop_p * (1 - drop_p))
    assert abs(kept - n * (1 - drop_p)) < 5 * sigma


def test_drop_connect_rescales_what_it_keeps_and_zeroes_the_rest() -> None:
    weight = torch.randn(1000)
    dropped = functional.drop_connect(weight, 0.25, SEED)
    kept = dropped != 0
    assert torch.equal(dropped[kept], weight[kept] * (1 / 0.75))
    assert not torch.signbit(dropped[~kept]).any()


def test_drop_connect_of_nothing_dropped_is_a_copy() -> None:
    weight = torch.randn(13)
    dropped = functional.drop_connect(weight, 0.0, SEED)
    assert torch.equal(dropped, weight)
    assert dropped.data_ptr() != weight.data_ptr()


def test_drop_connect_discards_what_is_not_a_number() -> None:
    weight = torch.full((64,), torch.nan)
    dropped = functional.drop_connect(weight, 0.5, SEED)
    keep = reference.keep_mask(weight.shape, 0.5, SEED)
    assert torch.equal(dropped.isnan(), keep)


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.integers(-(2**63), 2**63 - 1))
def test_neighbouring_seeds_draw_unrelated_masks(seed: int) -> None:
    other = seed ^ (1 << 40)
    masks = [reference.keep_mask((4096,), 0.5, torch.tensor([s])).float() for s in (seed, other)]
    share_equal = float((masks[0] == masks[1]).float().mean())
    assert abs(share_equal - 0.5) < 5 * 0.5 / math.sqrt(4096)


@pytest.mark.parametrize("drop_p", [-0.1, 1.0, 1.5, math.nan])
def test_drop_connect_refuses_a_chance_outside_its_range(drop_p: float) -> None:
    with pytest.raises(ValueError, match="drop_p"):
        functional.drop_connect(torch.ones(4), drop_p, SEED)
    with pytest.raises(RuntimeError, match="drop_p"):
        torch.ops.ulmfit_fast.drop_connect(torch.ones(4), drop_p, SEED)
