"""`ulmfit-fast convert`: models of fastai to ours, and back."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ulmfit_fast.commands.cache import cache_folder
from ulmfit_fast.commands.run_folder import find_model
from ulmfit_fast.commands.terminal import Terminal, count, listing, printable
from ulmfit_fast.errors import InputError
from ulmfit_fast.interop.checkpoints import fastai_files, load_fastai, save_fastai
from ulmfit_fast.interop.download import Progress, download, is_address, path_of
from ulmfit_fast.training.trainer import ULMFiTTrainer

#: In the names of models that fastai's users trained on reversed texts.
BACKWARD = re.compile(r"(^|[^a-z])(bwd|backwards?)([^a-z]|$)", re.IGNORECASE)


@dataclass(frozen=True)
class ConvertOptions:
    """Options of `convert`.

    Attributes:
        source: file, folder or address of a model of fastai's, or the folder of one of ours.
        target: folder to make, or .pth file to write.
        vocab: vocabulary of a model of fastai's; None finds it beside the model.
        labels: names of the classes, with commas between; None names them 0, 1, ...
        encoder_only: whether to read, or to write, no head and no decoder.
        overwrite: whether something may stand at target.
    """

    source: str
    target: Path
    vocab: Path | None = None
    labels: str | None = None
    encoder_only: bool = False
    overwrite: bool = False


def convert(options: ConvertOptions, terminal: Terminal) -> None:
    """Convert in the direction that source tells.

    Raises:
        InputError: source cannot be used, or target is taken; nothing was written.
    """
    folder = find_model(Path(options.source), "model", "language_model")
    to_fastai = (folder / "config.json").exists()
    places = fastai_files(options.target) if to_fastai else (options.target,)
    taken = next((path for path in places if path.exists()), None)
    if taken is not None and not options.overwrite:
        raise InputError(f"{taken}: exists; give another name, or replace it: --overwrite")
    if to_fastai and (options.vocab or options.labels):
        raise InputError(f"{folder}: has its vocabulary and its classes; leave --vocab, --labels")
    if to_fastai:
        trainer = ULMFiTTrainer.load(folder, device="cpu")
        weights, vocab = save_fastai(trainer, options.target, encoder_only=options.encoder_only)
        use = f"learn.load('{weights.stem}'); its classes are {','.join(trainer.labels)}"
        if options.encoder_only:
            use = f"learn.load_encoder('{weights.stem}')"
        elif trainer.classifier is None:
            use = f"language_model_learner(pretrained_fnames=['{weights.stem}', '{vocab.stem}'])"
    else:
        trainer = read_source(options, terminal)
        trainer.save(options.target, overwrite=options.overwrite)
        use = f"ulmfit-fast train FILE --base {options.target}"
        if trainer.classifier is not None:
            use = f"ulmfit-fast predict {options.target} FILE"
    written, to = [str(path) for path in places], "fastai" if to_fastai else "ulmfit_fast"
    facts = describe(trainer)
    terminal.say(f"  {facts['kind']}, {count(facts['parameters'], 'parameter')}: {facts['sizes']}")
    if trainer.labels:
        terminal.say(f"  classes  {listing(trainer.labels)}")
    for path in written:
        terminal.say(f"  written  {path}")
    terminal.say(f"  try      {use}")
    terminal.result({"to": to, "written": written, "classes": trainer.labels, **facts})


def read_source(options: ConvertOptions, terminal: Terminal) -> ULMFiTTrainer:
    """Read a model of fastai's from a file, folder or address."""
    source = options.source
    if BACKWARD.search(Path(source).name):
        terminal.warn(
            f"{source}: by its name it was trained on texts read backwards, and ulmfit_fast reads "
            "them forwards only: its perplexity will be that of an untrained model at first"
        )
    if is_address(source):
        cache = cache_folder(None)
        if cache is None:
            raise InputError(f"{source}: there is no cache folder to keep it in; fetch the file")
        with _fetching(source) as progress:
            path = download(source, cache / "models", progress)
    else:
        path = path_of(source)
    labels = options.labels.split(",") if options.labels else None
    return load_fastai(path, vocab=options.vocab, labels=labels, encoder_only=options.encoder_only)


@contextmanager
def _fetching(address: str) -> Iterator[Progress]:
    """Show on standard error how much of a file is there: on a terminal, and in one line."""
    is_shown = False

    def tell(n_done: int, n_all: int) -> None:
        nonlocal is_shown
        if sys.stderr.isatty():
            is_shown, of_all = True, f" of {n_all / 1e6:,.0f}" if n_all else ""
            sys.stderr.write(f"\rfetched {n_done / 1e6:,.0f}{of_all} MB of {printable(address)}")
            sys.stderr.flush()

    try:
        yield tell
    finally:
        if is_shown:
            sys.stderr.write("\n")


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
