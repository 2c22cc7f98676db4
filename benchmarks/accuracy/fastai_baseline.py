"""fastai's own text learners with the budget of our presets: epochs, sizes, batches, no base.

The counterpart of the variant `no-pretraining`: a language model on the same texts from random
weights, its encoder in a classifier, layers unfrozen one after the other as in fastai's notebooks.
"""

from __future__ import annotations

import tempfile
import time
from typing import Any

import numpy as np

from ulmfit_fast.training.config import TrainConfig
from ulmfit_fast.training.device import choose_device
from ulmfit_fast.training.sizes import model_size

from .baselines import Fitted, valid_of
from .classify import Parts
from .presets import Preset
from .tasks import config_of

#: Rates of fastai's notebooks: a language model from scratch, a classifier's first phase.
LM_LR = 5e-3
CLASSIFIER_LR = 2e-2


def architecture(base: dict[str, Any], size: str, drop_mult: float) -> dict[str, Any]:
    """Return fastai's settings of an AWD_LSTM at one of our sizes."""
    sizes = model_size(size)
    dropouts = {k: v * drop_mult for k, v in base.items() if k.endswith("_p")}
    return {
        **base, **dropouts, "emb_sz": sizes.embed_size, "n_hid": sizes.hidden_size,
        "n_layers": sizes.n_layers,
    }  # fmt: skip


def fit(parts: Parts, seed: int, *, preset: Preset, device: str | None) -> Fitted:
    """Train fastai's language model and classifier."""
    from fastai.text.all import default_device, set_seed

    default_device(use=choose_device(device).type == "cuda")
    set_seed(seed, reproducible=True)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        vocab = train_language_model(parts, preset, folder)
        learn = train_classifier(parts, preset, vocab, folder)
    seconds = time.perf_counter() - began
    names = [str(name) for name in learn.dls.vocab[1]]
    with learn.no_bar(), learn.no_logging():
        valid_error = 1 - float(learn.validate()[1])
    facts = {
        "chosen": {"epochs": preset.classifier_epochs},
        "valid_error": valid_error,
        "train_seconds": seconds,
        "search_seconds": seconds,
        "n_parameters": sum(p.numel() for p in learn.model.parameters()),
    }
    return Fitted(lambda texts: answers(learn, list(texts)), names, facts)


def frame(texts: list[str], labels: list[str], n_train: int) -> Any:
    """Return a table of fastai's: rows from number n_train on are for validation."""
    import pandas

    flags = [row >= n_train for row in range(len(texts))]
    return pandas.DataFrame({"text": texts, "label": labels, "is_valid": flags})


def loaders(table: Any, config: TrainConfig, batch_size: int, **more: Any) -> Any:
    """Return fastai's loaders of a table."""
    from fastai.text.all import TextDataLoaders

    return TextDataLoaders.from_df(
        table, text_col="text", label_col="label", valid_col="is_valid", bs=batch_size,
        seq_len=config.bptt, max_vocab=config.max_vocab, num_workers=0, n_workers=1, **more,
    )  # fmt: skip


def train_language_model(parts: Parts, preset: Preset, folder: str) -> Any:
    """Train a language model, leave its encoder in the folder, and return its vocabulary."""
    from fastai.text.all import AWD_LSTM, awd_lstm_lm_config, language_model_learner

    config = config_of(preset, 0, parts)
    texts = parts.language_model + valid_of(parts).texts
    table = frame(texts, [""] * len(texts), len(parts.language_model))
    batch_size = config.pretrain.batch_size
    dls = loaders(table, config, batch_size, is_lm=True, min_freq=config.min_freq)
    sizes = architecture(awd_lstm_lm_config, preset.size, model_size(preset.size).drop_mult)
    learn = language_model_learner(dls, AWD_LSTM, config=sizes, pretrained=False, path=folder)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(preset.lm_epochs, LM_LR)
    learn.save_encoder("encoder")
    return dls.vocab


def train_classifier(parts: Parts, preset: Preset, vocab: Any, folder: str) -> Any:
    """Train a classifier on the encoder in the folder: top group first, then two, three, all."""
    from fastai.text.all import AWD_LSTM, accuracy, awd_lstm_clas_config, text_classifier_learner

    valid, config = valid_of(parts), config_of(preset, 0, parts)
    table = frame(
        parts.train.texts + valid.texts, parts.train.labels + valid.labels, len(parts.train)
    )
    dls = loaders(table, config, config.classifier.batch_size, text_vocab=vocab)
    sizes = architecture(awd_lstm_clas_config, preset.size, model_size(preset.size).drop_mult)
    learn = text_classifier_learner(
        dls, AWD_LSTM, config=sizes, pretrained=False, path=folder, metrics=accuracy
    )
    learn = learn.load_encoder("encoder")
    with learn.no_bar(), learn.no_logging():
        n_frozen = min(3, preset.classifier_epochs - 1)
        for top in range(1, n_frozen + 1):
            learn.freeze_to(-top)
            learn.fit_one_cycle(1, CLASSIFIER_LR / 2 ** (top - 1))
        learn.unfreeze()
        rate = CLASSIFIER_LR / 4
        learn.fit_one_cycle(preset.classifier_epochs - n_frozen, slice(rate / 2.6**4, rate))
    return learn


def answers(learn: Any, texts: list[str]) -> np.ndarray:
    """Return the probabilities [n, C] of texts."""
    with learn.no_bar(), learn.no_logging():
        loader = learn.dls.test_dl(texts, with_labels=False)
        probabilities, _ = learn.get_preds(dl=loader)
    return np.asarray(probabilities.numpy())
