"""Our models with the methods that users of the Hugging Face Hub know.

    from ulmfit_fast.interop.hub import TextClassifier

    model = TextClassifier.from_pretrained("runs/reviews")      # a folder, or owner/name on the Hub
    model.predict(["a wonderful film"])[0].label
    model.save_pretrained("reviews", model_card_kwargs={"license": "mit", "language": "en"})
    model.push_to_hub("owner/reviews")

The folder is the one that `ULMFiTTrainer.save` writes, with a README.md. Nothing is unpickled.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from ulmfit_fast import model as models
from ulmfit_fast import pretrained
from ulmfit_fast.errors import InputError
from ulmfit_fast.interop.model_card import Card, body, card_of_run, card_of_values
from ulmfit_fast.interop.model_folder import (
    Companions,
    check_tensors,
    checked,
    companions_of,
    header_of,
    one_line,
    read_folder,
    run_summary,
    trainer_of,
)
from ulmfit_fast.text.batches import ClassifierBatches
from ulmfit_fast.text.corpus import Corpus
from ulmfit_fast.training.checkpoint import (
    FILES,
    FORMAT,
    PACKED_WEIGHTS,
    read_json,
    save_model,
)
from ulmfit_fast.training.device import choose_device
from ulmfit_fast.training.evaluation import Prediction, predictions
from ulmfit_fast.training.inference import InferenceCopy
from ulmfit_fast.training.precision import choose_precision
from ulmfit_fast.training.tasks import classify
from ulmfit_fast.training.trainer import ULMFiTTrainer

try:
    from huggingface_hub import (
        ModelCard,
        PyTorchModelHubMixin,
        snapshot_download,
    )
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    from ulmfit_fast.interop.model_card_file import card_file
except ModuleNotFoundError as error:
    raise ImportError(
        'ulmfit_fast.interop.hub needs huggingface_hub: pip install "ulmfit_fast[hub]"'
    ) from error

CONTENT = (*FILES, "manifest.json")  # the last one is put in place last


class _HubModel(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="ulmfit_fast",
    tags=["ulmfit", "awd-lstm"],
):
    """What classifier and language model have in common; `companions` stand beside the weights."""

    kind: str
    companions: Companions

    @classmethod
    def from_trainer(cls, trainer: ULMFiTTrainer, **facts: Any) -> Self:
        """Return a copy of a trainer's model.

        Args:
            trainer: has a model of this kind.
            facts: for the model card: fields of `model_card.Card`, such as license="mit".

        Raises:
            InputError: it has none, or a fact is unknown.
        """
        companions = companions_of(trainer, cls.kind)
        is_classifier = cls.kind == "classifier"
        source: Any = trainer.classifier if is_classifier else trainer.language_model
        with torch.random.fork_rng(devices=[]):
            model = cls(source.config, companions)
        model.load_state_dict(source.state_dict())
        model.card = Card().with_facts(**facts)
        return model.to(trainer.device).eval()

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
        device: str | None = "cpu",
    ) -> Self:
        """Return the model of a folder, of a run's folder, or of a repository on the Hub.

        Args:
            pretrained_model_name_or_path: folder, owner/name, or a model of the package: "english".
            force_download: as in huggingface_hub.
            token: likewise.
            cache_dir: likewise.
            local_files_only: likewise.
            revision: likewise.
            device: where to put it; None takes a GPU where torch sees one.

        Raises:
            InputError: no such folder or repository, another kind of model, or a damaged one.
        """
        target = choose_device(device)
        path = pretrained.folder_of(pretrained_model_name_or_path)
        if not path.exists():
            path = _download(
                str(pretrained_model_name_or_path), force_download=force_download, token=token,
                cache_dir=cache_dir, local_files_only=local_files_only, revision=revision,
            )  # fmt: skip
        tensors, header, tokenizer = read_folder(path, cls.kind)
        config, companions = checked(header, tokenizer, str(path))
        check_tensors(config, companions, tensors, str(path))
        with torch.device("meta"):
            model = cls(config, companions)
        # Copies, as those that were read lie in one block of bytes, at any address.
        copies = {name: tensor.clone() for name, tensor in tensors.items()}
        model.load_state_dict(copies, assign=True)
        if "card" in header:
            model.card = card_of_values(header["card"], str(path))
        else:
            model.card = card_of_run(run_summary(path), cls.kind)
        return model.to(target).eval()

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | Path,
        *,
        config: None = None,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        model_card_kwargs: dict[str, Any] | None = None,
        **push_to_hub_kwargs: Any,
    ) -> str | None:
        """Write the model's folder, with a model card; a README.md that stands there is kept.

        Args:
            save_directory: the folder; a model of ours that stands there is replaced.
            config: must be None: config.json is written from the model.
            repo_id: as in huggingface_hub.
            push_to_hub: likewise.
            model_card_kwargs: facts for the card: fields of `model_card.Card`.
            push_to_hub_kwargs: for push_to_hub.

        Returns:
            url: of the commit on the Hub; None without push_to_hub.

        Raises:
            InputError: something else than a model stands there, or a fact is unknown.
        """
        if config is not None:
            raise InputError("config must be None: config.json is written from the model")
        folder, facts = Path(save_directory), model_card_kwargs or {}
        _check_place(folder)
        card = self.generate_model_card(**facts)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".new-") as place:
            self._save_pretrained(Path(place) / "model", **facts)
            for name in CONTENT:
                os.replace(Path(place) / "model" / name, folder / name)
        if not (folder / "README.md").exists():
            card.save(folder / "README.md")
        if not push_to_hub:
            return None
        name = repo_id or folder.resolve().name
        url: str = self.push_to_hub(name, model_card_kwargs=facts, **push_to_hub_kwargs)
        return url

    def generate_model_card(self, **facts: Any) -> ModelCard:
        """Return the model card: metadata and text.

        Args:
            facts: fields of `model_card.Card` in place of the model's own.

        Raises:
            InputError: no such fact.
        """
        card = self.card.with_facts(**facts)
        text = body(card, self.kind, self.companions.labels, self.companions.size)
        return card_file(card, self.kind, self._hub_mixin_info.model_card_data.tags or (), text)

    @property
    def card(self) -> Card:
        """Facts for the model card; set it to replace them. Saved with the model."""
        return card_of_values(self.companions.extra.get("card", {}), "this model")

    @card.setter
    def card(self, card: Card) -> None:
        extra = {**self.companions.extra, "card": card.to_dict()}
        self.companions = replace(self.companions, extra=extra)

    def to_trainer(self, device: str | None = None) -> ULMFiTTrainer:
        """Return a trainer that has this very model, to train on, evaluate or save.

        Args:
            device: where it and this model go; None takes a GPU where torch sees one.

        Raises:
            InputError: no such device.
        """
        return trainer_of(self, self.companions, device=device)  # type: ignore[arg-type]

    def _save_pretrained(self, save_directory: Path, **facts: Any) -> None:
        """Write the four files of the model to a new folder."""
        extra = {**self.companions.extra, "card": self.card.with_facts(**facts).to_dict()}
        companions = replace(self.companions, extra=extra)
        header = header_of(self, companions)  # type: ignore[arg-type]
        save_model(save_directory, self.state_dict(), header, companions.tokenizer)


class TextClassifier(_HubModel, models.TextClassifier):
    """A classifier with its tokenizer and the names of its classes.

    Args:
        config: sizes and dropouts of the encoder.
        companions: tokenizer, labels and settings.
    """

    kind = "classifier"

    def __init__(self, config: models.AWDLSTMConfig, companions: Companions) -> None:
        settings, n_classes = companions.settings, len(companions.labels)
        models.TextClassifier.__init__(
            self, config, n_classes, settings.bptt, settings.max_len, companions.head_size
        )
        self.companions = companions
        self._copies = InferenceCopy()

    @property
    def labels(self) -> list[str]:
        """Names of the classes, in the order of the outputs."""
        return list(self.companions.labels)

    def predict(self, texts: Sequence[str]) -> list[Prediction]:
        """Return the most probable class of each text, and the probability of every class.

        Raises:
            InputError: texts is one text instead of a list.
        """
        if isinstance(texts, str):
            raise InputError("texts is one text: give a list of texts")
        if not texts:
            return []
        tokenizer, settings = self.companions.tokenizer, self.companions.settings
        corpus = Corpus.build(texts, tokenizer)
        batches = ClassifierBatches(
            corpus, None, settings.classifier.batch_size, pad_id=tokenizer.pad_id
        )
        precision = choose_precision(settings.precision, next(self.parameters()).device)
        logits, _ = classify(self, batches, precision, self._copies)
        return predictions(logits, self.labels)


class LanguageModel(_HubModel, models.LanguageModel):
    """A language model with its tokenizer.

    Args:
        config: sizes and dropouts of the encoder.
        companions: tokenizer and settings.
    """

    kind = "language_model"

    def __init__(self, config: models.AWDLSTMConfig, companions: Companions) -> None:
        models.LanguageModel.__init__(self, config)
        self.companions = companions

    @torch.no_grad()
    def next_tokens(self, text: str, n: int = 5) -> list[tuple[str, float]]:
        """Return the n most probable tokens after a text, each with its probability."""
        ids = torch.from_numpy(self.companions.tokenizer.encode([text])[0]).long()
        device = self.decoder_bias.device
        was_training = self.training
        self.eval()
        with choose_precision(self.companions.settings.precision, device).computing():
            logits, _ = self(ids.unsqueeze(0).to(device))
        self.train(was_training)
        top = logits[0, -1].float().softmax(dim=0).topk(min(n, logits.shape[-1]))
        vocab = self.companions.tokenizer.vocab
        pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
        return [(vocab[index], probability) for index, probability in pairs]


def _check_place(folder: Path) -> None:
    """Raise InputError if a folder cannot take the files, or has another model's config.json."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: a file has this name; give the name of a folder")
    config = folder / "config.json"
    if config.exists() and read_json(config).get("format") != FORMAT:
        raise InputError(
            f"{config}: stands there and is not of a model of ulmfit_fast; give another folder"
        )


def _download(name: str, **options: Any) -> Path:
    """Return the folder into which a repository of the Hub was downloaded.

    Raises:
        InputError: it is no name of one, is not there, or cannot be reached.
    """
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) is None:
        raise InputError(f"{name}: no such folder; give a model's folder, or owner/name on the Hub")
    try:
        return Path(snapshot_download(name, allow_patterns=[*CONTENT, PACKED_WEIGHTS], **options))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"{name}: no such folder here, and not to be had from the Hub: {one_line(error)}"
        ) from error
