"""Settings: TrainConfig.from_dict, and config.json of a model, without their files."""

from __future__ import annotations

import json
from functools import cache

from fuzz.draws import Draw, edited_json, refuses
from fuzz.models import small_trainer
from ulmfit_fast import TrainConfig
from ulmfit_fast.interop.model_folder import checked, companions_of, header_of
from ulmfit_fast.text.tokenizer import Tokenizer

INSTRUMENTED = [
    "ulmfit_fast.training.config", "ulmfit_fast.training.restore", "ulmfit_fast.files",
    "ulmfit_fast.interop.model_folder", "ulmfit_fast.encoder",
]  # fmt: skip


@cache
def headers() -> list[tuple[str, Tokenizer]]:
    found = []
    for kind in ("classifier", "language_model"):
        trainer = small_trainer(kind)
        model = trainer.classifier or trainer.language_model
        assert model is not None
        assert trainer.tokenizer is not None
        header = header_of(model, companions_of(trainer, kind))
        found.append((json.dumps(header), trainer.tokenizer))
    return found


def seeds() -> list[bytes]:
    return [bytes([kind, n, depth, k, k, what, 7, 8]) for kind in range(3) for n in (0, 1)
            for depth in range(4) for k in range(20) for what in (0, 2, 6)]  # fmt: skip


def run(data: bytes) -> bool:
    """Read the settings that bytes describe; return whether they were refused."""
    draw = Draw(data)
    what = draw.below(4)
    if what == 3:
        text = draw.rest().decode("utf-8", "replace")
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            return True
    else:
        header = json.loads(headers()[what % 2][0])
        values = edited_json(header["train"] if what == 2 else header, draw)
    if what >= 2:
        return refuses(lambda: TrainConfig.from_dict(values))
    tokenizer = headers()[what % 2][1]
    return refuses(lambda: checked(values, tokenizer, "m") if isinstance(values, dict) else None)
