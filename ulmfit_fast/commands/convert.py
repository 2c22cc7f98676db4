"""`ulmfit-fast convert`: models of fastai to ours, and back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ulmfit_fast.commands.cache import cache_folder
from ulmfit_fast.commands.run_folder import find_model
from ulmfit_fast.commands.terminal import Terminal, count, listing
from ulmfit_fast.errors import InputError
from ulmfit_fast.interop.checkpoints import fastai_files, load_fastai, save_fastai
from ulmfit_fast.interop.download import download, is_address
from ulmfit_fast.training.trainer import ULMFiTTrainer


@dataclass(frozen=True)
class ConvertOptions:
    """Options of `convert`.

    Attributes:
        source: file, folder or address of a model of fastai's, or the folder of one of ours.
        target: folder to make, or .pth file to write.
        vocab: vocabulary of a model of fastai's; None finds it beside the model.
        labels: names of the classes, with commas between; None names them 0, 1, ...
        overwrite: whether something may stand at target.
    """

    source: str
    target: Path
    vocab: Path | None = None
    labels: str | None = None
    overwrite: bool = False


def convert(options: ConvertOptions, terminal: Terminal) -> None:
    """Convert in the direction that source tells.

    Raises:
        InputError: source cannot be used, or target is taken; nothing was written.
    """
    folder = find_model(Path(options.source), "model", "language_model")
    is_ours = (folder / "config.json").exists()
    for place in fastai_files(options.target) if is_ours else (options.target,):
        if place.exists() and not options.overwrite:
            raise InputError(f"{place}: exists; give another name, or replace it: --overwrite")
    if is_ours:
        trainer = ULMFiTTrainer.load(folder, device="cpu")
        weights, vocab = save_fastai(trainer, options.target)
        written, to = [str(weights), str(vocab)], "fastai"
        use = f"pretrained_fnames=['{weights.stem}', '{vocab.stem}'] in language_model_learner"
        if trainer.classifier is not None:
            use = f"learn.load('{weights.stem}'); its classes are {','.join(trainer.labels)}"
    else:
        trainer = read_source(options.source, options.vocab, options.labels)
        trainer.save(options.target)
        written, to = [str(options.target)], "ulmfit_fast"
        use = f"ulmfit-fast train FILE --base {options.target}"
        if trainer.classifier is not None:
            use = f"ulmfit-fast predict {options.target} FILE"
    facts = describe(trainer)
    terminal.say(f"  {facts['kind']}, {count(facts['parameters'], 'parameter')}: {facts['sizes']}")
    if trainer.labels:
        terminal.say(f"  classes  {listing(trainer.labels)}")
    for path in written:
        terminal.say(f"  written  {path}")
    terminal.say(f"  try      {use}")
    terminal.result({"to": to, "written": written, "classes": trainer.labels, **facts})


def read_source(source: str, vocab: Path | None, labels: str | None) -> ULMFiTTrainer:
    """Read a model of fastai's from a file, folder or address."""
    if is_address(source):
        cache = cache_folder(None)
        if cache is None:
            raise InputError(f"{source}: there is no cache folder to keep it in; fetch the file")
        path = download(source, cache / "models")
    else:
        path = Path(source)
    return load_fastai(path, vocab=vocab, labels=labels.split(",") if labels else None)


def describe(trainer: ULMFiTTrainer) -> dict[str, Any]:
    """Return what kind of model a trainer holds, and how large it is."""
    model = trainer.classifier or trainer.language_model
    assert model is not None
    config = model.config
    return {
        "kind": "language model" if trainer.classifier is None else "classifier",
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "sizes": (
            f"{config.vocab_size:,} tokens, {config.embed_size} wide, {config.n_layers} layers of "
            f"{config.hidden_size}"
        ),
    }
