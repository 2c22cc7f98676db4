"""What each of the three stages is made of: its tokenizer, its model, its batches."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from ulmfit_fast.errors import InputError
from ulmfit_fast.model import Dropouts, LanguageModel, TextClassifier
from ulmfit_fast.text.corpus import Texts
from ulmfit_fast.text.tokenizer import Tokenizer, tokenizer_of, train_tokenizer
from ulmfit_fast.training.config import StageConfig, StageName, TrainConfig
from ulmfit_fast.training.documents import class_names, labelled_batches, token_streams
from ulmfit_fast.training.joining import here
from ulmfit_fast.training.observer import tell_texts_done
from ulmfit_fast.training.plan import StagePlan
from ulmfit_fast.training.plotting import Plots
from ulmfit_fast.training.sizes import model_size, new_language_model
from ulmfit_fast.training.stages import Stage, Stages
from ulmfit_fast.training.tasks import ClassifierTask, LanguageModelTask
from ulmfit_fast.training.transfer import classifier_from, transfer_language_model

#: Texts, and a class name for each.
Labelled = tuple[Sequence[str], Sequence[str]]


class StageMakers(Plots):
    """The part of ULMFiTTrainer that makes stages."""

    config: TrainConfig
    size: str
    tokenizer_kind: str
    device: torch.device
    cache_dir: Path | None
    tokenizer: Tokenizer | None
    language_model: LanguageModel | None
    classifier: TextClassifier | None
    plans: dict[StageName, StagePlan]
    _stages: Stages

    def _pretraining(self, texts: Texts, valid_texts: Texts | None) -> Stage:
        return Stage(
            "pretrain", self.config, (texts, valid_texts), from_scratch=True,
            tokenizer=lambda: self._new_tokenizer(texts),
            model=self._new_language_model,
            task=partial(self._lm_task, "pretrain", (texts, valid_texts)),
            plan=self.plans.get("pretrain"),
        )  # fmt: skip

    def _fine_tuning(self, texts: Texts, valid_texts: Texts | None) -> Stage:
        def make_tokenizer() -> Tokenizer:
            _, old = self._trained_language_model()
            return self._new_tokenizer(texts) if old.kind == "word" else old

        def make_model(tokenizer: Tokenizer) -> LanguageModel:
            model, old = self._trained_language_model()
            dropouts = self._dropouts("language_model")
            return transfer_language_model(model, old.vocab, tokenizer.vocab, dropouts)

        return Stage(
            "language_model", self.config, (texts, valid_texts), from_scratch=False,
            tokenizer=make_tokenizer,
            model=make_model,
            task=partial(self._lm_task, "language_model", (texts, valid_texts)),
            plan=self.plans.get("language_model"),
        )  # fmt: skip

    def _classification(self, train: Labelled, valid: Labelled | None) -> Stage:
        config, names = self.config, class_names(train[1])
        trained = self.language_model or self.classifier

        def make_model(tokenizer: Tokenizer) -> TextClassifier:
            encoder = (trained or self._new_language_model(tokenizer)).encoder
            dropouts = self._dropouts("classifier")
            return classifier_from(
                encoder, len(names), dropouts, bptt=config.bptt, max_len=config.max_len
            )

        def make_task(model: TextClassifier, tokenizer: Tokenizer) -> ClassifierTask:
            ranks, together = here(), self._stages.of_all_processes(config)
            batches = labelled_batches(
                tokenizer, train, names, together, train=True, cache_dir=self.cache_dir, ranks=ranks
            )
            to_measure = None
            if valid is not None:
                to_measure = labelled_batches(tokenizer, valid, names, together, ranks=ranks)
            return ClassifierTask(model, batches, to_measure, config)

        return Stage(
            "classifier", config, (*train, *(valid or (None,))),
            from_scratch=trained is None,
            tokenizer=lambda: self.tokenizer or self._new_tokenizer(train[0]),
            model=make_model,
            task=make_task,
            labels=tuple(names),
            plan=self.plans.get("classifier"),
        )  # fmt: skip

    def _new_tokenizer(self, texts: Texts) -> Tokenizer:
        made: list[Tokenizer] = []

        def make() -> bytes:
            told = self._stages.told(self.observers)
            tokenizer = train_tokenizer(
                texts,
                kind=self.tokenizer_kind,
                max_vocab=self.config.max_vocab,
                min_freq=self.config.min_freq,
                progress=partial(tell_texts_done, told, "vocabulary"),
            )
            made.append(tokenizer)
            return json.dumps(tokenizer.content()).encode()

        content = here().from_first(make, "the vocabulary")
        return made[0] if made else tokenizer_of(json.loads(content))

    def _new_language_model(self, tokenizer: Tokenizer) -> LanguageModel:
        size, dropouts = model_size(self.size), self._dropouts("pretrain")
        return new_language_model(size, tokenizer, dropouts).to(self.device)

    def _dropouts(self, stage: StageName) -> Dropouts:
        settings: StageConfig = getattr(self.config, stage)
        return settings.dropouts.scaled(model_size(self.size).drop_mult)

    def _lm_task(
        self,
        name: StageName,
        texts: tuple[Texts, Texts | None],
        model: LanguageModel,
        tokenizer: Tokenizer,
    ) -> LanguageModelTask:
        told = self._stages.told(self.observers)
        streams = token_streams(
            tokenizer, *texts, name, self._stages.of_all_processes(self.config),
            cache_dir=self.cache_dir, ranks=here(),
            progress_of=lambda what: partial(tell_texts_done, told, what),
        )  # fmt: skip
        return LanguageModelTask(model, *streams, self.config, name)

    def _trained_language_model(self) -> tuple[LanguageModel, Tokenizer]:
        if self.language_model is None or self.tokenizer is None:
            raise InputError("no language model to fine-tune: call pretrain or load one first")
        return self.language_model, self.tokenizer

    def _trained_classifier(self) -> tuple[TextClassifier, Tokenizer]:
        if self.classifier is None or self.tokenizer is None:
            raise InputError("no classifier: call train_classifier, or load a classifier")
        return self.classifier, self.tokenizer
