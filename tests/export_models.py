"""Small models whose logits are large enough to show an error, for the tests of exports."""

from __future__ import annotations

import torch

from ulmfit_fast import AWDLSTMConfig, LanguageModel, TextClassifier, TrainConfig, ULMFiTTrainer
from ulmfit_fast.text import train_tokenizer

BPTT, MAX_LEN = 7, 20
#: V E and 4 H H are above the size from which weights are stored in bfloat16.
CONFIG = AWDLSTMConfig(vocab_size=600, embed_size=10, hidden_size=36, n_layers=3)
TEXTS = ["A wonderful film!", "Two DULL hours, I say.", "good " * 60, "ünï <br /> 中文", "x"]


def shaken(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Draw every parameter and statistic anew, far from where training starts."""
    draw = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if "running_var" in name:
            tensor.uniform_(0.01, 0.05, generator=draw)
        elif tensor.is_floating_point():
            tensor.normal_(0.0, 0.4, generator=draw)
    return model


def classifier(config: AWDLSTMConfig = CONFIG, n_classes: int = 3) -> TextClassifier:
    """Return a classifier with short chunks, in training mode as it leaves the constructor."""
    return shaken(TextClassifier(config, n_classes, BPTT, MAX_LEN))


def language_model(config: AWDLSTMConfig = CONFIG) -> LanguageModel:
    """Return a language model."""
    return shaken(LanguageModel(config))


def trainer_with(kind: str = "word") -> ULMFiTTrainer:
    """Return a trainer that has a tokenizer and both models, none of them trained."""
    config = TrainConfig.preset(bptt=BPTT, max_len=MAX_LEN, precision="fp32")
    trainer = ULMFiTTrainer(config, size="tiny", tokenizer_kind=kind, device="cpu")
    trainer.tokenizer = train_tokenizer(TEXTS, kind=kind, min_freq=1)
    sizes = AWDLSTMConfig(len(trainer.tokenizer.vocab), 10, 36, 2)
    trainer.classifier = classifier(sizes).eval()
    trainer.language_model = language_model(sizes).eval()
    trainer.labels = ["bad", "good", "ünï"]
    trainer.text_columns = ("review",)
    return trainer


def draw_batch(
    lengths: list[int], more_columns: int = 0, seed: int = 0
) -> tuple[torch.Tensor, ...]:
    """Return ids [B, T] padded at the end, and the lengths."""
    draw = torch.Generator().manual_seed(seed)
    n = torch.tensor(lengths)
    size = (len(lengths), max(lengths) + more_columns)
    ids = torch.randint(3, CONFIG.vocab_size, size, generator=draw)
    return ids.masked_fill(torch.arange(size[1]) >= n[:, None], CONFIG.pad_id), n
