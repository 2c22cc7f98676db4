"""A learner of fastai's to a trainer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ulmfit_fast.errors import InputError
from ulmfit_fast.interop.checkpoints import build_trainer
from ulmfit_fast.interop.layouts import from_fastai
from ulmfit_fast.training.trainer import ULMFiTTrainer

#: Pooled where fastai's max_len is None.
ALL_TOKENS = 2**31 - 1


def trainer_of(learn: Any) -> ULMFiTTrainer:
    """Return a trainer with the weights, vocabulary and classes of a fastai learner.

    Args:
        learn: of language_model_learner or text_classifier_learner, with an AWD_LSTM.

    Raises:
        InputError: another model, or a learner without its vocabulary.
    """
    if not hasattr(learn, "model") or not hasattr(getattr(learn, "dls", None), "vocab"):
        found = type(learn).__name__
        raise InputError(f"expected a learner of fastai's text learners, found {found}")
    if any(type(module).__name__ == "SigmoidRange" for module in learn.model.modules()):
        raise InputError("learner: a regression (y_range); only classifiers can be taken")
    model = from_fastai(learn.model.state_dict(), "learner")
    vocab, labels = learn.dls.vocab, None
    if model.kind == "classifier":
        vocab, names = vocab
        labels = [str(label) for label in names]
    trainer = build_trainer(model, list(vocab), labels, "learner")
    encoder = learn.model[0]
    if trainer.classifier is not None:
        chunks = {"bptt": encoder.bptt, "max_len": encoder.max_len or ALL_TOKENS}
        trainer.classifier.bptt, trainer.classifier.max_len = chunks.values()
        trainer.config = replace(trainer.config, **chunks)
    return trainer
