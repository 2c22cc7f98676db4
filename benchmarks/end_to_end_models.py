"""The models that whole steps run: ours, and fastai's with the same weights in a Learner."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from end_to_end_data import SEED, Case
from torch import Tensor, nn

from ulmfit_fast import functional, reference
from ulmfit_fast.model import AWDLSTMConfig, LanguageModel, TextClassifier
from ulmfit_fast.training.config import TrainConfig
from ulmfit_fast.training.precision import Precision, choose_precision

#: fastai's recipe: dropouts of awd_lstm_lm_config, of half awd_lstm_clas_config, and Adam's.
CONFIG = TrainConfig.preset("fastai")
CLASSIFIER_DROP_MULT = 0.5
#: Of the top group; constant, as the time of a step does not depend on it.
LR = 1e-3
PRECISION_NAMES = {"float32": "fp32", "bfloat16": "bf16"}
#: Functions of ours that the plain PyTorch version replaces as they are.
FUNCTIONS = ("embedding_dropout", "variational_dropout", "linear_cross_entropy")


def autocast(dtype: str, device: str) -> Any:
    """Return the context in which a dtype's forward pass and loss run."""
    if dtype == "float32":
        return nullcontext()
    return torch.autocast(device, getattr(torch, dtype))


def precision_of(dtype: str, device: str) -> Precision:
    """Return the policy that computes in a dtype, for what takes one itself."""
    return choose_precision(PRECISION_NAMES[dtype], torch.device(device))


def _reference_lstm(
    x: Tensor, state: Any, weights: Any, drop_p: float, seed: Tensor | None, *rest: Any, **more: Any
) -> Any:
    if state is None:
        zeros = x.new_zeros(x.shape[1], weights[1].shape[1])
        state = zeros, zeros.clone()
    return reference.lstm(x, state, weights, drop_p, seed, *rest, **more)


def _reference_pool(output: Tensor, start: Tensor, end: Tensor) -> Tensor:
    return reference.concat_pool(output, start, end)[0]


def _reference_regularization(
    x: Tensor, alpha: float, beta: float, drop_p: float = 0.0, seed: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    dropped, penalty = reference.activation_regularization(x, drop_p, seed, alpha, beta)
    return (x if seed is None else dropped), penalty


@contextmanager
def reference_functions() -> Iterator[None]:
    """Have our models call the specification's plain PyTorch instead of our kernels."""
    plain = {name: getattr(reference, name) for name in FUNCTIONS}
    plain |= {
        "lstm": _reference_lstm,
        "concat_pool": _reference_pool,
        "activation_regularization": _reference_regularization,
    }
    with mock.patch.multiple(functional, **plain):
        yield


def our_model(case: Case, device: str) -> LanguageModel | TextClassifier:
    """Return our model with fastai's sizes and dropouts; the same weights in every call."""
    with torch.random.fork_rng([]):
        torch.manual_seed(SEED)
        if case.kind == "language model":
            dropouts = CONFIG.language_model.dropouts
            config = AWDLSTMConfig(case.V, case.E, case.H, dropouts=dropouts)
            return LanguageModel(config).to(device)
        config = AWDLSTMConfig(case.V, case.E, case.H, dropouts=CONFIG.classifier.dropouts)
        classifier = TextClassifier(config, case.n_classes, case.T, 20 * case.T)
        return classifier.to(device)


def our_parameters(model: LanguageModel | TextClassifier) -> list[nn.Parameter]:
    """Return embedding, LSTM layers, then the softmax's bias or the head."""
    encoder = model.encoder
    lstms = [p for rnn in encoder.rnns for p in rnn.all_weights[0]]
    top = [model.decoder_bias] if isinstance(model, LanguageModel) else model.head.parameters()
    return [encoder.embedding.weight, *lstms, *top]


def fastai_parameters(model: Any) -> list[nn.Parameter]:
    """Return the parameters of fastai's model in the order of our_parameters."""
    is_classifier = hasattr(model[0], "module")
    encoder = model[0].module if is_classifier else model[0]
    found = [encoder.encoder.weight]
    for rnn in encoder.rnns:
        lstm = rnn.module
        found += [lstm.weight_ih_l0, rnn.weight_hh_l0_raw, lstm.bias_ih_l0, lstm.bias_hh_l0]
    return [*found, *(model[1].parameters() if is_classifier else [model[1].decoder.bias])]


def fastai_model(case: Case, device: str, arch: Any = None) -> Any:
    """Return fastai's model of the case, or one of another arch, with the weights of our_model."""
    from fastai.text.models.awdlstm import AWD_LSTM, awd_lstm_clas_config, awd_lstm_lm_config
    from fastai.text.models.core import get_language_model, get_text_classifier

    sizes = {"emb_sz": case.E, "n_hid": case.H}
    arch = arch or AWD_LSTM
    if case.kind == "language model":
        model = get_language_model(arch, case.V, {**awd_lstm_lm_config, **sizes})
    else:
        model = get_text_classifier(
            *(arch, case.V, case.n_classes),
            seq_len=case.T,
            config={**awd_lstm_clas_config, **sizes},
            drop_mult=CLASSIFIER_DROP_MULT,
            max_len=20 * case.T,
        )
    ours = our_parameters(our_model(case, "cpu"))
    with torch.no_grad():
        for theirs, our in zip(fastai_parameters(model), ours, strict=True):
            theirs.copy_(our)
    model.to(device).reset()
    return model


def precision_callback(dtype: str, device: str) -> Any:
    """Return what fastai's MixedPrecision is, on the CPU too; it needs before_fit."""
    from fastai.callback.core import Callback
    from fastai.callback.fp16 import MixedPrecision
    from fastai.torch_core import to_float

    if device == "cuda":
        return MixedPrecision("bf16" if dtype == "bfloat16" else "fp16")

    class CPUMixedPrecision(Callback):
        """MixedPrecision's events around torch.autocast("cpu"); its own knows GPUs only."""

        order = MixedPrecision.order

        def before_fit(self) -> None:
            self.autocast = autocast(dtype, device)

        def before_batch(self) -> None:
            self.autocast.__enter__()

        def after_pred(self) -> None:
            self.learn.pred = to_float(self.pred)

        def after_loss(self) -> None:
            self.autocast.__exit__(None, None, None)

    return CPUMixedPrecision()


def fastai_learner(
    case: Case, dtype: str, device: str, dls: Any = None, arch: Any = None, **options: Any
) -> Any:
    """Return a TextLearner with the callbacks of fastai's text learners, ready for one_batch.

    Left out: what shows progress, records losses and counts batches (ProgressCallback, Recorder,
    TrainEvalCallback). arch takes the place of fastai's AWD_LSTM, options go to TextLearner.
    """
    from fastai.learner import CastToTensor
    from fastai.losses import CrossEntropyLossFlat
    from fastai.text.learner import TextLearner
    from fastai.text.models.awdlstm import awd_lstm_clas_split, awd_lstm_lm_split

    is_lm = case.kind == "language model"
    learn = TextLearner(
        SimpleNamespace(n_inp=1, device=torch.device(device)) if dls is None else dls,
        fastai_model(case, device, arch),
        loss_func=CrossEntropyLossFlat(),
        splitter=awd_lstm_lm_split if is_lm else awd_lstm_clas_split,
        alpha=CONFIG.alpha,
        beta=CONFIG.beta,
        default_cbs=False,
        cbs=CastToTensor(),
        **options,
    )
    if dtype != "float32" and case.trains:
        learn.add_cb(precision_callback(dtype, device))
    learn.create_opt()
    learn.training = case.trains
    learn.model.train(case.trains)
    for callback in learn.cbs:
        if hasattr(callback, "before_fit"):
            callback.before_fit()
    return learn


#: Attributes that hold the chance of a dropout, in our modules, in torch's and in fastai's.
CHANCES = ("drop_p", "p", "weight_p", "embed_p")
#: As good as none. With 0 F.dropout returns the weight itself, which fastai then makes a parameter.
NO_CHANCE = 1e-9


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Have nothing dropped inside, so that two implementations can be compared.

    Batch norms take their running statistics: those of a batch divide by the little by which an
    untrained encoder's outputs differ, and what bfloat16 rounds away becomes the outcome.
    """
    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d):
                stack.enter_context(mock.patch.object(module, "training", False))
            for name in CHANCES:
                if isinstance(module.__dict__.get(name), float):
                    stack.enter_context(mock.patch.object(module, name, NO_CHANCE))
        yield


def labelled(target: Any, name: str, part: str, stack: ExitStack) -> None:
    """Have the profiler see calls of target.name as a part of the step until the stack closes."""
    call: Callable[..., Any] = getattr(target, name)

    def run(*args: Any, **kwargs: Any) -> Any:
        with torch.profiler.record_function(f"part: {part}"):
            return call(*args, **kwargs)

    stack.enter_context(mock.patch.object(target, name, run))


def label_modules(modules: Sequence[nn.Module], part: str, stack: ExitStack) -> None:
    """Label the forward passes of modules."""
    for module in modules:
        labelled(module, "forward", part, stack)
