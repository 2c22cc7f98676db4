"""Dropouts, regularisation and pooling on a GPU: the CPU's masks, graphs, launches, no waiting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from conftest import no_waiting
from numerics import assert_no_worse
from torch import Tensor

from ulmfit_fast import _native, functional, reference

pytestmark = pytest.mark.gpu
ops = torch.ops.ulmfit_fast
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
#: T, B, E and V of the model.
REAL = (70, 64, 400)
V = 60_000
SHAPES = [REAL, (70, 64, 1152), (1, 1, 1), (3, 5, 7), (9, 2, 33)]
OPS = (
    *("variational_dropout", "embedding_dropout", "embedding_dropout_backward"),
    *("activation_regularization", "activation_regularization_backward"),
    *("concat_pool", "concat_pool_backward"),
)


@dataclass(frozen=True)
class Call:
    """Arguments of every op, on the GPU."""

    arguments: dict[str, tuple[Any, ...]]

    def run(self, op: str) -> list[Tensor]:
        result = getattr(ops, op)(*self.arguments[op])
        return [result] if isinstance(result, Tensor) else list(result)

    def expected(self, op: str, dtype: torch.dtype | None = None) -> list[Tensor]:
        """Return the reference's results on the CPU, in a dtype if one is given."""
        arguments = [
            (a.cpu().to(dtype) if dtype and a.is_floating_point() else a.cpu())
            if isinstance(a, Tensor)
            else a
            for a in self.arguments[op]
        ]
        result = getattr(reference, op)(*arguments)
        return [result] if isinstance(result, Tensor) else list(result)


def zipf_ids(T: int, B: int, n_rows: int) -> Tensor:
    """Return ids of which a few are frequent, as words are."""
    share = 1.0 / torch.arange(1, n_rows + 1)
    generator = torch.Generator().manual_seed(5)
    return torch.multinomial(share, T * B, replacement=True, generator=generator).view(B, T).t()


def draw(shape: tuple[int, int, int], dtype: torch.dtype, layout: str = "contiguous") -> Call:
    T, B, E = shape
    generator = torch.Generator().manual_seed(1)

    def normal(*size: int) -> Tensor:
        x = torch.randn(*size, generator=generator).to("cuda", dtype)
        if layout == "contiguous" or x.dim() < 3:
            return x
        if layout == "batch first":
            return x.transpose(0, 1).contiguous().transpose(0, 1)
        buffer = torch.full([n + 1 for n in size], torch.nan, dtype=dtype, device="cuda")
        buffer[1:, 1:, 1:] = x
        return buffer[1:, 1:, 1:]

    n_rows = V if shape == REAL else 50
    seed = torch.tensor([2**40 + 1], device="cuda")
    ids, x = zipf_ids(T, B, n_rows).cuda(), normal(T, B, E)
    length = torch.randint(1, T + 1, (B,), generator=generator)
    start = (torch.rand(B, generator=generator) * (T - length + 1)).long()
    start, end = start.cuda(), (start + length).cuda()
    argmax = start[:, None].expand(B, E).contiguous()
    penalty = torch.tensor(1.5, device="cuda", dtype=reference.accumulation_dtype(dtype))
    regularize = (x, 0.4, seed, 2.0, 1.0)
    return Call(
        {
            "variational_dropout": (x, 0.3, seed),
            "embedding_dropout": (ids, normal(n_rows, E), 0.1, seed, 1),
            "embedding_dropout_backward": (normal(T, B, E), ids, n_rows, 0.1, seed, 1),
            "activation_regularization": regularize,
            "activation_regularization_backward": (normal(T, B, E), penalty, *regularize),
            "concat_pool": (x.transpose(0, 1), start, end),
            "concat_pool_backward": (normal(B, 3 * E), argmax, start, end, T),
        }
    )


@pytest.mark.parametrize("op", OPS)
def test_gpu_layer_runs_its_triton_kernel(device: torch.device, op: str) -> None:
    assert _native.kernels[op, device.type] == "triton"


@pytest.mark.parametrize("layout", ["contiguous", "batch first", "strided"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("op", OPS)
def test_gpu_layer_is_as_accurate_as_the_reference(
    device: torch.device, op: str, shape: tuple[int, int, int], dtype: torch.dtype, layout: str
) -> None:
    call = draw(shape, dtype, layout)
    found = call.run(op)
    three = zip(found, call.expected(op), call.expected(op, torch.float64), strict=True)
    for i, (result, plain, exact) in enumerate(three):
        assert result.is_contiguous()
        assert result.dtype == plain.dtype
        if op == "activation_regularization" and i == 1:
            exact = plain.double()  # of the rounded elements; a single number, whose luck is short
            assert torch.allclose(result.cpu().double(), exact, rtol=1e-5)
            continue
        assert_no_worse(f"{op} {i}", result.cpu(), plain, exact, plain.dtype if i == 0 else dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", ["variational_dropout", "embedding_dropout"])
@pytest.mark.parametrize("seed", [0, -1, 2**32, -(2**63), 2**63 - 1])
def test_gpu_masks_have_the_bits_of_the_cpu(
    device: torch.device, op: str, dtype: torch.dtype, seed: int
) -> None:
    call = draw((9, 8, 100), dtype)
    arguments = list(call.arguments[op])
    arguments[2 if op == "variational_dropout" else 3] = torch.tensor([seed], device=device)
    call = Call({op: tuple(arguments)})
    assert torch.equal(call.run(op)[0].cpu(), call.expected(op)[0])


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("op", OPS)
def test_gpu_layer_gives_the_same_bits_again(
    device: torch.device, op: str, dtype: torch.dtype
) -> None:
    call = draw(REAL, dtype)
    assert all(torch.equal(*pair) for pair in zip(call.run(op), call.run(op), strict=True))


def test_gpu_embedding_gradient_of_frequent_words(device: torch.device) -> None:
    n, E = 4480, 400
    for ids in (torch.full((n,), 3), torch.arange(n) // 7, torch.arange(n) % 2):
        grad = torch.randn(n, E)
        rest = (ids, 700, 0.0, None, None)
        found = ops.embedding_dropout_backward(grad.cuda(), ids.cuda(), *rest[1:])
        plain = reference.embedding_dropout_backward(grad, *rest)
        exact = reference.embedding_dropout_backward(grad.double(), *rest)
        assert_no_worse("dw", found.cpu(), plain, exact, torch.float32)


def test_gpu_ids_outside_of_the_table_give_nan_and_no_gradient(device: torch.device) -> None:
    ids = torch.tensor([0, -1, 7, 2**40, 6, -(2**62)], device=device)
    table = torch.randn(7, 400, device=device, requires_grad=True)
    found = functional.embedding_dropout(ids, table, 0.0, None)
    exists = (ids >= 0) & (ids < 7)
    assert torch.equal(found.isnan().all(-1), ~exists)
    (dw,) = torch.autograd.grad(found, table, torch.ones_like(found))
    expected = torch.zeros_like(dw)
    expected[[0, 6]] = 1.0
    assert torch.equal(dw, expected)


def test_gpu_pooling_lets_nan_through(device: torch.device) -> None:
    call = draw((9, 4, 20), torch.float32)
    call.arguments["concat_pool"][0][1, [3, 7], 4] = torch.nan
    for result, expected in zip(call.run("concat_pool"), call.expected("concat_pool"), strict=True):
        assert torch.allclose(result.cpu(), expected, equal_nan=True)


@pytest.mark.parametrize("op", OPS)
def test_gpu_layer_waits_for_nothing(device: torch.device, op: str) -> None:
    call = draw(REAL, torch.bfloat16)
    call.run(op)
    with no_waiting():
        call.run(op)


def step(x: Tensor, table: Tensor, ids: Tensor, seed: Tensor) -> list[Tensor]:
    """Return results and gradients of all four functions."""
    T = len(x)
    embedded = functional.embedding_dropout(ids, table, 0.1, seed, 1)
    hidden = functional.variational_dropout(embedded + x, 0.3, seed + 1)
    dropped, penalty = functional.activation_regularization(hidden, 2.0, 1.0, 0.4, seed + 2)
    start = torch.zeros_like(ids[0])
    pooled = functional.concat_pool(dropped.transpose(0, 1), start, start + T)
    loss = pooled.float().square().sum() + penalty
    return [loss.detach(), pooled.detach(), *torch.autograd.grad(loss, (x, table))]


def test_gpu_graph_draws_fresh_masks_at_every_replay(device: torch.device) -> None:
    T, B, E = 9, 8, 40
    x = torch.randn(T, B, E, device=device, requires_grad=True)
    table = torch.randn(50, E, device=device, requires_grad=True)
    ids, seed = zipf_ids(T, B, 50).cuda(), torch.tensor([1], device=device)
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):  # autograd wants its first run on the stream of the capture
        step(x, table, ids, seed)
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        seed.add_(1)
        captured = step(x, table, ids, seed)
    torch.cuda.synchronize()
    seed.fill_(2**40)
    previous = None
    for replay in range(1, 4):
        graph.replay()
        torch.cuda.synchronize()
        expected = step(x, table, ids, torch.tensor([2**40 + replay], device=device))
        assert all(torch.equal(*pair) for pair in zip(captured, expected, strict=True))
        assert previous is None or not torch.equal(captured[1], previous)
        previous = captured[1].clone()


def n_launches(call: Callable[[], object]) -> int:
    """Return how many kernels, copies and fills a call has the GPU do."""
    call()
    activities = [torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profiler:
        call()
        torch.cuda.synchronize()
    kind = torch.autograd.DeviceType.CUDA
    events = [e for e in profiler.events() if e.device_type == kind and not e.is_user_annotation]
    return len(events)


def test_gpu_layers_are_few_launches(device: torch.device) -> None:
    # NaN in fresh memory, which the suite wants, would be a launch of its own.
    torch.utils.deterministic.fill_uninitialized_memory = False
    call = draw(REAL, torch.bfloat16)
    found = {op: n_launches(lambda op=op: call.run(op)) for op in OPS}
    in_sort_and_fill = found.pop("embedding_dropout_backward") - 2
    assert found == {
        "variational_dropout": 1,
        "embedding_dropout": 1,
        "activation_regularization": 2,
        "activation_regularization_backward": 1,
        "concat_pool": 1,
        "concat_pool_backward": 1,
    }
    assert in_sort_and_fill <= 12


def test_gpu_layers_compile_no_kernel_again_for_another_batch_or_length(
    device: torch.device,
) -> None:
    from ulmfit_fast.kernels import embedding_rows, pool_tiles, sequence_tiles

    modules = (embedding_rows, pool_tiles, sequence_tiles)
    kernels = [v for m in modules for k, v in vars(m).items() if k.endswith("_kernel")]
    counts = []
    for T, B in ((3, 2), (16, 16), (5, 48)):
        call = draw((T, B, 400), torch.bfloat16)
        for op in OPS:
            call.run(op)
        index = torch.cuda.current_device()
        counts.append(sum(len(kernel.device_caches[index][0]) for kernel in kernels))
    assert counts == counts[:1] * 3


@pytest.mark.parametrize("op", OPS)
def test_gpu_layer_keeps_the_registration_contract(device: torch.device, op: str) -> None:
    for dtype, layout in ((torch.float32, "contiguous"), (torch.bfloat16, "strided")):
        call = draw((4, 3, 5), dtype, layout)
        torch.library.opcheck(getattr(ops, op).default, call.arguments[op])


def test_gpu_variational_dropout_beyond_32_bit_offsets(device: torch.device) -> None:
    T, B, E = 3, 1 << 10, (1 << 20) + 4
    if torch.cuda.mem_get_info()[0] < 16 << 30:
        pytest.skip("needs 16 GB of free GPU memory")
    x = torch.ones(T, B, E, device=device, dtype=torch.bfloat16)
    seed = torch.tensor([7], device=device)
    dropped = functional.variational_dropout(x, 0.5, seed)
    last = torch.arange(B * E - 1000, B * E, device=device)
    keep = reference.masks.keep_at(last, 0.5, seed)
    for t in range(T):
        assert torch.equal(dropped[t].view(-1)[-1000:] != 0, keep)
