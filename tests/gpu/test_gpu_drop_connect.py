"""drop_connect on a GPU: the reference's bits, on any stream, in graphs, at any size."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ulmfit_fast import _native, functional, reference

pytestmark = pytest.mark.gpu
FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def test_cuda_kernel_is_the_compiled_one(device: torch.device) -> None:
    assert _native.why_missing("drop_connect", device.type) is None


@settings(derandomize=True, deadline=None, max_examples=200)
@given(
    n=st.integers(0, 5000),
    offset=st.integers(0, 9),
    dtype=st.sampled_from(FLOATS),
    drop_p=st.floats(0, 1, exclude_max=True),
    seed=st.integers(-(2**63), 2**63 - 1),
)
def test_gpu_drop_connect_gives_the_bits_of_the_cpu(
    n: int, offset: int, dtype: torch.dtype, drop_p: float, seed: int
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    # An offset into a larger buffer gives every alignment.
    weight = torch.randn(n + offset).to(dtype)[offset:]
    seeds = torch.tensor([seed])
    on_gpu = torch.cat([weight.new_zeros(offset), weight]).cuda()[offset:]
    found = functional.drop_connect(on_gpu, drop_p, seeds.cuda())
    expected = reference.drop_connect(weight, drop_p, seeds)
    assert torch.equal(found.cpu().isnan(), expected.isnan())
    assert torch.equal(found.cpu().nan_to_num(), expected.nan_to_num())


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_gpu_drop_connect_at_the_size_of_the_model(
    device: torch.device, dtype: torch.dtype
) -> None:
    weight = torch.randn(4 * 1152, 1152, device=device).to(dtype)
    seed = torch.tensor([11], device=device)
    expected = reference.drop_connect(weight, 0.5, seed)
    assert torch.equal(functional.drop_connect(weight, 0.5, seed), expected)
    transposed = weight.t().contiguous().t()
    assert torch.equal(functional.drop_connect(transposed, 0.5, seed), expected)


def test_gpu_drop_connect_beyond_32_bit_indices(device: torch.device) -> None:
    n = 2**31 + 5
    if torch.cuda.mem_get_info()[0] < 5 * n:
        pytest.skip("needs 11 GB of free GPU memory")
    seed = torch.tensor([12], device=device)
    dropped = functional.drop_connect(torch.ones(n, device=device, dtype=torch.bfloat16), 0.5, seed)
    block = torch.arange(n // 4 - 256, (n + 3) // 4, device=device)
    zero = torch.zeros_like(block)
    words = reference.philox4x32(
        (block & reference.WORD, block >> 32, zero, zero), (seed, torch.zeros_like(seed))
    )
    keep = torch.stack(words, dim=1).flatten()[: n - 4 * int(block[0])] >= 2**31
    assert torch.equal(dropped[4 * int(block[0]) :] != 0, keep)


def test_gpu_graph_draws_a_fresh_mask_at_every_replay(device: torch.device) -> None:
    weight = torch.randn(400, 100, device=device, requires_grad=True)
    seed = torch.tensor([1], device=device)
    out_grad = torch.ones_like(weight)
    functional.drop_connect(weight, 0.5, seed).backward(out_grad)  # warm up
    graph = torch.cuda.CUDAGraph()
    weight.grad = None
    with torch.cuda.graph(graph):
        seed.add_(1)
        dropped = functional.drop_connect(weight, 0.5, seed)
        (grad,) = torch.autograd.grad(dropped, weight, out_grad)
    seed.fill_(40)
    for replayed in (41, 42, 43):
        graph.replay()
        now = torch.tensor([replayed], device=device)
        assert torch.equal(dropped, reference.drop_connect(weight.detach(), 0.5, now))
        assert torch.equal(grad, reference.drop_connect(out_grad, 0.5, now))


def test_gpu_drop_connect_runs_on_the_current_stream(device: torch.device) -> None:
    weight = torch.zeros(1 << 22, device=device)
    seed = torch.tensor([1], device=device)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        weight.fill_(1.0)
        dropped = functional.drop_connect(weight, 0.0, seed)
    stream.synchronize()
    assert bool((dropped == 1).all())


def test_gpu_drop_connect_compiles_into_one_graph(device: torch.device) -> None:
    weight = torch.randn(64, 48, device=device, requires_grad=True)
    seed = torch.tensor([5], device=device)

    def loss(w: torch.Tensor) -> torch.Tensor:
        return functional.drop_connect(w, 0.5, seed).square().sum()

    (expected,) = torch.autograd.grad(loss(weight), weight)
    (found,) = torch.autograd.grad(torch.compile(loss, fullgraph=True)(weight), weight)
    assert torch.equal(found, expected)


def test_gpu_drop_connect_keeps_the_registration_contract(device: torch.device) -> None:
    seed = torch.tensor([5], device=device)
    for weight in (torch.randn(6, 8, device=device), torch.randn(8, 6, device=device).t()):
        for with_grad in (False, True):
            sample = weight.detach().requires_grad_(with_grad)
            torch.library.opcheck(torch.ops.ulmfit_fast.drop_connect.default, (sample, 0.3, seed))


def test_gpu_drop_connect_allocates_its_output_and_nothing_more(device: torch.device) -> None:
    weight = torch.randn(1 << 20, device=device)
    seed = torch.tensor([5], device=device)
    functional.drop_connect(weight, 0.5, seed)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    dropped = functional.drop_connect(weight, 0.5, seed)
    assert torch.cuda.max_memory_allocated() - before == dropped.numel() * dropped.element_size()


def test_gpu_drop_connect_refuses_a_seed_in_host_memory(device: torch.device) -> None:
    weight = torch.ones(4, device=device)
    with pytest.raises(ValueError, match="seed: expected on cuda"):
        functional.drop_connect(weight, 0.5, torch.tensor([1]))
    with pytest.raises(RuntimeError, match="seed: expected on the device of weight"):
        torch.ops.ulmfit_fast.drop_connect(weight, 0.5, torch.tensor([1]))
