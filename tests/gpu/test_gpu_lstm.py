"""The LSTM on a GPU: as exact as PyTorch there, the CPU's masks, in graphs, on any stream."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import lstm_calls
import pytest
import torch
from conftest import no_waiting
from lstm_calls import Call, Case, assert_lstm_no_worse, run
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from ulmfit_fast import _native, functional, reference
from ulmfit_fast.kernels import lstm

pytestmark = pytest.mark.gpu
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
#: T, B, I, H of the model's middle layer.
REAL = (70, 64, 1152, 1152)
CASES = [
    *(Case((3, 2, 7, 5), dtype) for dtype in DTYPES),
    *(Case((4, 3, 9, H), dtype) for H in (255, 256, 257) for dtype in DTYPES[:2]),
    *(Case((9, 8, 20, 1150), dtype, lengths="some") for dtype in DTYPES),
    *(Case((9, 8, 20, 96), dtype, lengths="some", reverse=True) for dtype in DTYPES),
    *(Case((9, 8, 20, 96), dtype, scale=scale) for scale in (1e-3, 8.0) for dtype in DTYPES),
    Case((9, 8, 20, 96), bias=False, drop_p=0.0, layout="strided"),
    Case((9, 8, 20, 96), torch.bfloat16, wide_c0=True, lengths="some"),
    *(Case(REAL, dtype) for dtype in DTYPES[:3]),
    Case(REAL, torch.bfloat16, lengths="some", reverse=True),
]
SMALL = Case((6, 5, 9, 33), torch.bfloat16, lengths="some")


@pytest.fixture(autouse=True)
def _calls_on_gpu(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have tests/lstm_calls.py draw on the GPU: the same numbers, moved there."""
    draw_on_cpu = lstm_calls.draw
    monkeypatch.setattr(lstm_calls, "SEED", lstm_calls.SEED.to(device))
    monkeypatch.setattr(lstm_calls, "draw", lambda *a: moved(draw_on_cpu(*a), device))


def moved(call: Call, device: torch.device) -> Call:
    tensors = {k: same_strides(t, device) for k, t in call.tensors.items()}
    cotangents = {k: t.to(device) for k, t in call.cotangents.items()}
    lengths = None if call.lengths is None else call.lengths.to(device)
    return replace(call, tensors=tensors, cotangents=cotangents, lengths=lengths)


def same_strides(tensor: Tensor, device: torch.device) -> Tensor:
    on_gpu = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
    return on_gpu.copy_(tensor)


def run_ops(call: Call, seed: Tensor, keep: bool = True) -> list[Tensor]:
    """Return the results of both ops, with a seed given by hand; dy, dh_n, dc_n are y, h_n, c_n."""
    forward = list(call.forward_arguments(keep))
    forward[7] = seed
    y, h_n, c_n, c, gates = torch.ops.ulmfit_fast.lstm_forward(*forward)
    if not keep:
        return [y, h_n, c_n]
    x, w_ih, w_hh, _, h0, c0, lengths, _, drop_p, reverse, _ = forward
    grads = torch.ops.ulmfit_fast.lstm_backward(
        y, h_n, c_n, x, w_ih, w_hh, h0, c0, y, c, gates, lengths, seed, drop_p, reverse, True, True
    )
    return [y, h_n, c_n, c, gates, *grads]


def test_gpu_lstm_runs_the_triton_kernels(device: torch.device) -> None:
    for op in ("lstm_forward", "lstm_backward"):
        assert _native.why_missing(op, device.type) is None
        assert _native.kernels[op, device.type] == "triton"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gpu_lstm_is_as_accurate_as_pytorch(device: torch.device, case: Case) -> None:
    assert_lstm_no_worse(functional.lstm, case)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("seed", [0, -1, 2**32, -(2**63), 2**63 - 1])
def test_gpu_lstm_masks_have_the_bits_of_the_cpu(
    device: torch.device, dtype: torch.dtype, seed: int
) -> None:
    seeds = torch.tensor([seed])
    for weight in (torch.randn(4 * 1152, 1152).to(dtype), torch.randn(28, 7).to(dtype).t()):
        found = lstm.dropped_weight(weight.to(device), 0.3, seeds.to(device))
        assert torch.equal(found.cpu(), reference.drop_connect(weight, 0.3, seeds))


def test_gpu_lstm_gives_the_same_bits_again(device: torch.device) -> None:
    call = lstm_calls.draw(Case((20, 16, 64, 1152), torch.bfloat16, lengths="some"))
    first, second = (run_ops(call, lstm_calls.SEED) for _ in range(2))
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))


def test_gpu_graph_of_the_ops_draws_fresh_masks_and_gives_the_bits_of_eager(
    device: torch.device,
) -> None:
    call = lstm_calls.draw(SMALL)
    seed = torch.tensor([1], device=device)
    run_ops(call, seed)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        seed.add_(1)
        captured = run_ops(call, seed)
    seed.fill_(2**40)
    previous = None
    for replay in range(1, 4):
        graph.replay()
        expected = run_ops(call, torch.tensor([2**40 + replay], device=device))
        assert all(torch.equal(*pair) for pair in zip(captured, expected, strict=True))
        assert previous is None or not torch.equal(captured[0], previous)
        previous = captured[0].clone()


def test_gpu_graph_of_the_function_and_its_gradient(device: torch.device) -> None:
    call = lstm_calls.draw(SMALL)
    expected = run(functional.lstm, call)
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):  # autograd wants its first run on the stream of the capture
        run(functional.lstm, call)
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        captured = run(functional.lstm, call)
    for tensor in captured.values():
        tensor.zero_()
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(captured[name], expected[name]) for name in expected)


def test_gpu_lstm_waits_for_nothing(device: torch.device) -> None:
    call = lstm_calls.draw(SMALL)
    run(functional.lstm, call)
    with no_waiting():
        run(functional.lstm, call)
        run_ops(call, lstm_calls.SEED, keep=False)


def test_gpu_lstm_runs_on_the_current_stream(device: torch.device) -> None:
    call = lstm_calls.draw(SMALL)
    expected = run_ops(call, lstm_calls.SEED)
    x = call.tensors["x"].clone()
    call.tensors["x"].zero_()
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        call.tensors["x"].copy_(x)
        found = run_ops(call, lstm_calls.SEED)
    stream.synchronize()
    assert torch.equal(found[0], expected[0])


def test_gpu_lstm_compiles_no_kernel_again_for_another_batch_or_length(
    device: torch.device,
) -> None:
    from ulmfit_fast.kernels import lstm_cell

    def n_variants() -> int:
        jitted = (lstm_cell._drop_kernel, lstm_cell._lstm_forward_kernel)
        jitted += (lstm_cell._lstm_backward_kernel,)
        return sum(len(k.device_caches[torch.cuda.current_device()][0]) for k in jitted)

    counts = []
    for T, B in ((2, 3), (1, 1), (16, 16), (5, 48)):
        run_ops(lstm_calls.draw(replace(SMALL, shape=(T, B, 9, 33))), lstm_calls.SEED)
        counts.append(n_variants())
    assert counts == counts[:1] * 4


def test_gpu_lstm_compiles_into_one_graph_for_every_batch_size(device: torch.device) -> None:
    backend = CompileCounterWithBackend("inductor")
    torch._dynamo.reset()

    def layer(x: Tensor, state: Any, *rest: Any) -> Tensor:
        y, (h_n, c_n) = functional.lstm(x, state, *rest)
        return y.square().sum() + h_n.sum() + c_n.sum()

    compiled = torch.compile(layer, fullgraph=True, backend=backend, dynamic=True)
    weights = lstm_calls.draw(Case((1, 1, 6, 33))).leaves()
    n_compiled = []
    for T, B in ((4, 2), (4, 3), (7, 5), (7, 16)):
        call = lstm_calls.draw(Case((T, B, 6, 33)))
        leaves = {**call.leaves(), **{n: w for n, w in weights.items() if n[0] in "wb"}}
        (dx,) = torch.autograd.grad(compiled(*call.arguments(leaves)), leaves["x"])
        (expected,) = torch.autograd.grad(layer(*call.arguments(leaves)), leaves["x"])
        assert torch.allclose(dx, expected, rtol=1e-5, atol=1e-6)  # inductor fuses the squares
        n_compiled.append(backend.frame_count)
    torch._dynamo.reset()
    assert n_compiled == n_compiled[:1] * 4


@pytest.mark.parametrize("lengths", [None, "some"], ids=["whole", "lengths"])
def test_gpu_lstm_keeps_the_registration_contract(device: torch.device, lengths: Any) -> None:
    call = lstm_calls.draw(Case((3, 2, 4, 6), lengths=lengths))
    ops = torch.ops.ulmfit_fast
    torch.library.opcheck(ops.lstm_backward.default, call.backward_arguments())
    for with_grad in (False, True):
        arguments = tuple(
            a.detach().requires_grad_(with_grad and a.is_floating_point())
            if isinstance(a, Tensor)
            else a
            for a in call.forward_arguments()
        )
        torch.library.opcheck(ops.lstm_forward.default, arguments)


def test_gpu_lstm_keeps_no_gates_of_the_whole_sequence_without_gradients(
    device: torch.device,
) -> None:
    T, B, n_inputs, H = 350, 64, 64, 1152
    call = lstm_calls.draw(Case((T, B, n_inputs, H), torch.bfloat16))
    arguments = call.forward_arguments(save=False)
    torch.ops.ulmfit_fast.lstm_forward(*arguments)  # cuBLAS has its workspace after this
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    results = torch.ops.ulmfit_fast.lstm_forward(*arguments)
    torch.cuda.synchronize()
    transient = 2 * lstm.CHUNK_ROWS * 4 * H + 2 * 4 * H * H + 4 * B * 4 * H + 8 * B * H
    outputs = sum(t.numel() * t.element_size() for t in results)
    # Allocations are rounded up, large ones to 2 MiB; the gates of all steps would be 206 MB.
    assert torch.cuda.max_memory_allocated() - before <= outputs + transient + (8 << 20)


def test_gpu_lstm_names_what_is_wrong(device: torch.device) -> None:
    x, state, weights, drop_p, seed, lengths, _ = lstm_calls.draw(SMALL).arguments()
    with pytest.raises(ValueError, match="seed: expected on cuda"):
        functional.lstm(x, state, weights, drop_p, seed.cpu(), lengths)
    with pytest.raises(ValueError, match="h0: expected on cuda"):
        functional.lstm(x, (state[0].cpu(), state[1]), weights, drop_p, seed, lengths)
    with pytest.raises(NotImplementedError, match="x: the LSTM kernels know"):
        functional.lstm(x.to(torch.float8_e5m2), state, weights, drop_p, seed, lengths)
