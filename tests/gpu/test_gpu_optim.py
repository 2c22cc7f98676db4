"""LayerwiseAdamW on a GPU: both kernels to the CPU's criterion, launches, graphs, nothing waits."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from adamw_calls import CASES, MOVED, Case, after, assert_right, draw, flat, laid_out, odd
from conftest import no_waiting
from test_optim import distance, draw_params, groups_of, run, unfreezing
from torch import Tensor, nn

from ulmfit_fast import LayerwiseAdamW, _native
from ulmfit_fast.kernels import layerwise_adamw

pytestmark = pytest.mark.gpu
op = torch.ops.ulmfit_fast.layerwise_adamw_
#: Tensors of the model with 10,000 words: 20 M elements.
REAL = ((10_000, 400), (4608, 400), (4608, 1152), (4608,), (4608, 1152), (1600, 400), (10_000,))


@pytest.fixture(params=["cuda", "triton"], autouse=True)
def backend(
    request: pytest.FixtureRequest, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> str:
    """Run a test on the CUDA C++ kernels, and on the Triton kernels."""
    if request.param == "triton":
        monkeypatch.setattr(layerwise_adamw, "cuda_kernel", None)
    else:
        assert layerwise_adamw.cuda_kernel is not None, "ulmfit_fast._cuda has no layerwise_adamw_"
        assert _native.kernels["layerwise_adamw_", "cuda"] == "compiled"
    return str(request.param)


def on_gpu(*arguments: Any) -> None:
    """Take the step of CPU tensors on the GPU, in their layouts, and bring the results back."""

    def move(value: Any) -> Any:
        if isinstance(value, list):
            return [move(each) for each in value]
        if not isinstance(value, Tensor):
            return value
        if odd(value) and value.dim():
            memory = torch.zeros(value.numel() + 1, dtype=value.dtype, device="cuda")
            return memory[1:].view(value.shape).copy_(value)
        empty = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cuda")
        return empty.copy_(value)

    moved = [move(value) for value in arguments]
    op(*moved)
    for value, result in zip(arguments, moved, strict=True):
        pairs = zip(value, result, strict=True) if isinstance(value, list) else [(value, result)]
        for target, source in pairs:
            if isinstance(target, Tensor):
                target.copy_(source)


@pytest.mark.parametrize("case", [*CASES, Case(((7,),) * 300, shadow=True)], ids=str)
def test_gpu_step_is_as_accurate_as_pytorch(case: Case) -> None:
    assert_right(on_gpu, case)


def test_gpu_step_at_the_size_of_the_model_gives_the_same_bits_again() -> None:
    case = Case(REAL, first_step=5)
    assert_right(on_gpu, case)
    before = draw(case)
    first, second = after(on_gpu, before), after(on_gpu, before)
    for name in (*MOVED[:3], "steps"):
        assert torch.equal(flat(first[name]), flat(second[name])), name
    assert torch.equal(first["grad_norm"], second["grad_norm"])


@pytest.mark.parametrize("poison", [math.inf, math.nan])
def test_gpu_step_with_a_gradient_that_is_not_finite_changes_nothing(poison: float) -> None:
    case = Case(((3, 2), (2049,), (7,)), poison=poison, first_step=2, shadow=True, average=0.0)
    before = draw(case)
    found = after(on_gpu, before)
    for name in (*MOVED, "steps", "shadows", "n_averaged"):
        assert torch.equal(flat(found[name]), flat(before[name])), name
    assert int(found["skipped_steps"]) == 6


def gpu_params() -> list[nn.Parameter]:
    """Return test_optim's parameters on the GPU, with gradients of 1."""
    params = [nn.Parameter(p.detach().cuda()) for p in draw_params()]
    for p in params:
        p.grad = torch.ones_like(p)
    return params


def test_gpu_200_steps_of_unfreezing_layers_are_those_of_adamw() -> None:
    params, exact = gpu_params(), draw_params(torch.float64)
    optimizer = LayerwiseAdamW(groups_of(params), max_grad_norm=0.5)
    torchs = torch.optim.AdamW(groups_of(exact))
    run(optimizer, range(200), None, unfreezing)
    run(torchs, range(200), 0.5, unfreezing)
    assert distance(params, exact) <= 16
    counts = [[float(s["step"]) for s in o.state.values()] for o in (optimizer, torchs)]
    assert sorted(counts[0]) == sorted(counts[1])


def kernels_of(step: Callable[[], object]) -> list[str]:
    """Return the names of what a call has the GPU do."""
    step()
    activities = [torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profiler:
        step()
        torch.cuda.synchronize()
    kind = torch.autograd.DeviceType.CUDA
    events = [e for e in profiler.events() if e.device_type == kind and not e.is_user_annotation]
    return [event.name for event in events]


def test_gpu_step_is_two_launches_and_one_without_clipping(backend: str) -> None:
    params = gpu_params()
    made = {
        "clipping": LayerwiseAdamW(groups_of(params), max_grad_norm=0.5, skip_nonfinite=False),
        "skipping": LayerwiseAdamW(groups_of(params)),
        "neither": LayerwiseAdamW(groups_of(params), skip_nonfinite=False),
    }
    found = {name: kernels_of(optimizer.step) for name, optimizer in made.items()}
    copies = [n for names in found.values() for n in names if "memcpy" in n.lower()]
    assert bool(copies) == (backend == "triton")  # its table and the layers' settings
    launches = {name: len([n for n in names if n not in copies]) for name, names in found.items()}
    assert launches == {"clipping": 2, "skipping": 2, "neither": 1}, found


def test_gpu_step_waits_for_nothing_and_allocates_nothing_new() -> None:
    params = gpu_params()
    optimizer = LayerwiseAdamW(
        groups_of(params), max_grad_norm=0.5, bf16_shadow=True, average="mean"
    )
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=50)
    for _ in range(3):
        optimizer.step()
        scheduler.step()
    counts = ("num_device_alloc", "num_device_free", "segment.all.allocated")
    before = [torch.cuda.memory_stats()[name] for name in counts]
    with no_waiting():
        for _ in range(5):
            optimizer.step()
            scheduler.step()
    assert [torch.cuda.memory_stats()[name] for name in counts] == before


def test_gpu_rate_in_a_tensor_is_read_on_its_device() -> None:
    params, same = gpu_params(), gpu_params()
    rate = torch.tensor(1e-2, device="cuda")
    optimizer = LayerwiseAdamW(params, lr=rate)
    twin = LayerwiseAdamW(same, lr=float(rate))
    optimizer.step()
    twin.step()
    with no_waiting():
        rate.mul_(0.5)
        optimizer.step()
    twin.param_groups[0]["lr"] = float(rate)
    twin.step()
    assert all(torch.equal(p, q) for p, q in zip(params, same, strict=True))


def test_gpu_step_runs_on_the_current_stream() -> None:
    p = nn.Parameter(torch.zeros(1 << 20, device="cuda"))
    p.grad = torch.zeros_like(p)
    optimizer = LayerwiseAdamW([p], lr=1.0, weight_decay=0.0, max_grad_norm=1e9)
    optimizer.step()
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        p.grad.fill_(1.0)
        optimizer.step()
    stream.synchronize()
    assert bool((p < 0).all())


def change(optimizer: LayerwiseAdamW, step: int) -> None:
    """Give every group other settings."""
    for index, group in enumerate(optimizer.param_groups):
        group["lr"] = 1e-2 / (1 + step + index)
        group["betas"] = (0.7 + 0.004 * step, 0.99 - 0.001 * index)
        group["weight_decay"] = 0.01 * (step % 3)


def captured(optimizer: LayerwiseAdamW) -> torch.cuda.CUDAGraph:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        optimizer.step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    return graph


def test_gpu_graph_replays_equal_eager_steps_while_settings_change() -> None:
    options: Any = {"max_grad_norm": 0.5, "bf16_shadow": True, "average": "mean"}
    params, same = gpu_params(), gpu_params()
    grads = [torch.zeros_like(p) for p in params]
    for p, q, g in zip(params, same, grads, strict=True):
        p.grad, q.grad = g, g.clone()
    optimizer = LayerwiseAdamW(groups_of(params), capturable=True, **options)
    eager = LayerwiseAdamW(groups_of(same), **options)
    graph = captured(optimizer)
    eager.step()  # the warm-up; the capture itself takes no step
    for step in range(50):
        for g, q in zip(grads, same, strict=True):
            g.normal_()
            q.grad.copy_(g)
        if step == 20:
            grads[2][0] = math.inf
            same[2].grad[0] = math.inf
        for each in (optimizer, eager):
            change(each, step)
        assert optimizer.needs_refresh
        optimizer.replay(graph)
        assert not optimizer.needs_refresh
        eager.step()
    for p, q in zip(params, same, strict=True):
        assert torch.equal(p, q)
        for name, value in optimizer.state[p].items():
            assert torch.equal(value, eager.state[q][name]), name
        assert torch.equal(optimizer.shadow(p), p.bfloat16())
    assert int(optimizer.skipped_steps) == int(eager.skipped_steps) == 1
    assert torch.equal(optimizer.last_grad_norm, eager.last_grad_norm)


def unfreeze(optimizer: LayerwiseAdamW) -> None:
    optimizer.param_groups[0]["frozen"] = False


def load(optimizer: LayerwiseAdamW) -> None:
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def clip_harder(optimizer: LayerwiseAdamW) -> None:
    optimizer.max_grad_norm = 0.1


def stop_averaging(optimizer: LayerwiseAdamW) -> None:
    optimizer.averaging = False


@pytest.mark.parametrize("spoil", [unfreeze, load, clip_harder, stop_averaging])
def test_gpu_replay_of_what_is_no_more_is_refused(spoil: Callable[[LayerwiseAdamW], None]) -> None:
    params = gpu_params()
    optimizer = LayerwiseAdamW(
        groups_of(params), max_grad_norm=0.5, average="mean", capturable=True
    )
    optimizer.param_groups[0]["frozen"] = True
    graph = captured(optimizer)
    optimizer.replay(graph)
    spoil(optimizer)
    with pytest.raises(RuntimeError, match=r"since the CUDA graph was captured: capture another"):
        optimizer.replay(graph)


@pytest.mark.parametrize(
    "mistake",
    ["not capturable", "no gradient", "settings changed", "unfrozen", "averaging", "first step"],
)
def test_gpu_capture_that_would_go_wrong_in_silence_is_refused(mistake: str) -> None:
    params = gpu_params()
    optimizer = LayerwiseAdamW(
        groups_of(params), average="mean", capturable=mistake != "not capturable"
    )
    optimizer.averaging = False
    optimizer.param_groups[0]["frozen"] = mistake == "unfrozen"
    if mistake != "first step":
        optimizer.step()
    if mistake == "no gradient":
        params[1].grad = None
    elif mistake == "settings changed":
        change(optimizer, 3)
    optimizer.param_groups[0]["frozen"] = False
    optimizer.averaging = mistake == "averaging"
    before = [p.detach().clone() for p in params]
    messages = {
        "not capturable": r"make LayerwiseAdamW\(capturable=True\)",
        "no gradient": "group 1, parameter 0 has no gradient, and the CUDA graph",
        "settings changed": r"call refresh\(\) before the CUDA graph is captured",
    }
    message = messages.get(mistake, "has no state yet, .* take a step before the capture")
    graph = torch.cuda.CUDAGraph()
    with pytest.raises(RuntimeError, match=message), torch.cuda.graph(graph):
        optimizer.step()
    assert all(torch.equal(p, b) for p, b in zip(params, before, strict=True))


def test_gpu_grad_scaler_skips_and_halves() -> None:
    params = gpu_params()
    optimizer = LayerwiseAdamW(groups_of(params), max_grad_norm=0.5)
    scaler = torch.amp.GradScaler("cuda", init_scale=1024.0)
    for value in (1024.0, math.inf):
        for p in params:
            p.grad = torch.full_like(p, value)
        scaler.scale(torch.zeros((), device="cuda"))
        scaler.step(optimizer)
        scaler.update()
    assert scaler.get_scale() == 512.0
    assert int(optimizer.skipped_steps) == 1
    assert {float(s["step"]) for s in optimizer.state.values()} == {1.0}
    assert math.isinf(float(optimizer.last_grad_norm))


def test_gpu_state_dict_moves_from_the_cpu() -> None:
    on_cpu = draw_params()
    optimizer = LayerwiseAdamW(groups_of(on_cpu), max_grad_norm=0.5)
    run(optimizer, range(3))
    params = [nn.Parameter(p.detach().cuda()) for p in on_cpu]
    moved = LayerwiseAdamW(groups_of(params), max_grad_norm=0.5)
    moved.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for each in (optimizer, moved):
        run(each, range(3, 6))
    assert distance(params, [nn.Parameter(p.detach().double()) for p in on_cpu]) <= 16


@pytest.mark.parametrize("case", [Case(((3, 2), (5,))), Case(((3, 2),), shadow=True, average=0.1)])
def test_gpu_step_keeps_the_registration_contract(case: Case) -> None:
    arguments = draw(case)
    moved = {
        name: [laid_out(t, "contiguous").cuda() for t in value]
        if isinstance(value, list) and name != "layer_of"
        else value.cuda()
        if isinstance(value, Tensor)
        else value
        for name, value in arguments.items()
    }
    torch.library.opcheck(op.default, tuple(moved.values()))
