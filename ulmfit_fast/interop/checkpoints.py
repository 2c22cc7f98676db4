"""fastai's files to a trainer, and a trainer to fastai's files."""

from __future__ import annotations

import io
import json
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ulmfit_fast.errors import InputError
from ulmfit_fast.interop.archives import MODEL_SUFFIXES, VOCAB_SUFFIXES, is_archive, read_archive
from ulmfit_fast.interop.layouts import FastaiModel, encoder_state, from_fastai, to_fastai
from ulmfit_fast.interop.vocab_pickle import check_vocab, read_vocab_pickle, vocab_pickle
from ulmfit_fast.interop.weights import read_weights
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
#: Begins the pieces of SentencePiece; more of them than this share are not words.
PIECE, MOST_PIECES = "\u2581", 0.1


def load_fastai(
    source: str | Path,
    *,
    vocab: str | Path | None = None,
    labels: Sequence[str] | None = None,
    encoder_only: bool = False,
) -> ULMFiTTrainer:
    """Read a language model, encoder or classifier that fastai 0.7, v1 or v2 saved.

    Args:
        source: a .pth or .h5 file, an archive (.tgz) with its vocabulary, or a folder with one
            file of each.
        vocab: file of the vocabulary (.pkl, or .json: a list of tokens); None finds the only one
            beside the model.
        labels: names of a classifier's classes; None names them 0, 1, ...
        encoder_only: whether to leave a classifier's head, or a decoder's bias, out.

    Returns:
        trainer: on the CPU; an encoder becomes a language model without the decoder's bias.

    Raises:
        InputError: a file is missing, damaged, would run code, or does not fit the others.
    """
    source, vocab = Path(source), None if vocab is None else Path(vocab)
    if is_archive(source.name):
        archive = read_archive(source)
        state = read_weights(archive.model, archive.model_name)
        tokens = read_vocab_pickle(archive.vocab, archive.vocab_name) if vocab is None else None
    else:
        if source.is_dir():
            source = _only(source, MODEL_SUFFIXES)
        if not source.is_file():
            raise InputError(f"{source}: no such file")
        state, tokens = read_weights(source.read_bytes(), source), None
    model = from_fastai(encoder_state(state) if encoder_only else state, source)
    if tokens is None:
        hint = f"{source}: name its vocabulary: "
        tokens = read_vocab(vocab or _only(source.parent, VOCAB_SUFFIXES, hint))
    return build_trainer(model, tokens, labels, source)


def read_vocab(path: Path) -> list[str]:
    """Read a vocabulary: a pickled list of tokens, or a list in JSON."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the vocabulary that belongs to the model")
    data = path.read_bytes()
    if path.suffix != ".json":
        return read_vocab_pickle(data, path)
    try:
        return check_vocab(json.loads(data), path)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
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
    if sum(token.startswith(PIECE) for token in vocab) > MOST_PIECES * len(vocab):
        raise InputError(f"{name}: a vocabulary of SentencePiece; only models of words are read")
    old = [OLD_NAMES.get(token, token) for token in vocab]
    if old[:2] != [UNK, PAD]:
        found = f"begins with {list(vocab[:2])}, and fastai's with {UNK} and {PAD}"
        raise InputError(f"{name}: the vocabulary {found}: give the one it was trained with")
    new = list(vocab) if _fits(vocab) else _rearranged(old)
    tensors = dict(model.tensors)
    if new != list(vocab):
        for key in {"encoder.embedding.weight", "decoder_bias"} & tensors.keys():
            tensors[key] = transfer_rows(tensors[key], old, new)
    dropouts = Dropouts() if model.has_dropout else Dropouts(output=0.0)
    config = AWDLSTMConfig(
        len(new), model.embed_size, model.hidden_size, model.n_layers, dropouts=dropouts
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


def fastai_files(path: Path) -> tuple[Path, Path]:
    """Return the files that save_fastai writes: NAME.pth and NAME_vocab.pkl."""
    name = path.name.removesuffix(".pth")
    if not name:
        raise InputError(f"{path}: names no file; give a name such as models/general")
    return path.with_name(f"{name}.pth"), path.with_name(f"{name}_vocab.pkl")


def save_fastai(
    trainer: ULMFiTTrainer, path: Path, *, encoder_only: bool = False
) -> tuple[Path, Path]:
    """Write a model as fastai 2.8 saves it: NAME.pth, and its vocabulary as NAME_vocab.pkl.

    `language_model_learner(..., pretrained_fnames=[NAME, NAME_vocab])` takes the pair, `learn.load`
    the first, and `learn.load_encoder` the first with encoder_only; these two want the vocabulary
    to be the learner's. A classifier is written where there is one.

    Args:
        trainer: with a word tokenizer.
        path: NAME, with or without .pth.
        encoder_only: whether to write what fastai's save_encoder does.

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
    weights, vocab = fastai_files(path)
    state = to_fastai(model)
    buffer = io.BytesIO()
    torch.save(_tied(encoder_state(state) if encoder_only else state), buffer)
    weights.parent.mkdir(parents=True, exist_ok=True)
    write_whole(vocab, vocab_pickle(trainer.tokenizer.vocab))
    write_whole(weights, buffer.getvalue())
    return weights, vocab


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


def _tied(state: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
    """Return contiguous tensors on the CPU; those that share memory still do."""
    made: dict[int, Tensor] = {}
    tied: OrderedDict[str, Tensor] = OrderedDict()
    for key, tensor in state.items():
        place = tensor.data_ptr()
        if place not in made:
            made[place] = tensor.detach().cpu().contiguous()
        tied[key] = made[place]
    return tied


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
