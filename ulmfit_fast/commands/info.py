"""`ulmfit-fast info`: what this installation can do, or what a model is."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch

from ulmfit_fast import __version__, _native, _ops
from ulmfit_fast.commands.run_folder import find_model
from ulmfit_fast.commands.terminal import Terminal, listing
from ulmfit_fast.kernels import lstm
from ulmfit_fast.training.checkpoint import read_json
from ulmfit_fast.training.precision import choose_precision
from ulmfit_fast.training.trainer import ULMFiTTrainer

#: Hidden units of the model's layers.
PERSISTENT_SIZES = (400, 1152)


def say_environment(terminal: Terminal) -> None:
    """Print versions, processors and which kernel every op runs."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    precision = choose_precision("auto", torch.device("cuda" if gpus else "cpu"))
    kernels = {op: _kernels_of(op) for op in _ops.SCHEMAS}
    facts: dict[str, Any] = {
        "ulmfit_fast": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "system": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
        "trains_on": "cuda" if gpus else "cpu",
        "precision": precision.name,
        "kernels": kernels,
        "persistent_lstm": {H: _persistent_lstm(H) for H in PERSISTENT_SIZES},
    }
    for name, value in facts.items():
        if name in ("kernels", "persistent_lstm"):
            continue
        shown = ", ".join(value) if isinstance(value, list) else value
        if name == "precision":
            shown = f"{value} (auto: {precision.why})"
        terminal.say(f"{name:12s} {'none' if shown in (None, '') else shown}")
    for op, by_device in kernels.items():
        for device, kernel in by_device.items():
            terminal.say(f"{'kernel':12s} {op} on {device}: {kernel}")
    for H, says in facts["persistent_lstm"].items():
        terminal.say(f"{'kernel':12s} persistent LSTM, H {H}: {says}")
    terminal.result(facts)


def _persistent_lstm(H: int) -> str:
    """Return whether a layer of H units runs on the persistent kernels of a GPU, or why not."""
    if not torch.cuda.is_available():
        return "no; there is no GPU"
    w_hh = torch.empty(4 * H, H, dtype=torch.bfloat16, device="cuda")
    reasons = [lstm.why_not_persistent(w_hh, 64, backward) for backward in (False, True)]
    pairs = zip(("forward", "backward"), reasons, strict=True)
    return "; ".join(f"{name} {'yes' if why is None else 'no: ' + why}" for name, why in pairs)


def _kernels_of(op: str) -> dict[str, str]:
    """Return which kernel an op runs on each kind of device, or why it has none."""
    found = {}
    for device in ("cpu", "cuda"):
        kernel = _native.kernels.get((op, device))
        reason = _native.why_missing(op, device)
        found[device] = "; ".join(part for part in (kernel or "none", reason) if part)
    return found


def say_model(path: Path, terminal: Terminal) -> None:
    """Print what a model directory holds.

    Raises:
        InputError: no model there, or one that is damaged or of another version.
    """
    folder = find_model(path, "model", "language_model")
    trainer = ULMFiTTrainer.load(folder, device="cpu")
    models = (trainer.classifier, trainer.language_model)
    model = next(model for model in models if model is not None)
    config = model.config
    facts: dict[str, Any] = {
        "folder": str(folder),
        "kind": "language model" if trainer.classifier is None else "classifier",
        "size": trainer.size,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "embedding": config.embed_size,
        "hidden": config.hidden_size,
        "layers": config.n_layers,
        "tokenizer": trainer.tokenizer_kind,
        "vocabulary": config.vocab_size,
        "recipe": trainer.config.recipe,
        "seed": trainer.config.seed,
        "precision": trainer.config.precision,
        "classes": trainer.labels,
        "text_columns": list(trainer.text_columns),
        "packing": read_json(folder / "config.json").get("packing"),
    }
    for name, value in facts.items():
        if value in ([], None):
            continue
        shown = f"{len(value)}: {listing(value, 12)}" if isinstance(value, list) else value
        terminal.say(f"{name:12s} {shown}")
    terminal.result(facts)
