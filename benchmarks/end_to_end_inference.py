"""Classification of many documents, and of one text, by ours and by fastai."""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import end_to_end_models as models
import numpy as np
import torch
from end_to_end_data import Case, Files, batch_of, checked_batch, documents, predicted_text
from torch import Tensor, nn

from ulmfit_fast import functional
from ulmfit_fast.text import ClassifierBatches, Corpus
from ulmfit_fast.training.tasks import classify
from ulmfit_fast.training.trainer import ULMFiTTrainer

LABELS = [f"class {i}" for i in range(6)]


def label_ours(model: Any, stack: ExitStack) -> None:
    """Label the modules of our encoder and head, and the pooling."""
    encoder = model.encoder
    for name in ("lstm", "lstm_chunks"):  # not the modules: predictions run a copy of them
        models.labelled(functional, name, "LSTM", stack)
    dropouts = [encoder.input_dropout, encoder.hidden_dropout]
    if hasattr(model, "output_dropout"):
        dropouts.append(model.output_dropout)
    models.label_modules(dropouts, "embedding and dropouts", stack)
    models.labelled(functional, "embedding_dropout", "embedding and dropouts", stack)
    if hasattr(model, "head"):
        models.label_modules([model.head], "pooling and head", stack)
        models.labelled(functional, "concat_pool", "pooling and head", stack)


def label_fastai(model: Any, stack: ExitStack) -> None:
    """Label the same parts of fastai's model."""
    is_classifier = hasattr(model[0], "module")
    encoder = model[0].module if is_classifier else model[0]
    models.label_modules(list(encoder.rnns), "LSTM", stack)
    dropouts = [encoder.encoder_dp, encoder.input_dp, *encoder.hidden_dps]
    if is_classifier:
        models.label_modules([model[1]], "pooling and head", stack)
    else:
        dropouts.append(model[1].output_dp)
        models.label_modules([model[1].decoder], "softmax and loss", stack)
    models.label_modules(dropouts, "embedding and dropouts", stack)


class OurInference:
    """classify() over documents, batches of B, the longest first."""

    def __init__(self, case: Case, dtype: str, device: str, files: Files, plain: bool) -> None:
        self.model = models.our_model(case, device).eval()
        self.precision = models.precision_of(dtype, device)
        self.plain, self.B = plain, case.B
        docs, labels = documents(case, files)
        self.batches = self._batches(docs)
        self.checked = self._batches(checked_documents(case, docs, labels))

    def _batches(self, docs: list[Tensor]) -> ClassifierBatches:
        offsets = np.cumsum([0, *map(len, docs)])
        return ClassifierBatches(
            Corpus(torch.cat(docs).numpy().astype(np.int32), offsets), None, self.B
        )

    def _classify(self, batches: ClassifierBatches) -> Tensor:
        functions = models.reference_functions() if self.plain else nullcontext()
        with functions:
            return classify(self.model, batches, self.precision)[0]

    def __call__(self) -> object:
        """Classify all documents."""
        return self._classify(self.batches)

    def outcome(self) -> list[Tensor]:
        """Return the probabilities of the checked documents."""
        return [self._classify(self.checked).softmax(dim=1)]

    def label(self, stack: ExitStack) -> None:
        """Label the parts."""
        label_ours(self.model, stack)


class FastaiInference:
    """Learner.get_preds over the same documents, batches of B by its SortedDL and Pad_Chunk."""

    def __init__(self, case: Case, dtype: str, device: str, files: Files) -> None:
        from fastai.text.data import Pad_Chunk, SortedDL, TensorText

        self.dtype, self.device = dtype, device
        docs, labels = documents(case, files)

        def loader(docs: list[Tensor]) -> Any:
            return SortedDL(
                [(TensorText(doc),) for doc in docs],
                bs=case.B,
                before_batch=Pad_Chunk(seq_len=case.T),
                n_inp=1,
                num_workers=0,
                device=torch.device(device),
            )

        self.loader = loader(docs)
        self.checked = loader(checked_documents(case, docs, labels))
        self.learn = models.fastai_learner(case, dtype, device)
        self.model = self.learn.model

    def _probabilities(self, loader: Any) -> Tensor:
        self.model.eval()
        with models.autocast(self.dtype, self.device):
            found: Tensor = self.learn.get_preds(dl=loader)[0]
            return found

    def __call__(self) -> object:
        """Classify all documents."""
        return self._probabilities(self.loader)

    def outcome(self) -> list[Tensor]:
        """Return the probabilities of the checked documents."""
        return [self._probabilities(self.checked)]

    def label(self, stack: ExitStack) -> None:
        """Label the parts."""
        label_fastai(self.model, stack)


def checked_documents(case: Case, docs: list[Tensor], labels: Tensor) -> list[Tensor]:
    """Return the documents of checked_batch."""
    batch = checked_batch(case, batch_of(docs[:8], labels[:8], case.T))
    assert batch.lengths is not None
    return [row[:n] for row, n in zip(batch.ids, batch.lengths.tolist(), strict=True)]


class OurPredict:
    """ULMFiTTrainer.predict of one text, tokenization included."""

    def __init__(self, case: Case, dtype: str, device: str, files: Files, plain: bool) -> None:
        self.plain = plain
        self.text, tokenizer = predicted_text(case, files)
        config = replace(models.CONFIG, precision=models.PRECISION_NAMES[dtype])
        self.trainer = ULMFiTTrainer(config, device=device)
        self.trainer.tokenizer, self.trainer.labels = tokenizer, LABELS[: case.n_classes]
        model = models.our_model(case, device).eval()
        self.model: nn.Module = model
        self.trainer.classifier = model  # type: ignore[assignment]

    def __call__(self) -> Any:
        """Predict."""
        functions = models.reference_functions() if self.plain else nullcontext()
        with functions:
            return self.trainer.predict([self.text])

    def outcome(self) -> list[Tensor]:
        """Return the probabilities."""
        return [torch.tensor(list(self()[0].probabilities.values()))]

    def label(self, stack: ExitStack) -> None:
        """Label the parts."""
        label_ours(self.model, stack)


class FastaiPredict:
    """Learner.predict of the same text, tokenization included.

    With spaCy, fastai's default; without it, split at spaces.
    """

    def __init__(self, case: Case, dtype: str, device: str, files: Files) -> None:
        from fastai.data.core import Datasets
        from fastai.data.transforms import Categorize
        from fastai.text.core import BaseTokenizer, SpacyTokenizer, Tokenizer
        from fastai.text.data import Numericalize, Pad_Chunk, SortedDL

        self.dtype, self.device = dtype, device
        self.text, tokenizer = predicted_text(case, files)
        words = SpacyTokenizer if find_spec("spacy") else BaseTokenizer
        labels = LABELS[: case.n_classes]

        def label_of(text: str) -> str:
            return labels[len(text) % len(labels)]

        text_tfms = [Tokenizer(words()), Numericalize(vocab=tokenizer.vocab)]
        datasets = Datasets(
            [self.text, self.text],
            tfms=[text_tfms, [label_of, Categorize(vocab=labels)]],
            splits=[[0, 1], [0, 1]],
        )
        dls = datasets.dataloaders(
            bs=2,
            dl_type=SortedDL,
            before_batch=Pad_Chunk(seq_len=case.T),
            num_workers=0,
            device=torch.device(device),
        )
        self.learn = models.fastai_learner(case, dtype, device, dls)
        self.model = self.learn.model

    def __call__(self) -> Any:
        """Predict."""
        self.model.eval()
        with models.autocast(self.dtype, self.device):
            return self.learn.predict(self.text)

    def outcome(self) -> list[Tensor]:
        """Return the probabilities."""
        return [self()[2]]

    def label(self, stack: ExitStack) -> None:
        """Label the parts."""
        label_fastai(self.model, stack)
