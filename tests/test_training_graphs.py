"""Steps as graphs train as eager steps do, bit for bit; on the CPU with tape.py for a recorder.

The real capture is in tests/gpu/test_gpu_training_graphs.py.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from graph_runs import Run
from small_training import draw_texts, small_config, weights_hash
from tape import TapeRecorder, settings_in_memory
from torch import Tensor

from ulmfit_fast import (
    InputError,
    TrainConfig,
    TrainingError,
    ULMFiTTrainer,
    _ops,
    functional,
)
from ulmfit_fast.functional import layers, loss
from ulmfit_fast.model import LossParts
from ulmfit_fast.training import graphs, loop, tasks, trainer


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Settings lie in memory, and nobody looks at what tensors hold."""
    for module in (functional, layers):
        monkeypatch.setattr(module, "check_ids", lambda *arguments, **others: None)
    monkeypatch.setattr(loss, "_check_targets", lambda *arguments: None)
    monkeypatch.setattr(_ops.loss, "_is_one", lambda grad: False)
    with settings_in_memory():
        yield


def both(config: TrainConfig) -> tuple[Run, Run]:
    """Return an eager run and one with tapes."""
    return Run(config), Run(config, recorder=TapeRecorder())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("recipe", ["paper", "fastai"])
def test_graphs_train_as_eager_steps_do(recipe: str, precision: str) -> None:
    """Masks, moving rates and betas, clipping, variable lengths, unfreezing, several epochs."""
    config = small_config(recipe, precision=precision, variable_bptt=True, weight_decay=0.02)
    for stage in ("pretrain", "language_model"):
        config = config.with_stage(stage, epochs=3)
    eager, graphed = both(config)
    graphed.assert_equal(eager)
    assert eager.n_replays == 0
    lengths = len(graphed.tapes)
    assert lengths > 8
    assert graphed.n_replays > 0.6 * len(graphed.losses)
    assert all(tape.n_replays for tape in graphed.tapes)


def test_layers_that_are_frozen_are_in_no_graph() -> None:
    """The recipe fastai trains the embedding for an epoch, then all: two sets of graphs."""
    config = small_config("fastai", variable_bptt=False)
    graphed = Run(config, recorder=TapeRecorder())
    assert [phase.n_unfrozen for phase in graphed.fits[1].phases] == [1, 3]
    n_params = [
        len(args[0])
        for tape in graphed.tapes
        for func, args, _, _ in tape.calls
        if func is torch.ops.ulmfit_fast.layerwise_adamw_.default
    ]
    total = len(list(graphed.fits[0].task.model.parameters()))
    assert [n for n, _ in itertools.groupby(n_params)] == [total, 2, total]


def test_rare_lengths_and_those_above_the_most_stay_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_config("paper", variable_bptt=True)
    eager = Run(config)
    make = graphs.GraphSteps.__init__

    def limited(self: graphs.GraphSteps, *arguments: Any) -> None:
        make(self, *arguments, most=2)

    monkeypatch.setattr(graphs.GraphSteps, "__init__", limited)
    graphed = Run(config, recorder=TapeRecorder())
    graphed.assert_equal(eager)
    assert len(graphed.tapes) == 4  # two stages of one phase each
    assert 0 < graphed.n_replays < 0.8 * len(graphed.losses)


def test_a_loaded_optimizer_gets_graphs_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its moments are other tensors than those that the graphs move."""
    validate = tasks.LanguageModelTask.validate
    made: list[loop.Fit] = []

    def reload(self: Any) -> dict[str, float]:
        optimizer = made[-1].optimizer
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        return validate(self)

    make = loop.Fit.__init__

    def spy(fit: loop.Fit, *arguments: Any, **keywords: Any) -> None:
        make(fit, *arguments, **keywords)
        made.append(fit)

    monkeypatch.setattr(loop.Fit, "__init__", spy)
    monkeypatch.setattr(tasks.LanguageModelTask, "validate", reload)
    config = small_config("paper", variable_bptt=False)
    eager, graphed = both(config)
    graphed.assert_equal(eager)
    assert len(graphed.tapes) == 4  # two stages of two epochs, one length that repeats


def poisoned(monkeypatch: pytest.MonkeyPatch, at_token: int, name: str) -> None:
    """Make loss, or only its gradient, NaN in batches that begin with a token, as a graph can."""
    loss = tasks.LanguageModelTask.loss

    def broken(self: Any, inputs: tuple[Tensor, ...], state: Any) -> tuple[LossParts, Any]:
        parts, state = loss(self, inputs, state)
        is_bad = (inputs[0][0, 0] == at_token).float()
        if name == "loss":
            return replace(parts, total=parts.total / (1 - is_bad)), state
        # The root of 0 adds nothing to the loss and NaN to the gradient, where it is of 0.
        root = ((1 - is_bad) + 0 * self.model.decoder_bias.sum()).sqrt()
        return replace(parts, total=parts.total + 0 * root), state

    monkeypatch.setattr(tasks.LanguageModelTask, "loss", broken)


def test_steps_that_are_not_finite_are_skipped_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    poisoned(monkeypatch, 9, "gradient")
    config = small_config("paper", variable_bptt=True)
    eager, graphed = both(config)
    graphed.assert_equal(eager)
    assert sum(epoch.get("skipped_steps", 0) for epoch in graphed.metrics) > 2
    assert graphed.n_replays > 0


def test_a_loss_that_is_not_finite_stops_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    poisoned(monkeypatch, 9, "loss")
    hashes: list[str] = []
    read = loop.Fit._read

    def spy(fit: loop.Fit, *arguments: Any) -> None:
        hashes.append(weights_hash(fit.task.model))
        read(fit, *arguments)

    monkeypatch.setattr(loop.Fit, "_read", spy)
    found = []
    for recorder in (None, TapeRecorder()):
        with pytest.raises(TrainingError) as raised:
            Run(small_config("paper", variable_bptt=False), recorder=recorder)
        found.append((str(raised.value), hashes[-1]))
    assert recorder.tapes
    assert recorder.tapes[-1].n_replays > 1
    assert found[0] == found[1]


def test_losses_are_read_as_seldom_and_classifiers_stay_eager(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop, "CPU_STEPS_BETWEEN_READS", 7)
    config = small_config("paper", variable_bptt=True)
    eager, graphed = both(config)
    graphed.assert_equal(eager)
    recorder = TapeRecorder()
    monkeypatch.setattr(trainer, "CudaRecorder", lambda _: recorder)
    made = ULMFiTTrainer(config.with_stage("classifier", epochs=1), size="tiny")
    made.cuda_graphs = True
    made.train_classifier(*draw_texts(40))
    assert not recorder.tapes


def test_a_graph_of_what_is_no_more_is_not_kept_alive_by_the_optimizer() -> None:
    import gc
    import weakref

    from ulmfit_fast import LayerwiseAdamW

    class OnCpu:
        device = torch.device("cpu")

    optimizer = LayerwiseAdamW([torch.nn.Parameter(torch.ones(2))])
    gc.disable()
    try:
        steps = graphs.GraphSteps(OnCpu(), optimizer, TapeRecorder())
        gone = weakref.ref(steps)
        del steps
        assert gone() is None
    finally:
        gc.enable()
    optimizer.load_state_dict(optimizer.state_dict())


def test_graphs_without_a_gpu_are_refused_in_one_line() -> None:
    message = (
        r"CUDA graphs need a GPU, and the device is 'cpu': train without .*\(cuda_graphs=False"
    )
    with pytest.raises(InputError, match=message):
        ULMFiTTrainer(small_config(), size="tiny", device="cpu", cuda_graphs=True)
