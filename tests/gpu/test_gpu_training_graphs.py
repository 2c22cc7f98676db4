"""Training steps as CUDA graphs on a GPU: the bits of eager steps, and nothing waits."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from conftest import no_waiting
from graph_runs import Run
from small_training import draw_texts, small_config
from torch import Tensor

from ulmfit_fast import TrainingError, ULMFiTTrainer
from ulmfit_fast.model import AWDLSTMConfig, LanguageModel, LossParts
from ulmfit_fast.optim import LayerwiseAdamW, layer_param_groups, set_rates
from ulmfit_fast.training import loop, tasks
from ulmfit_fast.training.graphs import CudaRecorder, GraphSteps
from ulmfit_fast.training.steps import Batch, EagerSteps

pytestmark = pytest.mark.gpu

CONFIG = AWDLSTMConfig(500, embed_size=64, hidden_size=96, n_layers=3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("recipe", ["paper", "fastai"])
def test_gpu_graphs_train_as_eager_steps_do(
    device: torch.device, monkeypatch: pytest.MonkeyPatch, recipe: str, precision: str
) -> None:
    """Masks, moving rates and betas, clipping, variable lengths, unfreezing, several epochs."""
    monkeypatch.setattr(loop, "GPU_STEPS_BETWEEN_READS", 1)
    config = small_config(recipe, precision=precision, variable_bptt=True, weight_decay=0.02)
    for stage in ("pretrain", "language_model"):
        config = config.with_stage(stage, epochs=3)
    eager, graphed = (
        Run(config, device=str(device), cuda_graphs=cuda_graphs) for cuda_graphs in (False, True)
    )
    again = Run(config, device=str(device))
    again.assert_equal(eager)  # else the machine's own products differ from run to run
    graphed.assert_equal(eager)
    assert eager.n_replays == 0
    assert graphed.n_replays > 0.6 * len(graphed.losses)


class OneModel:
    """A task on batches that a test makes."""

    has_few_shapes = True

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.model = LanguageModel(CONFIG).to(device)

    def loss(self, inputs: tuple[Tensor, ...], state: Any) -> tuple[LossParts, Any]:
        with torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False):
            return self.model.loss(*inputs, state, 2.0, 1.0)


def make_steps(task: OneModel, kind: type[EagerSteps], lr: float = 1e-3) -> EagerSteps:
    groups = layer_param_groups(task.model.layer_groups(), lr=lr)
    graphed = kind is GraphSteps
    optimizer = LayerwiseAdamW(groups, max_grad_norm=0.3, capturable=graphed)
    recorder = (CudaRecorder(task.device),) if graphed else ()
    return kind(task, optimizer, *recorder)


def make_batch(device: torch.device, T: int) -> Batch:
    ids = torch.randint(2, 500, (8, T + 1), device=device)
    return Batch((ids[:, :-1].contiguous(), ids[:, 1:].contiguous()), 8 * T)


def test_gpu_replayed_step_waits_for_nothing_and_is_one_graph(device: torch.device) -> None:
    steps = make_steps(OneModel(device), GraphSteps)
    batches = [make_batch(device, T) for T in (21, 34, 21, 34)]
    for batch in batches:
        steps.step(batch, None)
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiler, no_waiting():
        for batch in batches:
            steps.step(batch, None)
    assert steps.n_replayed == 6
    launches = [e.count for e in profiler.key_averages() if e.key == "cudaGraphLaunch"]
    assert launches == [4]


def test_gpu_every_replay_draws_masks_of_its_own(device: torch.device) -> None:
    steps = make_steps(OneModel(device), GraphSteps, lr=0.0)
    batch, losses = make_batch(device, 21), []
    for _ in range(6):
        steps.start_epoch()
        steps.step(batch, lambda parts: losses.append(float(parts.cross_entropy)))
    assert len(set(losses)) == 6


def test_gpu_memory_is_shared_by_graphs(device: torch.device) -> None:
    steps = make_steps(OneModel(device), GraphSteps)
    reserved = []
    for T in (60, *range(40, 60)):
        batch = make_batch(device, T)
        steps.step(batch, None)
        steps.step(batch, None)
        torch.cuda.empty_cache()
        reserved.append(torch.cuda.memory_reserved())
    assert steps.n_replayed == 21
    assert reserved[-1] - reserved[0] < reserved[0]


def test_gpu_capture_while_another_thread_pins_memory(device: torch.device) -> None:
    steps = make_steps(OneModel(device), GraphSteps)
    stop = threading.Event()

    def pin() -> None:
        n = 1
        while not stop.is_set():
            torch.empty(n * 1024).pin_memory()
            n = n % 4096 + 1

    thread = threading.Thread(target=pin)
    thread.start()
    try:
        for T in range(10, 30):
            for _ in range(3):
                steps.step(make_batch(device, T), None)
    finally:
        stop.set()
        thread.join()
    assert steps.n_replayed == 40


def test_gpu_rates_move_between_replays(device: torch.device) -> None:
    torch.manual_seed(0)
    found = []
    for kind in (EagerSteps, GraphSteps):
        torch.manual_seed(1)
        task = OneModel(device)
        steps = make_steps(task, kind)
        for step in range(12):
            rates = dict.fromkeys(task.model.layer_groups(), 0.001 / (1 + step))
            set_rates(steps.optimizer, rates, (0.7 + 0.01 * step, 0.99))
            steps.step(make_batch(device, 20 + step % 2), None)
        found.append([p.detach().clone() for p in task.model.parameters()])
    assert all(torch.equal(p, q) for p, q in zip(*found, strict=True))


def test_gpu_step_that_no_graph_can_hold_is_one_line(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = tasks.LanguageModelTask.loss

    def waits(self: Any, inputs: tuple[Tensor, ...], state: Any) -> tuple[LossParts, Any]:
        parts, state = loss(self, inputs, state)
        float(parts.total)
        return parts, state

    monkeypatch.setattr(tasks.LanguageModelTask, "loss", waits)
    texts, _ = draw_texts(60)
    trainer = ULMFiTTrainer(
        small_config(variable_bptt=False), size="tiny", device=str(device), cuda_graphs=True
    )
    with pytest.raises(TrainingError, match="cannot be captured as a CUDA graph") as raised:
        trainer.pretrain(texts)
    assert "\n" not in str(raised.value)
    torch.cuda.synchronize()
