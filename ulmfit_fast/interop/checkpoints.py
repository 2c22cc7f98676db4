"""fastai's files to a trainer, and a trainer to fastai's files."""

from __future__ import annotations

import io
import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError  # the exception alone; torch reads, without running anything
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ulmfit_fast.errors import InputError
from ulmfit_fast.interop.archives import MODEL_SUFFIXES, VOCAB_SUFFIXES, is_archive, read_archive
from ulmfit_fast.interop.layouts import FastaiModel, from_fastai, to_fastai
from ulmfit_fast.interop.vocab_pickle import check_vocab, read_vocab_pickle, vocab_pickle
from ulmfit_fast.model import AWDLSTMConfig, Dropouts, LanguageModel, TextClassifier
from ulmfit_fast.text.rules import BOS, EOS, FLD, MAJ, PAD, REP, UNK, UP, WREP
from ulmfit_fast.text.tokenizer import WordTokenizer
from ulmfit_fast.text.vocab import pad_vocab
from ulmfit_fast.training.config import TrainConfig
from ulmfit_fast.training.sizes import SIZES
from ulmfit_fast.training.trainer import ULMFiTTrainer
from ulmfit_fast.training.transfer import transfer_rows

#: Special tokens of fastai 0.7 by the name that they have now.
OLD_NAMES = {
    "_unk_": UNK, "_pad_": PAD, "_bos_": BOS, "xbos": BOS, "_eos_": EOS, "xfld": FLD,
    "tk_rep": REP, "tk_wrep": WREP, "t_up": UP, "tk_maj": MAJ,
}  # fmt: skip
FIRST = (UNK, PAD, BOS)
DAMAGED = (RuntimeError, EOFError, KeyError, ValueError, TypeError, AttributeError, IndexError)


def load_fastai(
    source: Path, *, vocab: Path | None = None, labels: Sequence[str] | None = None
) -> ULMFiTTrainer:
    """Read a language model, encoder or classifier that fastai 0.7, v1 or v2 saved.

    Args:
        source: a .pth or .h5 file, an archive (.tgz) with its vocabulary, or a folder with one
            file of each.
        vocab: file of the vocabulary (.pkl, or .json: a list of tokens); None finds the only one
            beside the model.
        labels: names of a classifier's classes; None names them 0, 1, ...

    Returns:
        trainer: on the CPU; an encoder becomes a language model without the decoder's bias.

    Raises:
        InputError: a file is missing, damaged, would run code, or does not fit the others.
    """
    if is_archive(source.name):
        archive = read_archive(source)
        state = read_weights(archive.model, archive.model_name)
        tokens = read_vocab_pickle(archive.vocab, archive.vocab_name)
        return build_trainer(from_fastai(state, source), tokens, labels, source)
    if source.is_dir():
        source = _only(source, MODEL_SUFFIXES)
    if not source.is_file():
        raise InputError(f"{source}: no such file")
    state = read_weights(source.read_bytes(), source)
    model = from_fastai(state, source)
    found = vocab or _only(source.parent, VOCAB_SUFFIXES, f"{source}: name its vocabulary: ")
    return build_trainer(model, read_vocab(found), labels, source)


def read_weights(data: bytes, name: object) -> dict[str, Tensor]:
    """Read the state dict of a .pth or .h5 file; nothing in it is run.

    Raises:
        InputError: it is damaged, holds other things than tensors, or would run code.
    """
    # What fastai's optimizer leaves beside the model: numbers of numpy, which hold no code.
    numbers = [np.dtype, np.dtypes.Float64DType, np.dtypes.Float32DType, np.dtypes.Int64DType]
    scalar: Callable[..., Any] = np._core.multiarray.scalar  # type: ignore[attr-defined]
    old = (scalar, "numpy.core.multiarray.scalar")
    try:
        with torch.serialization.safe_globals([*numbers, scalar, old]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other protocols of pickle: all are read alike
            found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise InputError(
            f"{name}: holds more than tensors, or is damaged; nothing in it was run. Save it again "
            "with learn.save(..., with_opt=False), or learn.save_encoder"
        ) from error
    except DAMAGED as error:
        raise InputError(
            f"{name}: damaged or cut short, torch cannot read it; get it again"
        ) from error
    if isinstance(found, Mapping) and isinstance(found.get("model"), Mapping):
        found = found["model"]
    if not isinstance(found, Mapping) or not found:
        raise InputError(f"{name}: expected the tensors of a model, found {type(found).__name__}")
    for key, value in found.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise InputError(f"{name}: {key}: expected a tensor, found {type(value).__name__}")
    return dict(found)


def read_vocab(path: Path) -> list[str]:
    """Read a vocabulary: a pickled list of tokens, or a list in JSON."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the vocabulary that belongs to the model")
    data = path.read_bytes()
    if path.suffix != ".json":
        return read_vocab_pickle(data, path)
    try:
        return check_vocab(json.loads(data), path)
    except ValueError as error:
        raise InputError(f"{path}: not a list of tokens in JSON ({error})") from error


def build_trainer(
    model: FastaiModel, vocab: Sequence[str], labels: Sequence[str] | None, name: object
) -> ULMFiTTrainer:
    """Return a trainer with fastai's weights, and its vocabulary as our tokenizer's.

    The tokenizer wants xxunk, xxpad and xxbos first and a multiple of 8: rows of an older
    vocabulary move there, and what is added starts at the mean of all.

    Raises:
        InputError: vocabulary or labels do not fit the weights.
    """
    if len(vocab) != model.vocab_size:
        found = f"{len(vocab):,} tokens, but the embedding has {model.vocab_size:,} rows"
        raise InputError(f"{name}: the vocabulary has {found}: give the one it was trained with")
    old = [OLD_NAMES.get(token, token) for token in vocab]
    new = list(vocab) if _fits(vocab) else _rearranged(old)
    tensors = dict(model.tensors)
    if new != list(vocab):
        for key in {"encoder.embedding.weight", "decoder_bias"} & tensors.keys():
            tensors[key] = transfer_rows(tensors[key], old, new)
    config = AWDLSTMConfig(
        len(new), model.embed_size, model.hidden_size, model.n_layers, dropouts=Dropouts()
    )
    settings = TrainConfig.preset("fastai")
    trainer = ULMFiTTrainer(settings, size=_size_of(model), device="cpu")
    trainer.tokenizer = WordTokenizer(new)
    if model.kind == "classifier":
        names = [str(k) for k in range(model.n_classes)] if labels is None else list(labels)
        if len(names) != model.n_classes or len(set(names)) != len(names):
            expected = f"expected {model.n_classes} different names"
            raise InputError(f"{name}: labels: {expected}, found {len(names)}")
        classifier = TextClassifier(
            config, model.n_classes, settings.bptt, settings.max_len, model.head_size
        )
        classifier.load_state_dict(tensors)
        trainer.classifier, trainer.labels = classifier.eval(), names
    else:
        language_model = LanguageModel(config)
        language_model.load_state_dict(tensors)
        trainer.language_model = language_model.eval()
    return trainer


def save_fastai(trainer: ULMFiTTrainer, path: Path) -> tuple[Path, Path]:
    """Write a model as fastai 2.8 saves it: NAME.pth, and its vocabulary as NAME_vocab.pkl.

    `language_model_learner(..., pretrained_fnames=[NAME, NAME_vocab])` takes the pair, `learn.load`
    and `load_encoder` the first. A classifier is written where there is one.

    Args:
        trainer: with a word tokenizer.
        path: of the first file; it gets the ending .pth.

    Returns:
        weights, vocabulary: the files.

    Raises:
        InputError: nothing is trained, or the tokenizer is not fastai's.
    """
    model = trainer.classifier or trainer.language_model
    if model is None or trainer.tokenizer is None:
        raise InputError("nothing to convert: train or load a model first")
    if trainer.tokenizer.kind != "word":
        raise InputError("subword models have no counterpart in fastai: its tokens are words")
    buffer = io.BytesIO()
    torch.save({k: t.detach().cpu() for k, t in _tied(to_fastai(model)).items()}, buffer)
    weights, vocab = fastai_files(path)
    write_whole(vocab, vocab_pickle(trainer.tokenizer.vocab))
    write_whole(weights, buffer.getvalue())
    return weights, vocab


def fastai_files(path: Path) -> tuple[Path, Path]:
    """Return the names of weights and vocabulary that save_fastai writes for a name."""
    weights = path if path.suffix == ".pth" else path.with_name(f"{path.name}.pth")
    return weights, weights.with_name(f"{weights.stem}_vocab.pkl")


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _tied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous tensors; those that share memory still do."""
    made: dict[int, Tensor] = {}
    return {k: made.setdefault(t.data_ptr() or id(t), t.contiguous()) for k, t in state.items()}


def _only(folder: Path, suffixes: tuple[str, ...], hint: str = "") -> Path:
    """Return the only file with one of these endings in a folder."""
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes)
    if len(found) != 1:
        kinds = " or ".join(suffixes)
        raise InputError(f"{hint}{folder}: expected one {kinds} file, found {len(found)}")
    return found[0]


def _fits(vocab: Sequence[str]) -> bool:
    return tuple(vocab[:3]) == FIRST and len(vocab) % 8 == 0


def _rearranged(vocab: Sequence[str]) -> list[str]:
    """Return a vocabulary with xxunk, xxpad and xxbos first, a multiple of 8."""
    rest = [token for token in dict.fromkeys(vocab) if token not in FIRST]
    return pad_vocab([*FIRST, *rest])


def _size_of(model: FastaiModel) -> str:
    """Return the name of the size that a model has; base where it has none of them."""
    sizes = (model.embed_size, model.hidden_size, model.n_layers)
    known = {(s.embed_size, s.hidden_size, s.n_layers): name for name, s in SIZES.items()}
    return known.get(sizes, "base")
