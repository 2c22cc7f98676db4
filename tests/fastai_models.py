"""fastai's data and learners in a tiny size, with its AWD_LSTM or ours; needs fastai."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn

pytest.importorskip("fastai")
import fastai.text.all  # noqa: F401
import pandas as pd  # comes with fastai
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.transforms import ColReader, ColSplitter
from fastai.text.core import BaseTokenizer
from fastai.text.data import TextBlock
from fastai.text.learner import language_model_learner, text_classifier_learner
from fastai.text.models.awdlstm import awd_lstm_clas_config, awd_lstm_lm_config
from small_training import draw_texts

SIZES = {"emb_sz": 8, "n_hid": 12, "n_layers": 2}
LM_CONFIG = {**awd_lstm_lm_config, **SIZES}
CLASSIFIER_CONFIG = {**awd_lstm_clas_config, **SIZES}
#: As good as no dropout. With 0, F.dropout returns the weight itself, and fastai's reset() fails.
NO_DROPOUT = 1e-9


def table(n: int = 80) -> pd.DataFrame:
    """Return texts with labels, every fourth for validation."""
    texts, labels = draw_texts(n)
    return pd.DataFrame(
        {"text": texts, "label": labels, "is_valid": [i % 4 == 3 for i in range(n)]}
    )


def language_data(n: int = 80, batch_size: int = 4, seq_len: int = 9) -> Any:
    block = TextBlock.from_df("text", is_lm=True, seq_len=seq_len, tok=BaseTokenizer(), min_freq=1)
    data = DataBlock(blocks=block, get_x=ColReader("text"), splitter=ColSplitter())
    return data.dataloaders(table(n), bs=batch_size, seq_len=seq_len, num_workers=0)


def classifier_data(vocab: list[str], n: int = 80, seq_len: int = 6) -> Any:
    text = TextBlock.from_df("text", vocab=vocab, seq_len=seq_len, tok=BaseTokenizer())
    data = DataBlock(
        blocks=(text, CategoryBlock),
        get_x=ColReader("text"),
        get_y=ColReader("label"),
        splitter=ColSplitter(),
    )
    return data.dataloaders(table(n), bs=8, num_workers=0)


def language_learner(arch: Any, dls: Any, path: Path, **options: Any) -> Any:
    options = {"config": LM_CONFIG, "pretrained": False, **options}
    return quiet(language_model_learner(dls, arch, path=path, **options))


def classifier_learner(arch: Any, dls: Any, path: Path, **options: Any) -> Any:
    options = {"config": CLASSIFIER_CONFIG, "pretrained": False, "seq_len": 6, **options}
    return quiet(text_classifier_learner(dls, arch, path=path, **options))


def quiet(learn: Any) -> Any:
    """Return a learner that shows no progress and no table of losses."""
    learn.remove_cb(learn.progress)
    learn.logger = lambda *_: None
    return learn


def seed_everything(seed: int) -> None:
    random.seed(seed)
    torch.manual_seed(seed)


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Have nothing dropped inside, in training mode."""
    patches = [
        mock.patch.object(module, name, NO_DROPOUT)
        for module in model.modules()
        for name in ("p", "weight_p", "embed_p")
        if name in module.__dict__
    ]
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()
