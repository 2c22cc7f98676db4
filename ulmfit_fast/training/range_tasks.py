"""What a range test trains: a stage's task as the trainer would begin it, and the test itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ulmfit_fast.errors import InputError
from ulmfit_fast.model import Dropouts
from ulmfit_fast.text import train_tokenizer
from ulmfit_fast.text.corpus import Texts
from ulmfit_fast.training.config import StageConfig, StageName
from ulmfit_fast.training.device import seeded
from ulmfit_fast.training.documents import class_names, labelled_batches, token_streams
from ulmfit_fast.training.range_test import Progress, RangeTest, find_learning_rate
from ulmfit_fast.training.sizes import model_size, new_language_model
from ulmfit_fast.training.steps import Task
from ulmfit_fast.training.tasks import ClassifierTask, LanguageModelTask
from ulmfit_fast.training.transfer import classifier_from, transfer_language_model

if TYPE_CHECKING:
    from ulmfit_fast.training.trainer import ULMFiTTrainer


@dataclass(frozen=True)
class Rates:
    """The rates of a test.

    Attributes:
        lowest: first.
        highest: that of the step after the last.
        n_steps: steps between.
    """

    lowest: float = 1e-7
    highest: float = 10.0
    n_steps: int = 100


def find_rate_for(
    trainer: ULMFiTTrainer,
    texts: Texts,
    labels: Sequence[str] | None = None,
    rates: Rates | None = None,
    progress: Progress | None = None,
) -> RangeTest:
    """Run a range test of the stage that would come next; the trainer and its models stay.

    With labels it is the classifier on the trainer's language model; without, the language model:
    from scratch, or as finetune_lm where the trainer has one.

    Args:
        trainer: settings, models and device.
        texts: documents.
        labels: a class name for each, or None.
        rates: of the test; None: from 1e-7 to 10 in 100 steps.
        progress: told of every step.

    Raises:
        InputError: no usable text, fewer than two classes, or no language model for a classifier.
        TrainingError: the loss burst before there was a curve.
    """
    rates = rates or Rates()
    with seeded(trainer.config.seed, trainer.device):
        if labels is None:
            task: Task = language_model_task(trainer, texts)
        else:
            task = classifier_task(trainer, list(texts), labels)
    return find_learning_rate(
        task,
        trainer.config,
        from_scratch=task.stage == "pretrain",
        lowest=rates.lowest,
        highest=rates.highest,
        n_steps=rates.n_steps,
        progress=progress,
    )


def language_model_task(trainer: ULMFiTTrainer, texts: Texts) -> LanguageModelTask:
    """Return the task of pretrain, or of finetune_lm where the trainer has a language model."""
    config, model, old = trainer.config, trainer.language_model, trainer.tokenizer
    tokenizer = old
    if tokenizer is None or tokenizer.kind == "word":
        tokenizer = train_tokenizer(
            texts,
            kind=trainer.tokenizer_kind,
            max_vocab=config.max_vocab,
            min_freq=config.min_freq,
        )
    stage: StageName = "pretrain" if model is None else "language_model"
    dropouts = _dropouts(trainer, stage)
    if model is None or old is None:
        size = model_size(trainer.size)
        model = new_language_model(size, tokenizer, dropouts).to(trainer.device)
    else:
        model = transfer_language_model(model, old.vocab, tokenizer.vocab, dropouts)
    streams = token_streams(tokenizer, texts, None, stage, config, cache_dir=trainer.cache_dir)
    return LanguageModelTask(model, *streams, config, stage)


def classifier_task(
    trainer: ULMFiTTrainer, texts: Sequence[str], labels: Sequence[str]
) -> ClassifierTask:
    """Return the task of train_classifier.

    Raises:
        InputError: no language model, fewer than two classes, or a text without a label.
    """
    config, model, tokenizer = trainer.config, trainer.language_model, trainer.tokenizer
    if model is None or tokenizer is None:
        raise InputError("no language model for the classifier to start from: load one first")
    names = class_names(labels)
    batches = labelled_batches(
        tokenizer, (texts, labels), names, config, train=True, cache_dir=trainer.cache_dir
    )
    classifier = classifier_from(
        model.encoder,
        len(names),
        _dropouts(trainer, "classifier"),
        bptt=config.bptt,
        max_len=config.max_len,
    )
    return ClassifierTask(classifier, batches, None, config)


def _dropouts(trainer: ULMFiTTrainer, stage: StageName) -> Dropouts:
    settings: StageConfig = getattr(trainer.config, stage)
    return settings.dropouts.scaled(model_size(trainer.size).drop_mult)
