"""A learner of fastai's to a trainer."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

from ulmfit_fast.errors import InputError
from ulmfit_fast.interop.checkpoints import build_trainer
from ulmfit_fast.interop.layouts import from_fastai
from ulmfit_fast.training.trainer import ULMFiTTrainer

#: Pooled where fastai's max_len is None.
ALL_TOKENS = 2**31 - 1


#: In the names of losses of one label a text.
LOSSES = ("CrossEntropy", "FocalLoss")
#: fastai's tokenizers of words.
TOKENIZERS = ("SpacyTokenizer", "WordTokenizer")


def trainer_of(learn: Any) -> ULMFiTTrainer:
    """Return a trainer with the weights, vocabulary and classes of a fastai learner.

    Args:
        learn: of language_model_learner or text_classifier_learner, with an AWD_LSTM.

    Raises:
        InputError: another model, a learner without its vocabulary, one that reads texts backwards,
            or a classifier of several labels a text.

    Warns: where texts were not tokenized by fastai's defaults, which are what the trainer has.
    """
    if not hasattr(learn, "model") or not hasattr(getattr(learn, "dls", None), "vocab"):
        found = type(learn).__name__
        raise InputError(f"expected a learner of fastai's text learners, found {found}")
    if any(type(module).__name__ == "SigmoidRange" for module in learn.model.modules()):
        raise InputError("learner: a regression (y_range); only classifiers can be taken")
    model = from_fastai(learn.model.state_dict(), "learner")
    _check_texts(learn.dls)
    vocab, labels = learn.dls.vocab, None
    if model.kind == "classifier":
        loss = type(learn.loss_func).__name__
        if not any(known in loss for known in LOSSES):
            what = f"learner: its loss is {loss}: it has not one label a text"
            raise InputError(f"{what}; only classifiers of one label can be taken")
        vocab, names = vocab
        labels = [str(label) for label in names]
    trainer = build_trainer(model, list(vocab), labels, "learner")
    encoder = learn.model[0]
    if trainer.classifier is not None:
        chunks = {"bptt": encoder.bptt, "max_len": encoder.max_len or ALL_TOKENS}
        trainer.classifier.bptt, trainer.classifier.max_len = chunks.values()
        trainer.config = replace(trainer.config, **chunks)
    return trainer


def _check_texts(dls: Any) -> None:
    """Raise InputError for texts read backwards; warn of another tokenizer or other rules."""
    pipelines = [part.tfms.fs for part in getattr(getattr(dls, "train_ds", None), "tls", [])]
    for transform in (transform for pipeline in pipelines for transform in pipeline):
        if getattr(transform, "name", "") == "reverse_text":
            raise InputError("learner: reads texts backwards; the trainer only reads forwards")
        if type(transform).__name__ != "Tokenizer":
            continue
        from fastai.text.core import defaults

        tok, rules = type(transform.tok).__name__, list(transform.rules)
        if tok not in TOKENIZERS or rules != list(defaults.text_proc_rules):
            what = f"learner: tokenizes by {tok} with {len(rules)} rules, the trainer by fastai's"
            warnings.warn(f"{what} defaults: predictions may differ", stacklevel=3)
