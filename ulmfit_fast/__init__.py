"""ULMFiT with fused kernels: language-model pretraining, fine-tuning and text classification.

Importing this package loads nothing but itself; each name below loads its module when first used.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

_HOME = {
    "ULMFiTTrainer": "ulmfit_fast.training.trainer",
    "TrainConfig": "ulmfit_fast.training.config",
    "InputError": "ulmfit_fast.errors",
    "TrainingError": "ulmfit_fast.errors",
    "TrainingStopped": "ulmfit_fast.errors",
    "Checkpoints": "ulmfit_fast.training.resume",
    "AWDLSTM": "ulmfit_fast.model",
    "AWDLSTMConfig": "ulmfit_fast.model",
    "Dropouts": "ulmfit_fast.model",
    "LanguageModel": "ulmfit_fast.model",
    "TextClassifier": "ulmfit_fast.model",
    "WeightDroppedLSTM": "ulmfit_fast.modules",
    "EmbeddingDropout": "ulmfit_fast.modules",
    "VariationalDropout": "ulmfit_fast.modules",
    "LayerwiseAdamW": "ulmfit_fast.optim",
    "read_table": "ulmfit_fast.text",
}
# These need a library of an extra, so a star import leaves them out.
_HOME_WITH_EXTRA = {"ULMFiTClassifier": "ulmfit_fast.interop.sklearn"}

#: Parts that are used by their own names, such as ulmfit_fast.functional.lstm.
_PARTS = ("functional", "modules", "optim", "reference", "text")

__all__ = ["__version__", *_HOME, *_PARTS]


def __getattr__(name: str) -> object:
    """Load a public name from its module, or a part of the package."""
    if name in _PARTS:
        return importlib.import_module(f"{__name__}.{name}")
    home = _HOME.get(name) or _HOME_WITH_EXTRA.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted([*__all__, *_HOME_WITH_EXTRA])
