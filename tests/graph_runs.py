"""The language-model stages of a trainer, eagerly or with graphs, and all that came out of them."""

from __future__ import annotations

import copy
import hashlib
from typing import Any

import pytest
import torch
from small_training import draw_texts
from tape import Tape, TapeRecorder

from ulmfit_fast import TrainConfig, ULMFiTTrainer
from ulmfit_fast.training import loop, trainer
from ulmfit_fast.training.graphs import GraphSteps
from ulmfit_fast.training.observer import Observer, Step


class Losses(Observer):
    def __init__(self) -> None:
        self.of: list[float] = []

    def step(self, step: Step) -> None:
        self.of.append(step.loss)


class Run:
    """A run on small texts.

    Args:
        config: of both stages.
        recorder: stands in for a GPU's; None leaves the trainer's own.
        device: where to train.
        cuda_graphs: whether to make graphs with the trainer's own recorder.
    """

    def __init__(
        self,
        config: TrainConfig,
        *,
        recorder: TapeRecorder | None = None,
        device: str = "cpu",
        cuda_graphs: bool = False,
    ) -> None:
        self.tapes: list[Tape] = recorder.tapes if recorder else []
        self.fits: list[loop.Fit] = []
        losses, make = Losses(), loop.Fit.__init__

        def spy(fit: loop.Fit, *arguments: Any, **keywords: Any) -> None:
            make(fit, *arguments, **keywords)
            self.fits.append(fit)

        texts, _ = draw_texts(120)
        made = ULMFiTTrainer(
            config, size="tiny", device=device, observers=[losses], cuda_graphs=cuda_graphs
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop.Fit, "__init__", spy)
            if recorder is not None:
                patch.setattr(trainer, "CudaRecorder", lambda _: recorder)
                made.cuda_graphs = True
            results = [made.pretrain(texts, texts[:9]), made.finetune_lm(texts[:70])]
        self.losses = losses.of
        self.metrics = [
            {name: value for name, value in epoch.items() if name != "seconds"}
            for result in results
            for epoch in result.epochs
        ]
        self.model = made.language_model
        digest = hashlib.sha256()
        for value in self.model.state_dict().values():
            digest.update(value.cpu().numpy().tobytes())
        self.weights = digest.hexdigest()
        self.moments = [
            copy.deepcopy(list(fit.optimizer.state_dict()["state"].values())) for fit in self.fits
        ]

    @property
    def n_replays(self) -> int:
        """Steps that graphs took."""
        steps = [fit.steps for fit in self.fits]
        return sum(each.n_replayed for each in steps if isinstance(each, GraphSteps))

    def assert_equal(self, other: Run) -> None:
        """Fail unless losses, metrics, weights and moments are another run's, bit for bit."""
        assert self.losses == other.losses
        assert self.metrics == other.metrics
        assert self.weights == other.weights
        for one, two in zip(self.moments, other.moments, strict=True):
            for a, b in zip(one, two, strict=True):
                assert all(torch.equal(a[name], b[name]) for name in a)
