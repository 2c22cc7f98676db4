"""Training steps, inference and single predictions by ours, by fastai and by plain PyTorch.

Every implementation of a case has the same weights at the start and reads the same batches in the
same order. Making the batches is left out of all training steps; see end_to_end_models for what
is left out of fastai's.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol

import end_to_end_inference as inference
import end_to_end_models as models
import torch
from end_to_end_data import Batch, Case, Files, batches, checked_batch
from end_to_end_models import CONFIG, LR
from torch import Tensor, nn

from ulmfit_fast import LayerwiseAdamW, _native, functional
from ulmfit_fast.model import EncoderState, LanguageModel, LossParts
from ulmfit_fast.optim import layer_param_groups, set_rates
from ulmfit_fast.schedule import discriminative_rates

#: Batches of a language model that are read in turn.
N_BATCHES = 4
#: Distance from ours in float32 that the check allows, dropout off: of the loss, and of the
#: gradient of each parameter. bfloat16 rounds each factor of a product by up to 2**-9, 0.01 of a
#: language model's gradients, and moves maxima over time, 0.11 of a classifier's (2026-11-25).
ALLOWED_LOSS = {"float32": 1e-3, "bfloat16": 2e-2, "float16": 2e-2}
ALLOWED_GRADIENT = {"float32": 1e-3, "bfloat16": 5e-2, "float16": 5e-2}
ALLOWED_ROUNDED_CLASSIFIER = 0.3
MOMENTUM = CONFIG.betas[0]


class Work(Protocol):
    """What is timed: one call is one step, or all documents, or one text."""

    model: nn.Module

    def __call__(self) -> object:
        """Do it."""

    def outcome(self) -> list[Tensor]:
        """Return what the check compares: the loss and the gradients, or the probabilities."""

    def label(self, stack: ExitStack) -> None:
        """Have the profiler see the parts of a call until the stack closes."""


class OurTraining:
    """One step of training/loop.py, with our kernels or with the reference's functions."""

    def __init__(self, case: Case, dtype: str, device: str, files: Files, plain: bool) -> None:
        self.model = models.our_model(case, device).train()
        self.dtype, self.device, self.plain = dtype, device, plain
        layers = self.model.layer_groups()
        groups = layer_param_groups(
            layers,
            lr=LR,
            weight_decay=CONFIG.weight_decay,
            undecayed=self.model.undecayed_parameters(),
        )
        settings: dict[str, Any] = {"betas": CONFIG.betas, "eps": CONFIG.eps}
        self.optimizer: torch.optim.Optimizer
        if plain:
            self.optimizer = torch.optim.AdamW(groups, **settings, fused=True)
        else:
            self.optimizer = LayerwiseAdamW(groups, **settings)
        self.rates = dict(zip(layers, discriminative_rates(LR, len(layers)), strict=True))
        found = batches(case, files, N_BATCHES)
        self.checked = to_device(checked_batch(case, found[0]), device)
        self.batches = itertools.cycle([to_device(batch, device) for batch in found])
        self.state: EncoderState | None = None

    def forward_and_backward(self, batch: Batch) -> Tensor:
        """Return the loss with its regularisation; the gradients are the parameters'."""
        functions = models.reference_functions() if self.plain else nullcontext()
        with functions, models.autocast(self.dtype, self.device):
            parts = self._loss(batch)
        torch.autograd.backward(parts.total)
        return parts.total.detach()

    def _loss(self, batch: Batch) -> LossParts:
        weights = CONFIG.alpha, CONFIG.beta
        if isinstance(self.model, LanguageModel):
            parts, self.state = self.model.loss(batch.ids, batch.targets, self.state, *weights)
            return parts
        assert batch.lengths is not None
        return self.model.loss(batch.ids, batch.lengths, batch.targets, *weights)[0]

    def __call__(self) -> None:
        """Take a step."""
        set_rates(self.optimizer, self.rates, CONFIG.betas)
        self.forward_and_backward(next(self.batches))
        self.optimizer.step()
        self.optimizer.zero_grad()

    def outcome(self) -> list[Tensor]:
        """Return the loss of the checked batch, and the gradients."""
        with models.without_dropout(self.model):
            loss = self.forward_and_backward(self.checked)
        grads = [p.grad for p in models.our_parameters(self.model) if p.grad is not None]
        self.optimizer.zero_grad()
        self.state = None
        return [loss, *grads]

    def label(self, stack: ExitStack) -> None:
        """Label the modules and functions of our models."""
        inference.label_ours(self.model, stack)
        models.labelled(functional, "linear_cross_entropy", "softmax and loss", stack)
        models.labelled(functional, "activation_regularization", "AR and TAR", stack)
        for name in ("step", "zero_grad"):
            models.labelled(self.optimizer, name, "optimizer", stack)


class FastaiTraining:
    """Learner.one_batch, with the rates and the momentum set before it as by ParamScheduler."""

    def __init__(self, case: Case, dtype: str, device: str, files: Files, **options: Any) -> None:
        self.learn = models.fastai_learner(case, dtype, device, **options)
        self.model = self.learn.model
        self.rates = discriminative_rates(LR, len(self.learn.opt.param_lists))
        found = batches(case, files, N_BATCHES)
        self.checked = to_device(checked_batch(case, found[0]), device)
        self.batches = itertools.cycle([to_device(batch, device) for batch in found])

    def __call__(self) -> None:
        """Take a step."""
        self.learn.opt.set_hyper("lr", self.rates)
        self.learn.opt.set_hyper("mom", MOMENTUM)
        batch = next(self.batches)
        self.learn.one_batch(0, (batch.chunked, batch.targets))

    def outcome(self) -> list[Tensor]:
        """Return the loss of the checked batch, and the gradients; the step has the rate 0."""
        from fastai.callback.core import Callback

        parameters, found = models.fastai_parameters(self.model), []

        class KeepGradients(Callback):
            """Copies the loss and the gradients before the optimizer has them."""

            order = -100

            def before_step(self) -> None:
                found.extend([self.learn.loss_grad.detach(), *(p.grad.clone() for p in parameters)])

        scaler = getattr(self.learn, "scaler", None)
        scale = 1.0 if scaler is None else scaler.get_scale()
        self.learn.opt.set_hyper("lr", 0.0)
        with models.without_dropout(self.model), self.learn.added_cbs([KeepGradients()]):
            self.learn.one_batch(0, (self.checked.chunked, self.checked.targets))
        self.learn.opt.clear_state()
        self.model.reset()
        return [tensor / scale for tensor in found]

    def label(self, stack: ExitStack) -> None:
        """Label fastai's modules, loss, regularisation and optimizer."""
        inference.label_fastai(self.model, stack)
        models.labelled(self.learn, "loss_func", "softmax and loss", stack)
        models.labelled(self.learn.rnn_regularizer, "after_loss", "AR and TAR", stack)
        for name in ("step", "zero_grad"):
            models.labelled(self.learn.opt, name, "optimizer", stack)


def to_device(batch: Batch, device: str) -> Batch:
    """Move a batch; its lengths stay on the CPU."""
    moved = (t.to(device) for t in (batch.ids, batch.targets, batch.chunked))
    ids, targets, chunked = moved
    return Batch(ids, targets, batch.lengths, chunked)


#: Implementation -> what it runs, by kind of work.
WHAT = {
    "ulmfit_fast": {
        "training": "model.loss, backward, LayerwiseAdamW",
        "inference": "training.tasks.classify",
        "predict": "ULMFiTTrainer.predict([text])",
    },
    "fastai": {
        "training": "Learner.one_batch",
        "inference": "Learner.get_preds",
        "predict": "Learner.predict(text)",
    },
    "reference": {
        "training": "our model on reference/, AdamW(fused=True)",
        "inference": "classify, our model on reference/",
        "predict": "ULMFiTTrainer.predict on reference/",
    },
}
#: (implementation, dtype) on every device; on a GPU also fastai's own default of to_fp16.
WAYS = tuple(itertools.product(("ulmfit_fast", "fastai"), ("float32", "bfloat16")))
WAYS += (("reference", "float32"),)
GPU_WAYS = (*WAYS, ("fastai", "float16"))


@dataclass(frozen=True)
class Way:
    """One implementation of a case in one dtype."""

    impl: str
    dtype: str

    def __str__(self) -> str:
        """Return what the record's ratios call it."""
        return f"{self.impl} {self.dtype}"

    def what(self, case: Case) -> str:
        """Return the expression that is timed."""
        return WHAT[self.impl]["training" if case.trains else case.kind]

    def why_left_out(self, device: str) -> str | None:
        """Return why it cannot be measured here; None where it can."""
        if self.impl == "ulmfit_fast":
            for op in ("lstm_forward", "layerwise_adamw_"):
                if reason := _native.why_missing(op, device):
                    return f"no kernel to measure: {reason}"
        if self.impl == "fastai" and find_spec("fastai") is None:
            return "fastai is not installed (requirements/peers.txt)"
        return None

    def build(self, case: Case, device: str, files: Files) -> Work:
        """Make the model, its optimizer and what it reads."""
        torch.manual_seed(1)
        made: Callable[..., Work]
        if self.impl == "fastai":
            kinds = {"inference": inference.FastaiInference, "predict": inference.FastaiPredict}
            made = kinds.get(case.kind, FastaiTraining)
            return made(case, self.dtype, device, files)
        ours = {"inference": inference.OurInference, "predict": inference.OurPredict}
        made = ours.get(case.kind, OurTraining)
        return made(case, self.dtype, device, files, self.impl == "reference")


def is_right(case: Case, way: Way, loss: float, gradient: float) -> bool:
    """Say whether an implementation is as near to ours in float32 as its dtype allows."""
    allowed = ALLOWED_GRADIENT[way.dtype]
    if case.kind == "classifier" and way.dtype != "float32":
        allowed = ALLOWED_ROUNDED_CLASSIFIER
    return loss <= ALLOWED_LOSS[way.dtype] and gradient <= allowed  # NaN is none


def distances(found: list[Tensor], expected: list[Tensor]) -> tuple[float, float]:
    """Return the relative distances of the first tensor, and the largest of the others."""
    each = [relative(*pair) for pair in zip(found, expected, strict=True)]
    return each[0], max(each[1:], default=0.0)


def relative(found: Tensor, expected: Tensor) -> float:
    """Return ||found - expected|| / ||expected||; NaN where either is not a number."""
    wrong = torch.linalg.vector_norm(found.double() - expected.double())
    return float(wrong / torch.linalg.vector_norm(expected.double()).clamp(min=1e-30))
