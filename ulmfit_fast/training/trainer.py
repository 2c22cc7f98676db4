"""The three stages of ULMFiT behind one object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from ulmfit_fast.errors import InputError
from ulmfit_fast.model import LanguageModel, TextClassifier
from ulmfit_fast.text.batches import ClassifierBatches
from ulmfit_fast.text.corpus import Corpus, Texts
from ulmfit_fast.text.tokenizer import Tokenizer
from ulmfit_fast.training.checkpoint import load_model, save_model
from ulmfit_fast.training.config import StageName, TrainConfig
from ulmfit_fast.training.device import check_cuda_graphs, choose_device
from ulmfit_fast.training.documents import labelled_batches
from ulmfit_fast.training.evaluation import Evaluation, Prediction, evaluation, predictions
from ulmfit_fast.training.graphs import CudaRecorder
from ulmfit_fast.training.inference import InferenceCopy
from ulmfit_fast.training.joining import is_first
from ulmfit_fast.training.loop import StageResult
from ulmfit_fast.training.observer import Observer
from ulmfit_fast.training.plan import StagePlan
from ulmfit_fast.training.precision import Precision, PrecisionName, choose_precision
from ulmfit_fast.training.restore import (
    checked_header,
    describe_model,
    restore_model,
    settings_of,
)
from ulmfit_fast.training.resume import Checkpoints
from ulmfit_fast.training.sizes import model_size
from ulmfit_fast.training.stage_makers import StageMakers
from ulmfit_fast.training.stages import Outcome, Stage, Stages
from ulmfit_fast.training.tasks import classify


class ULMFiTTrainer(StageMakers):
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
        checkpoints: where to save the training while it runs, so that `resume` can go on after
            whatever stopped it: a folder, or Checkpoints for how often and more. None saves
            nothing. Ctrl-C then ends a stage after its step, saved, with TrainingStopped.

    Attributes:
        tokenizer: of the current models; None before the first stage.
        language_model: result of pretrain or finetune_lm.
        classifier: result of train_classifier.
        labels: names of the classes, in the order of the classifier's outputs.
        plans: of stages, by name, in place of the recipe's phases, rates and schedule.
        text_columns: names of the columns that the texts came from; empty when unknown. Set by
            who reads the texts, saved and loaded with the model.

    Raises:
        InputError: no such size or device, one without the precision or the graphs asked for, or
            checkpoints of another training where this one's shall go.
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
        checkpoints: Checkpoints | str | Path | None = None,
    ) -> None:
        model_size(size)
        self.config = config or TrainConfig.preset()
        self.size, self.tokenizer_kind = size, tokenizer_kind
        self.device = choose_device(device)
        self.observers = list(observers)
        self.cache_dir, self.cuda_graphs = cache_dir, cuda_graphs
        if cuda_graphs:
            check_cuda_graphs(self.device)
        choose_precision(self.config.precision, self.device)
        self.tokenizer: Tokenizer | None = None
        self.language_model: LanguageModel | None = None
        self.classifier: TextClassifier | None = None
        self.labels: list[str] = []
        self.text_columns: tuple[str, ...] = ()
        self.plans: dict[StageName, StagePlan] = {}
        self._copies = InferenceCopy()
        if isinstance(checkpoints, str | Path):
            checkpoints = Checkpoints(Path(checkpoints))
        if checkpoints is not None:
            checkpoints.check_free()
        described = {
            "config": self.config.to_dict(), "size": size, "tokenizer_kind": tokenizer_kind,
            "device": self.device.type, "cuda_graphs": cuda_graphs,
        }  # fmt: skip
        self._stages = Stages(checkpoints, described)

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
        return self._run_language_model(self._pretraining(texts, valid_texts))

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
        return self._run_language_model(self._fine_tuning(texts, valid_texts))

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
        valid = None if valid_texts is None else (valid_texts, valid_labels or [])
        stage = self._classification((texts, labels), valid)
        outcome = self._run(stage)
        if isinstance(outcome.model, TextClassifier):
            self.tokenizer, self.classifier = outcome.tokenizer, outcome.model
            self.labels = list(stage.labels)
        return outcome.result

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

    def save(
        self, path: str | Path, kind: str | None = None, *, overwrite: bool = False,
        packing: str | None = None,
    ) -> None:  # fmt: skip
        """Write a model directory: safetensors and JSON, whole or not at all; in rank 0.

        Args:
            path: the directory; a model of the same kind that stands there is replaced.
            kind: "classifier" or "language_model"; None takes the classifier where there is one.
            overwrite: whether a model of another kind may stand there.
            packing: "int8" or "bf16" rounds the weights to a smaller file; None keeps every bit.

        Raises:
            InputError: nothing of that kind was trained, it cannot be packed, or path is taken.
            OSError: the disk refuses; what stood at path before is still there.
        """
        kind = kind or ("language_model" if self.classifier is None else "classifier")
        model = self.classifier if kind == "classifier" else self.language_model
        if model is None or self.tokenizer is None:
            raise InputError(f"no {kind} to save: train one first")
        config = {
            **describe_model(model, self.labels), "text_columns": list(self.text_columns),
            "size": self.size, "train": settings_of(model, self.config).to_dict(),
        }  # fmt: skip
        place, state = Path(path), model.state_dict()
        if is_first():
            save_model(place, state, config, self.tokenizer, overwrite=overwrite, packing=packing)

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
        checkpoints: Checkpoints | str | Path | None = None,
    ) -> ULMFiTTrainer:
        """Read a model directory.

        Args:
            path: the directory, or the name of a model of the package, such as "english".
            config: settings of the stages to come; None takes those it was trained with.
            device: as for the class.
            observers: as for the class.
            cache_dir: as for the class.
            precision: to compute in, in place of the config's.
            cuda_graphs: as for the class.
            checkpoints: as for the class.

        Raises:
            InputError: no model there, or one that is damaged, half written or of another version.
        """
        tensors, values, tokenizer = load_model(Path(path))
        header = checked_header(values, tokenizer, f"{path}: config.json")
        settings = config or header.settings
        trainer = cls(
            replace(settings, precision=precision or settings.precision), device=device,
            size=header.size, tokenizer_kind=tokenizer.kind, checkpoints=checkpoints,
            observers=observers, cache_dir=cache_dir, cuda_graphs=cuda_graphs,
        )  # fmt: skip
        trainer.tokenizer, trainer.text_columns = tokenizer, header.text_columns
        model = restore_model(header.model, header.settings, tensors, str(path))
        if isinstance(model, TextClassifier):
            trainer.labels, trainer.classifier = list(header.model.labels), model
        else:
            trainer.language_model = model
        model.to(trainer.device).eval()
        return trainer

    @classmethod
    def resume(
        cls,
        checkpoints: Checkpoints | str | Path,
        *,
        device: str | None = None,
        observers: Sequence[Observer] = (),
        cache_dir: Path | None = None,
    ) -> ULMFiTTrainer:
        """Return a trainer that goes on with a training that was stopped, however that was.

        Make the same calls with the same texts again: a finished stage returns at once, the one
        that ran goes on where it was, bit for bit on a CPU with as many threads.

        Args:
            checkpoints: the folder, or Checkpoints of it.
            device: where to train; None takes the kind of device that it ran on.
            observers: as for the class.
            cache_dir: as for the class.

        Raises:
            InputError: no checkpoint there, none that is whole, or one of another version.
        """
        if not isinstance(checkpoints, Checkpoints):
            checkpoints = Checkpoints(Path(checkpoints))
        snapshot = checkpoints.find()
        if snapshot is None:
            raise InputError(f"{checkpoints.folder}: no checkpoint of a training: begin anew")
        of = snapshot.values["trainer"]
        on = choose_device(device or of["device"])
        return cls(
            TrainConfig.from_dict(of["config"]), size=of["size"],
            tokenizer_kind=of["tokenizer_kind"], device=str(on),
            observers=observers, cache_dir=cache_dir,
            cuda_graphs=of["cuda_graphs"] and on.type == "cuda",
            checkpoints=checkpoints,
        )  # fmt: skip

    def _run(self, stage: Stage) -> Outcome:
        self._copies.clear()
        is_graphed = self.cuda_graphs and stage.name != "classifier"
        recorder = CudaRecorder(self.device) if is_graphed else None
        return self._stages.run(stage, self.device, self.observers, recorder)

    def _run_language_model(self, stage: Stage) -> StageResult:
        """Run a stage and take its model; a classifier with the vocabulary before it goes."""
        outcome = self._run(stage)
        model = outcome.model
        self.tokenizer = outcome.tokenizer
        self.language_model = model if isinstance(model, LanguageModel) else None
        self.classifier, self.labels = None, []
        return outcome.result
