"""linear_cross_entropy on a GPU: as exact as PyTorch there, in graphs, in little memory."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import loss_calls
import pytest
import torch
from conftest import no_waiting
from loss_calls import IGNORED, Call, Case
from torch import Tensor

from ulmfit_fast import _native, functional, reference
from ulmfit_fast.kernels import linear_cross_entropy as launcher

pytestmark = pytest.mark.gpu
ops = torch.ops.ulmfit_fast
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
#: N, E, V of the model.
REAL = (4480, 400, 60_000)
SHAPE = (300, 400, 9001)
CASES = [
    *(Case(shape) for shape in ((1, 1, 1), (1, 5, 2), (7, 3, 1), (33, 17, 65), (130, 40, 513))),
    *(Case(SHAPE, dtype) for dtype in DTYPES),
    *(Case(SHAPE, dtype, masters=True) for dtype in DTYPES[1:3]),
    *(Case((129, 400, 257), dtype, label_smoothing=0.1) for dtype in DTYPES),
    *(Case((129, 403, 4001), dtype) for dtype in DTYPES),
    *(Case(SHAPE, dtype, bias=False, reduction="sum") for dtype in DTYPES[:2]),
    Case(SHAPE, torch.bfloat16, reduction="none", label_smoothing=0.2, masters=True),
    Case(SHAPE, torch.bfloat16, masters=True, layout="strided"),
    Case(SHAPE, layout="transposed"),
    *(Case(SHAPE, dtype, scale=10.0) for dtype in DTYPES[:2]),
    Case((20_000, 16, 300), torch.bfloat16),
]
REAL_CASES = [
    Case(REAL),
    Case(REAL, torch.bfloat16, masters=True),
    Case(REAL, torch.bfloat16),
    Case((4608, 400, 30_000), torch.float16, masters=True, label_smoothing=0.1),
]
TRAINING = Case(REAL, torch.bfloat16, ignored=0.02, masters=True)
SMALL = Case((300, 400, 9001), torch.bfloat16, masters=True)


@pytest.fixture(autouse=True)
def _whole_float32() -> Iterator[None]:
    """Have cuBLAS multiply float32 as float32, in the kernels and in what they are held to."""
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    yield
    torch.backends.cuda.matmul.fp32_precision = before


@pytest.fixture(autouse=True)
def _calls_on_gpu(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have tests/loss_calls.py draw on the GPU: the same numbers, moved there."""
    draw_on_cpu = loss_calls.draw
    monkeypatch.setattr(loss_calls, "draw", lambda *a: moved(draw_on_cpu(*a), device))


def moved(call: Call, device: torch.device) -> Call:
    tensors = {name: getattr(call, name) for name in ("hidden", "weight", "targets", "cotangent")}
    on_gpu = {name: same_strides(t, device) for name, t in tensors.items()}
    bias = None if call.bias is None else call.bias.to(device)
    return replace(call, **on_gpu, bias=bias)


def same_strides(tensor: Tensor, device: torch.device) -> Tensor:
    on_gpu = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
    return on_gpu.copy_(tensor)


def run_ops(call: Call) -> list[Tensor]:
    """Return the results of both ops: loss, lse, dx, dw, db."""
    forward = call.forward_arguments()
    loss, lse, *_ = ops.linear_cross_entropy_forward(*forward)
    rest = (*forward[:4], lse, *forward[4:7], True, True)
    return [loss, lse, *ops.linear_cross_entropy_backward(call.cotangent, *rest)]


def step(call: Call) -> dict[str, Tensor]:
    return loss_calls.run_autograd(functional.linear_cross_entropy, call)


def kernels_of(call: Callable[[], object]) -> Counter[str]:
    """Return how often each kernel runs in a call, by name."""
    call()
    activities = [torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profiler:
        call()
        torch.cuda.synchronize()
    kind = torch.autograd.DeviceType.CUDA
    events = [e for e in profiler.events() if e.device_type == kind and not e.is_user_annotation]
    return Counter(event.name for event in events)


def test_gpu_loss_runs_the_triton_kernels(device: torch.device) -> None:
    for op in ("linear_cross_entropy_forward", "linear_cross_entropy_backward"):
        assert _native.kernels[op, device.type] == "triton"


@pytest.mark.parametrize("case", [*CASES, *REAL_CASES], ids=str)
def test_gpu_loss_is_as_accurate_as_pytorch(device: torch.device, case: Case) -> None:
    loss_calls.check(functional.linear_cross_entropy, case)


@pytest.mark.parametrize("case", [Case(SHAPE), SMALL], ids=str)
def test_gpu_loss_at_once_gives_the_gradients_of_the_backward_op(
    device: torch.device, case: Case
) -> None:
    call = replace(loss_calls.draw(case), cotangent=torch.ones((), device=device))
    found = ops.linear_cross_entropy_forward(*call.forward_arguments(True, True))[2:]
    assert all(torch.equal(*pair) for pair in zip(found, run_ops(call)[2:], strict=True))


@pytest.mark.parametrize("case", [TRAINING, Case(SHAPE), SMALL], ids=str)
def test_gpu_loss_gives_the_same_bits_again(device: torch.device, case: Case) -> None:
    call = loss_calls.draw(case)
    first, second = (run_ops(call) for _ in range(2))
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_gpu_loss_of_no_rows_that_count_is_nan_with_gradients_of_zero(
    device: torch.device, dtype: torch.dtype
) -> None:
    loss, lse, *gradients = run_ops(loss_calls.draw(Case(SHAPE, dtype, ignored=1.0)))
    assert math.isnan(float(loss))
    assert bool(lse.isfinite().all())
    assert not any(bool(g.count_nonzero()) for g in gradients)


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("wrong", [-1, SHAPE[2], 2**40, -(2**62)])
def test_gpu_target_that_is_no_class_makes_the_loss_nan(
    device: torch.device, dtype: torch.dtype, wrong: int
) -> None:
    call = loss_calls.draw(Case(SHAPE, dtype, reduction="none"))
    call.targets[3], call.targets[4] = wrong, IGNORED
    loss, lse, dx, *_ = run_ops(call)
    row = torch.arange(SHAPE[0], device=device) == 3
    assert torch.equal(loss.isnan(), row)
    assert torch.equal(dx.isnan().any(dim=1), row)
    assert bool(lse.isfinite().all())


def test_gpu_loss_takes_no_rows_and_an_expanded_gradient(device: torch.device) -> None:
    loss, lse, dx, dw, db = run_ops(loss_calls.draw(Case((0, 400, 513), torch.bfloat16)))
    assert math.isnan(float(loss))
    assert (list(lse.shape), list(dx.shape)) == ([0], [0, 400])
    assert not dw.count_nonzero()
    assert not db.count_nonzero()
    call = loss_calls.draw(replace(SMALL, reduction="none"))
    spread = replace(call, cotangent=torch.ones((), device=device).expand(SHAPE[0]))
    dense = replace(call, cotangent=torch.ones(SHAPE[0], device=device))
    pairs = zip(run_ops(spread), run_ops(dense), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


def test_gpu_graph_of_the_ops_gives_the_bits_of_eager_for_new_numbers(
    device: torch.device,
) -> None:
    call = loss_calls.draw(SMALL)
    run_ops(call)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run_ops(call)
    for seed in (1, 2):
        other = loss_calls.draw(SMALL, seed)
        for name in ("hidden", "weight", "bias", "targets"):
            getattr(call, name).copy_(getattr(other, name))
        graph.replay()
        pairs = zip(captured, run_ops(other), strict=True)
        assert all(torch.equal(*pair) for pair in pairs)


def test_gpu_graph_of_the_function_and_its_gradient(device: torch.device) -> None:
    call = loss_calls.draw(SMALL)
    expected = step(call)
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):  # autograd wants its first run on the stream of the capture
        step(call)
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        captured = step(call)
    for tensor in captured.values():
        tensor.zero_()
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(captured[name], expected[name]) for name in expected)


@pytest.mark.parametrize("case", [SMALL, Case(SHAPE)], ids=str)
def test_gpu_loss_waits_for_nothing(device: torch.device, case: Case) -> None:
    call = loss_calls.draw(case)
    step(call)
    with no_waiting():
        step(call)
        run_ops(call)


def test_gpu_loss_runs_on_the_current_stream(device: torch.device) -> None:
    call = loss_calls.draw(SMALL)
    expected = run_ops(call)
    hidden = call.hidden.clone()
    call.hidden.zero_()
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        call.hidden.copy_(hidden)
        found = run_ops(call)
    stream.synchronize()
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


@pytest.mark.parametrize("case", [TRAINING, Case(REAL, ignored=0.02)], ids=str)
def test_gpu_loss_needs_less_than_400_mib(device: torch.device, case: Case) -> None:
    call = loss_calls.draw(case)
    step(call)  # cuBLAS has its workspace after this
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step(call)
    torch.cuda.synchronize()
    # The gradients are 99 MiB of it; the logits alone would be 513 MiB in 16 bits.
    assert torch.cuda.max_memory_allocated() - before <= 400 << 20


def test_gpu_loss_launches_what_the_launcher_says(device: torch.device) -> None:
    # NaN in fresh memory, which the suite wants, would be a launch of its own.
    torch.utils.deterministic.fill_uninitialized_memory = False
    call = loss_calls.draw(TRAINING)
    n_slabs = -(-REAL[2] // launcher.slab_width(REAL[0], REAL[2]))
    found = kernels_of(lambda: run_ops(call))
    ours = {name: n for name, n in found.items() if name.startswith("_") and "kernel" in name}
    n_forward = -(-REAL[2] // launcher.forward_width(call.hidden, call.weight))
    assert ours == {
        "_lse_kernel": n_forward,
        "_combine_kernel": 1,
        "_total_kernel": 1,
        "_row_gradient_kernel": 1,
        "_dz_kernel": n_slabs,
    }
    # Two products and a rounding for each slab; cuBLAS may split a product in two.
    assert sum(found.values()) - sum(ours.values()) <= n_forward + 5 * n_slabs + 4, found


def test_gpu_loss_compiles_no_kernel_again_for_another_number_of_rows(
    device: torch.device,
) -> None:
    from ulmfit_fast.kernels import loss_tiles

    kernels = [v for k, v in vars(loss_tiles).items() if k.endswith("_kernel")]
    counts = []
    for n in (70, 1, 16, 333):
        run_ops(loss_calls.draw(replace(SMALL, shape=(n, 400, 513))))
        index = torch.cuda.current_device()
        counts.append(sum(len(kernel.device_caches[index][0]) for kernel in kernels))
    assert counts == counts[:1] * 4


def test_gpu_loss_compiles_into_one_graph(device: torch.device) -> None:
    call = loss_calls.draw(SMALL)
    expected = step(call)

    def compiled(*arguments: Any) -> Tensor:
        hidden, weight, bias, targets, ignore_index, smoothing, reduction = arguments
        function = torch.compile(functional.linear_cross_entropy, fullgraph=True)
        return function(hidden, weight, bias, targets, ignore_index, smoothing, reduction)

    torch._dynamo.reset()
    found = loss_calls.run_autograd(compiled, call)
    torch._dynamo.reset()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    "case",
    [
        Case((5, 16, 7)),
        Case((5, 16, 7), torch.bfloat16, masters=True, layout="strided"),
        Case((4, 3, 6), torch.float64, reduction="none"),
    ],
    ids=str,
)
def test_gpu_loss_keeps_the_registration_contract(device: torch.device, case: Case) -> None:
    call = loss_calls.draw(case)
    torch.library.opcheck(ops.linear_cross_entropy_backward.default, call.backward_arguments())
    for with_grad in (False, True):
        arguments = tuple(
            a.detach().requires_grad_(with_grad and a.is_floating_point())
            if isinstance(a, Tensor)
            else a
            for a in call.forward_arguments()
        )
        torch.library.opcheck(ops.linear_cross_entropy_forward.default, arguments)


def test_gpu_loss_under_autocast_rounds_hidden(device: torch.device) -> None:
    call = loss_calls.draw(Case(SHAPE))
    with torch.autocast("cuda", torch.bfloat16):
        found = functional.linear_cross_entropy(call.hidden, call.weight, call.bias, call.targets)
    rounded = call.hidden.bfloat16()
    expected = functional.linear_cross_entropy(rounded, call.weight, call.bias, call.targets)
    assert torch.equal(found, expected)
    assert found.dtype == torch.float32


def test_gpu_loss_beyond_32_bit_offsets(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    N, E, V = 140_000, 16, 15_500
    monkeypatch.setattr(launcher, "SLAB_ROWS", launcher.MAX_SLABS * N)
    assert N * launcher.slab_width(N, V) > 2**31
    if torch.cuda.mem_get_info()[0] < 12 << 30:
        pytest.skip("needs 12 GB of free GPU memory")
    hidden = torch.randn(N, E, device=device).bfloat16()
    weight = torch.randn(V, E, device=device)
    targets = torch.randint(0, V, (N,), device=device)
    arguments = (hidden, weight, None, targets, IGNORED, 0.0, "sum")
    loss, lse, *_ = ops.linear_cross_entropy_forward(*arguments, False, False)
    rest = (*arguments[:4], lse, *arguments[4:], True, False)
    dx = ops.linear_cross_entropy_backward(torch.ones_like(loss), *rest)[0]
    last = slice(N - 100, N)
    part = (hidden[last], weight, None, targets[last], IGNORED, 0.0, "sum")
    expected = reference.linear_cross_entropy_forward(*part, True, False)
    # The reference's logits are rounded to 16 bits.
    assert torch.allclose(lse[last], expected[1], rtol=1e-2, atol=2e-2)
    assert torch.allclose(dx[last].float(), expected[2].float(), rtol=5e-2, atol=5e-2)
