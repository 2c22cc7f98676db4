"""Training with LayerwiseAdamW is training with torch.optim.AdamW over layers, in every stage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from small_training import draw_texts, small_config, train_all
from torch import Tensor, nn

from ulmfit_fast import LayerwiseAdamW, ULMFiTTrainer
from ulmfit_fast.model import LossParts
from ulmfit_fast.training import loop, tasks
from ulmfit_fast.training.observer import Observer, Step
from ulmfit_fast.training.steps import Batch

# The project's criterion for curves: as far from AdamW's loop over tensors as torch's own fused
# AdamW is, twice, and a floor. Training magnifies rounding: at the classifier's last batch, of two
# rows behind a batch norm, the losses of torch's two differ by 1 % (2026-11-25).
FLOOR = 1e-6
# A classifier's curve is chaotic: maxima over time jump from one position to another. Over seeds 1
# to 5 torch's fused kernel and ours both came out at 5e-6 to 2e-3 (2026-11-25).
CLASSIFIER_FLOOR = 1e-2


class ClippedAdamW(torch.optim.AdamW):
    """torch's own, behind the constructor and the clipping of ours."""

    skipped_steps = torch.tensor(0)
    fuses = False

    def __init__(self, params: Any, *, max_grad_norm: float | None, **settings: Any) -> None:
        super().__init__(params, foreach=False, fused=self.fuses, **settings)
        self.max_grad_norm = max_grad_norm

    def step(self, closure: Any = None) -> Any:
        if self.max_grad_norm is not None:
            params = [p for group in self.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(params, self.max_grad_norm)
        return super().step(closure)


class ClippedFusedAdamW(ClippedAdamW):
    """torch's fused kernel."""

    fuses = True


class Losses(Observer):
    def __init__(self) -> None:
        self.of: dict[str, list[float]] = {}

    def step(self, step: Step) -> None:
        self.of.setdefault(step.stage, []).append(step.loss)


def losses_with(
    optimizer: type[torch.optim.Optimizer], recipe: str, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Tensor]:
    """Return the losses of each stage, float64."""
    monkeypatch.setattr(loop, "LayerwiseAdamW", optimizer)
    losses = Losses()
    train_all(small_config(recipe, seed=3, precision="fp32"), observers=(losses,))
    return {stage: torch.tensor(of, dtype=torch.float64) for stage, of in losses.of.items()}


@pytest.mark.parametrize("recipe", ["paper", "fastai"])
def test_loss_curves_are_those_of_adamw_with_a_group_for_each_layer(
    recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = (LayerwiseAdamW, ClippedFusedAdamW, ClippedAdamW)
    ours, fused, loops = (losses_with(kind, recipe, monkeypatch) for kind in kinds)
    assert list(ours) == list(loops) == ["pretrain", "language_model", "classifier"]
    for stage, exact in loops.items():
        found, allowed = (
            float((each[stage] - exact).norm() / exact.norm()) for each in (ours, fused)
        )
        floor = CLASSIFIER_FLOOR if stage == "classifier" else FLOOR
        assert found <= 2 * allowed + floor, f"{stage}: {found:.1e}, torch's fused {allowed:.1e}"
        assert float(ours[stage][-1]) < float(ours[stage][0])


def test_every_stage_clips_as_its_settings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, float | None]] = []

    def spy(fit: loop.Fit, *arguments: Any, **keywords: Any) -> None:
        make(fit, *arguments, **keywords)
        assert isinstance(fit.optimizer, LayerwiseAdamW)
        seen.append((fit.task.stage, fit.optimizer.max_grad_norm))

    make = loop.Fit.__init__
    monkeypatch.setattr(loop.Fit, "__init__", spy)
    train_all(small_config("paper"))
    assert seen == [("pretrain", 0.3), ("language_model", 0.3), ("classifier", 25.0)]
    seen.clear()
    train_all(small_config("fastai"))
    assert [clip for _, clip in seen] == [None] * 3


def test_a_gradient_that_is_not_finite_is_skipped_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loss, batches = tasks.LanguageModelTask.loss, tasks.LanguageModelTask.batches
    place = [0, 0]  # epoch, step

    def counted(self: Any, epoch: int, start: int) -> Iterator[Batch]:
        for step, batch in enumerate(batches(self, epoch, start)):
            place[:] = epoch, step
            yield batch

    def broken(self: Any, inputs: tuple[Tensor, ...], state: Any) -> tuple[LossParts, Any]:
        parts, state = loss(self, inputs, state)
        if place in ([1, 2], [1, 4]):
            # The root of 0 adds nothing to the loss and NaN to the gradient.
            parts = replace(parts, total=parts.total + (0 * self.model.decoder_bias.sum()).sqrt())
        return parts, state

    monkeypatch.setattr(tasks.LanguageModelTask, "batches", counted)
    monkeypatch.setattr(tasks.LanguageModelTask, "loss", broken)
    texts, _ = draw_texts(100)
    trainer = ULMFiTTrainer(small_config(), size="tiny")
    result = trainer.pretrain(texts)
    assert place[0] == 1
    assert place[1] > 4
    assert [epoch.get("skipped_steps") for epoch in result.epochs] == [None, 2]
    assert trainer.language_model is not None
    assert all(bool(p.isfinite().all()) for p in trainer.language_model.parameters())
