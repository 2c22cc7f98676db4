"""The three stages of ULMFiT behind one object."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path

from ulmfit_fast.errors import InputError
from ulmfit_fast.model import Dropouts, LanguageModel, TextClassifier
from ulmfit_fast.text.batches import ClassifierBatches
from ulmfit_fast.text.corpus import Corpus, Texts
from ulmfit_fast.text.tokenizer import Tokenizer, train_tokenizer
from ulmfit_fast.training.checkpoint import load_model, save_model
from ulmfit_fast.training.config import StageConfig, StageName, TrainConfig
from ulmfit_fast.training.device import check_cuda_graphs, choose_device, seeded
from ulmfit_fast.training.documents import class_names, labelled_batches, token_streams
from ulmfit_fast.training.evaluation import Evaluation, Prediction, evaluation, predictions
from ulmfit_fast.training.graphs import CudaRecorder
from ulmfit_fast.training.inference import InferenceCopy
from ulmfit_fast.training.loop import Fit, StageResult
from ulmfit_fast.training.observer import Observer, tell_texts_done
from ulmfit_fast.training.plotting import Plots
from ulmfit_fast.training.precision import Precision, PrecisionName, choose_precision
from ulmfit_fast.training.restore import describe_model, restore_model, settings_of
from ulmfit_fast.training.sizes import model_size, new_language_model
from ulmfit_fast.training.tasks import ClassifierTask, LanguageModelTask, classify
from ulmfit_fast.training.transfer import classifier_from, transfer_language_model


class ULMFiTTrainer(Plots):
    """Pretrain a language model, fine-tune it on the target texts, fine-tune a classifier.

    Args:
        config: all settings.
        size: "tiny", "small" or "base"; of models made here, not of loaded ones.
        tokenizer_kind: "word" (fastai's rules) or "subword" (unigram); likewise.
        device: where to train, such as "cpu" or "cuda"; None takes a GPU where torch sees one.
        observers: told of every step and epoch.
        cache_dir: folder for numericalized texts; None keeps them in memory.
        cuda_graphs: whether language models train by replaying CUDA graphs: the same results. Not
            yet timed on a GPU.

    Attributes:
        tokenizer: of the current models; None before the first stage.
        language_model: result of pretrain or finetune_lm.
        classifier: result of train_classifier.
        labels: names of the classes, in the order of the classifier's outputs.
        text_columns: names of the columns that the texts came from; empty when unknown. Set by
            who reads the texts, saved and loaded with the model.

    Raises:
        InputError: no such size or device, or one without the precision or the graphs asked for.
    """

    def __init__(
        self,
        config: TrainConfig | None = None,
        *,
        size: str = "base",
        tokenizer_kind: str = "word",
        device: str | None = None,
        observers: Sequence[Observer] = (),
        cache_dir: Path | None = None,
        cuda_graphs: bool = False,
    ) -> None:
        model_size(size)
        self.config = config or TrainConfig.preset()
        self.size, self.tokenizer_kind = size, tokenizer_kind
        self.device = choose_device(device)
        self.observers = list(observers)
        self.cache_dir = cache_dir
        self.cuda_graphs = cuda_graphs
        if cuda_graphs:
            check_cuda_graphs(self.device)
        choose_precision(self.config.precision, self.device)
        self.tokenizer: Tokenizer | None = None
        self.language_model: LanguageModel | None = None
        self.classifier: TextClassifier | None = None
        self.labels: list[str] = []
        self.text_columns: tuple[str, ...] = ()
        self._copies = InferenceCopy()

    @property
    def precision(self) -> Precision:
        """What the models compute in, in training and after."""
        return choose_precision(self.config.precision, self.device)

    def pretrain(self, texts: Texts, valid_texts: Texts | None = None) -> StageResult:
        """Train a language model from scratch, with a vocabulary of its own.

        Args:
            texts: documents.
            valid_texts: documents to measure it on; without them the last weights are kept.

        Returns:
            result: seconds, tokens and metrics; the model is self.language_model.

        Raises:
            InputError: no usable text.
            TrainingError: the loss is not finite.
        """
        tokenizer = self._new_tokenizer(texts)
        with self._seeded():
            model = self._new_language_model(tokenizer)
            result = self._fit_lm("pretrain", model, tokenizer, (texts, valid_texts))
        self._replace_language_model(tokenizer, model)
        return result

    def finetune_lm(self, texts: Texts, valid_texts: Texts | None = None) -> StageResult:
        """Fine-tune the language model on the target texts.

        A word-level model gets the target's vocabulary: words it knew keep their embedding, others
        start at the mean of all. A subword model keeps its vocabulary.

        Args:
            texts: documents of the target, labelled or not.
            valid_texts: documents to measure it on; without them the last weights are kept.

        Returns:
            result: seconds, tokens and metrics; the model is self.language_model.

        Raises:
            InputError: no language model to start from, or no usable text.
            TrainingError: the loss is not finite.
        """
        if self.language_model is None or self.tokenizer is None:
            raise InputError("no language model to fine-tune: call pretrain or load one first")
        old = self.tokenizer
        tokenizer = self._new_tokenizer(texts) if old.kind == "word" else old
        with self._seeded():
            dropouts = self._dropouts("language_model")
            model = transfer_language_model(
                self.language_model, old.vocab, tokenizer.vocab, dropouts
            )
            result = self._fit_lm("language_model", model, tokenizer, (texts, valid_texts))
        self._replace_language_model(tokenizer, model)
        return result

    def train_classifier(
        self,
        texts: Sequence[str],
        labels: Sequence[str],
        valid_texts: Sequence[str] | None = None,
        valid_labels: Sequence[str] | None = None,
    ) -> StageResult:
        """Train a classifier on the language model's encoder.

        Without a language model it starts from the encoder of the classifier that stands, and
        without either from scratch: all layers at once, at one rate.

        Args:
            texts: documents.
            labels: a class name for each.
            valid_texts: documents to measure it on; without them the last weights are kept.
            valid_labels: a class name for each.

        Returns:
            result: seconds, tokens and metrics; the model is self.classifier.

        Raises:
            InputError: fewer than two classes, a text without a label, lists of unequal length, or
                a validation label that training does not have.
            TrainingError: the loss is not finite.
        """
        names = class_names(labels)
        tokenizer = self.tokenizer or self._new_tokenizer(texts)
        train = labelled_batches(
            tokenizer, (texts, labels), names, self.config, train=True, cache_dir=self.cache_dir
        )
        valid = None
        if valid_texts is not None:
            data = (valid_texts, valid_labels or [])
            valid = labelled_batches(tokenizer, data, names, self.config)
        with self._seeded():
            trained = self.language_model or self.classifier
            encoder = (trained or self._new_language_model(tokenizer)).encoder
            model = classifier_from(
                encoder,
                len(names),
                self._dropouts("classifier"),
                bptt=self.config.bptt,
                max_len=self.config.max_len,
            )
            task = ClassifierTask(model, train, valid, self.config)
            result = Fit(task, self.config, self.observers, from_scratch=trained is None).run()
        self.tokenizer, self.classifier, self.labels = tokenizer, model, names
        return result

    def evaluate(self, texts: Sequence[str], labels: Sequence[str]) -> Evaluation:
        """Measure the classifier.

        Args:
            texts: documents.
            labels: a class name for each.

        Raises:
            InputError: no classifier, or a label that training did not have.
        """
        classifier, tokenizer = self._trained_classifier()
        batches = labelled_batches(tokenizer, (texts, labels), self.labels, self.config)
        return evaluation(*classify(classifier, batches, self.precision, self._copies), self.labels)

    def predict(self, texts: Sequence[str]) -> list[Prediction]:
        """Return the most probable class of each text, and the probability of every class.

        Args:
            texts: documents, any number.

        Raises:
            InputError: no classifier.
        """
        classifier, tokenizer = self._trained_classifier()
        if not texts:
            return []
        corpus, rows = Corpus.build(texts, tokenizer), self.config.classifier.batch_size
        batches = ClassifierBatches(corpus, None, rows, pad_id=tokenizer.pad_id)
        logits, _ = classify(classifier, batches, self.precision, self._copies)
        return predictions(logits, self.labels)

    def save(self, path: str | Path, kind: str | None = None) -> None:
        """Write a model directory: safetensors and JSON, whole or not at all.

        Args:
            path: the directory; a model that stands there is replaced.
            kind: "classifier" or "language_model"; None takes the classifier where there is one.

        Raises:
            InputError: nothing of that kind was trained, or path is something else than a model.
            OSError: the disk refuses; what stood at path before is still there.
        """
        kind = kind or ("language_model" if self.classifier is None else "classifier")
        model = self.classifier if kind == "classifier" else self.language_model
        if model is None or self.tokenizer is None:
            raise InputError(f"no {kind} to save: train one first")
        config = {
            **describe_model(model, self.labels),
            "size": self.size,
            "train": settings_of(model, self.config).to_dict(),
            "text_columns": list(self.text_columns),
        }
        save_model(Path(path), model.state_dict(), config, self.tokenizer)

    @classmethod
    def from_fastai(cls, learn: object) -> ULMFiTTrainer:
        """Return a trainer with the weights, vocabulary and classes of a fastai learner.

        Args:
            learn: of language_model_learner or text_classifier_learner, with an AWD_LSTM.

        Raises:
            InputError: another kind of learner or model.
        """
        # The one door upward: interop stands above training, and is imported when it is used.
        return import_module("ulmfit_fast.interop.learner").trainer_of(learn)  # type: ignore[no-any-return]

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        config: TrainConfig | None = None,
        device: str | None = None,
        observers: Sequence[Observer] = (),
        cache_dir: Path | None = None,
        precision: PrecisionName | None = None,
        cuda_graphs: bool = False,
    ) -> ULMFiTTrainer:
        """Read a model directory.

        Args:
            path: the directory.
            config: settings of the stages to come; None takes those it was trained with.
            device: as for the class.
            observers: as for the class.
            cache_dir: as for the class.
            precision: to compute in, in place of the config's.
            cuda_graphs: as for the class.

        Raises:
            InputError: no model there, or one that is damaged, half written or of another version.
        """
        tensors, values, tokenizer = load_model(Path(path))
        trained_with = TrainConfig.from_dict(values["train"])
        settings = config or trained_with
        trainer = cls(
            replace(settings, precision=precision or settings.precision),
            size=values["size"], tokenizer_kind=tokenizer.kind, device=device,
            observers=observers, cache_dir=cache_dir, cuda_graphs=cuda_graphs,
        )  # fmt: skip
        trainer.tokenizer = tokenizer
        trainer.text_columns = tuple(values.get("text_columns", ()))
        model = restore_model(values, tensors, trained_with)
        if isinstance(model, TextClassifier):
            trainer.labels, trainer.classifier = values["labels"], model
        else:
            trainer.language_model = model
        model.to(trainer.device).eval()
        return trainer

    def _new_tokenizer(self, texts: Texts) -> Tokenizer:
        return train_tokenizer(
            texts,
            kind=self.tokenizer_kind,
            max_vocab=self.config.max_vocab,
            min_freq=self.config.min_freq,
            progress=partial(tell_texts_done, self.observers, "vocabulary"),
        )

    def _replace_language_model(self, tokenizer: Tokenizer, model: LanguageModel) -> None:
        """Take a new language model; a classifier with the vocabulary before it goes."""
        self.tokenizer, self.language_model = tokenizer, model
        self.classifier, self.labels = None, []

    def _new_language_model(self, tokenizer: Tokenizer) -> LanguageModel:
        size, dropouts = model_size(self.size), self._dropouts("pretrain")
        return new_language_model(size, tokenizer, dropouts).to(self.device)

    def _dropouts(self, stage: StageName) -> Dropouts:
        settings: StageConfig = getattr(self.config, stage)
        return settings.dropouts.scaled(model_size(self.size).drop_mult)

    def _fit_lm(
        self,
        stage: StageName,
        model: LanguageModel,
        tokenizer: Tokenizer,
        texts: tuple[Texts, Texts | None],
    ) -> StageResult:
        streams = token_streams(
            tokenizer, *texts, stage, self.config, cache_dir=self.cache_dir,
            progress_of=lambda what: partial(tell_texts_done, self.observers, what),
        )  # fmt: skip
        task = LanguageModelTask(model, *streams, self.config, stage)
        recorder = CudaRecorder(self.device) if self.cuda_graphs else None
        from_scratch = stage == "pretrain"
        fit = Fit(task, self.config, self.observers, from_scratch=from_scratch, recorder=recorder)
        return fit.run()

    def _trained_classifier(self) -> tuple[TextClassifier, Tokenizer]:
        if self.classifier is None or self.tokenizer is None:
            raise InputError("no classifier: call train_classifier, or load a classifier")
        return self.classifier, self.tokenizer

    def _seeded(self) -> AbstractContextManager[None]:
        self._copies.clear()
        return seeded(self.config.seed, self.device)
