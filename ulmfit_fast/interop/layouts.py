"""Names of the tensors in fastai's files, of every era, and what they are in our models.

    era   layer N's recurrent weight            alias of the embedding       others
    0.7   rnns.N.module.weight_hh_l0_raw        encoder_with_dropout.embed   no decoder bias
    v1    rnns.N.weight_hh_l0_raw, and a copy   encoder_dp.emb               head has biases
          rnns.N.module.weight_hh_l0
    v2    rnns.N.weight_hh_l0_raw               encoder_dp.emb               head in blocks

Everything stands under "0." in a language model, "0.module." (0.7: "0.") in a classifier, and under
no name in an encoder's file. Tensors are found by name: their order in a file means nothing here,
though fastai's load_pretrained goes by it, so that to_fastai keeps it.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ulmfit_fast.errors import InputError, one_line
from ulmfit_fast.interop.heads import has_dropout, head_of, head_to_fastai
from ulmfit_fast.model import LanguageModel, TextClassifier

Kind = Literal["language_model", "encoder", "classifier"]
PARTS = ("weight_ih_l0", "bias_ih_l0", "bias_hh_l0")
EMBEDDING = re.compile(r"(?P<prefix>(?:0\.(?:module\.)?)?)encoder\.weight")
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
ALIASES = ("encoder_dp.emb.weight", "encoder_with_dropout.embed.weight")


@dataclass(frozen=True)
class FastaiModel:
    """What a file of fastai's holds.

    Attributes:
        kind: an "encoder" is a language model without its decoder's bias.
        tensors: state dict of our model, float32; an encoder's is that of a LanguageModel.
        vocab_size: V.
        embed_size: E.
        hidden_size: H.
        n_layers: LSTM layers.
        n_classes: C of a classifier, else 0.
        head_size: hidden units of a classifier's head, else 0.
        has_dropout: whether a classifier's head has a dropout before its first linear layer.
    """

    kind: Kind
    tensors: dict[str, Tensor]
    vocab_size: int
    embed_size: int
    hidden_size: int
    n_layers: int
    n_classes: int = 0
    head_size: int = 0
    has_dropout: bool = True


def from_fastai(state: Mapping[str, Tensor], name: object) -> FastaiModel:
    """Find our model's tensors in a state dict of fastai's.

    Args:
        state: of an AWD_LSTM language model, classifier or encoder, of 0.7, v1 or v2.
        name: of the file, for messages.

    Raises:
        InputError: tensors are missing, unknown, of the wrong shape, or hold no finite numbers.
    """
    left = dict(state)
    for key, tensor in left.items():
        _check_values(tensor, key, name)
    prefix = _prefix(left, name)
    embedding = _take(left, f"{prefix}encoder.weight", name)
    V, E = _matrix(embedding, f"{prefix}encoder.weight", name)
    for alias in ALIASES:
        _same(left.pop(f"{prefix}{alias}", embedding), embedding, f"{prefix}{alias}", name)
    tensors = {"encoder.embedding.weight": embedding}
    n_layers = _layers(left, prefix, name, tensors)
    H = _check_widths(tensors, E, n_layers, name)
    _same(left.pop("1.decoder.weight", embedding), embedding, "1.decoder.weight", name)
    bias = left.pop("1.decoder.bias", None)
    head = {key: left.pop(key) for key in list(left) if key.startswith("1.layers.")}
    if left:
        key = one_line(next(iter(left)))
        raise InputError(f"{name}: {key}: no part of an AWD_LSTM; give such a model")
    if prefix == "0.module." and not head:
        raise InputError(
            f"{name}: a classifier without its head: take the encoder (--encoder-only)"
        )
    kind: Kind = "classifier" if head else "language_model" if prefix else "encoder"
    n_classes = head_size = 0
    if head:
        of_head, head_size, n_classes = head_of(head, 3 * E, name)
        tensors |= of_head
    else:
        tensors["decoder_bias"] = torch.zeros(V) if bias is None else bias
        if tensors["decoder_bias"].shape != (V,):
            found = list(tensors["decoder_bias"].shape)
            raise InputError(f"{name}: 1.decoder.bias: expected shape [{V}], found {found}")
    floats = {
        key: t.detach().to("cpu", torch.float32) if t.is_floating_point() else t.detach().cpu()
        for key, t in tensors.items()
    }
    return FastaiModel(
        kind, floats, V, E, H, n_layers, n_classes, head_size, not head or has_dropout(head)
    )


def to_fastai(model: LanguageModel | TextClassifier) -> OrderedDict[str, Tensor]:
    """Return the state dict of fastai 2.8 for a model: its names, order and aliases.

    The tied tensors share their memory. The head of a classifier whose config has no output dropout
    gets the names that a learner with drop_mult=0 has.
    """
    ours = model.state_dict()
    is_classifier = isinstance(model, TextClassifier)
    prefix = "0.module." if is_classifier else "0."
    embedding = ours["encoder.embedding.weight"]
    state: OrderedDict[str, Tensor] = OrderedDict()
    state[f"{prefix}encoder.weight"] = embedding
    state[f"{prefix}{ALIASES[0]}"] = embedding
    for layer in range(model.config.n_layers):
        source, target = f"encoder.rnns.{layer}.", f"{prefix}rnns.{layer}."
        state[f"{target}weight_hh_l0_raw"] = ours[f"{source}weight_hh_l0"]
        for part in PARTS:
            state[f"{target}module.{part}"] = ours[f"{source}{part}"]
    if is_classifier:
        state.update(head_to_fastai(ours, with_dropout=model.config.dropouts.output > 0))
    else:
        state["1.decoder.weight"] = embedding
        state["1.decoder.bias"] = ours["decoder_bias"]
    return state


def encoder_state(state: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
    """Return what save_encoder would have written of a model: no head, no decoder, no prefix."""
    names = ((key, re.sub(r"^0\.(module\.)?", "", key)) for key in state)
    return OrderedDict((new, state[old]) for old, new in names if not old.startswith("1."))


def _check_values(tensor: Tensor, key: str, name: object) -> None:
    """Raise InputError unless a tensor holds all of its values, and these are finite numbers."""
    what = f"{name}: {one_line(key)}"
    is_plain = tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_nested
    if not is_plain or tensor.is_meta:
        raise InputError(f"{what}: expected a dense tensor with its values; save the model again")
    if tensor.dtype not in DTYPES and not key.endswith("num_batches_tracked"):
        raise InputError(f"{what}: expected floating-point numbers, found {tensor.dtype}")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise InputError(f"{what}: {tensor.numel():,} values are claimed, fewer stored; refused")
    if not torch.isfinite(tensor).all():
        raise InputError(f"{what}: not all finite: training had failed; take an earlier checkpoint")


def _prefix(state: Mapping[str, Tensor], name: object) -> str:
    for key in state:
        found = EMBEDDING.fullmatch(key)
        if found:
            return found["prefix"]
    raise InputError(f"{name}: no encoder.weight: not a language model, encoder or classifier")


def _layers(left: dict[str, Tensor], prefix: str, name: object, tensors: dict[str, Tensor]) -> int:
    """Take the LSTM layers; return how many there are."""
    layer = 0
    while any(key.startswith(f"{prefix}rnns.{layer}.") for key in left):
        at = f"{prefix}rnns.{layer}."
        old, copy = f"{at}module.weight_hh_l0_raw", f"{at}module.weight_hh_l0"
        raw = left.pop(old) if old in left else _take(left, f"{at}weight_hh_l0_raw", name)
        left.pop(copy, None)  # v1 stores what the last call had dropped
        tensors[f"encoder.rnns.{layer}.weight_hh_l0"] = raw
        for part in PARTS:
            tensors[f"encoder.rnns.{layer}.{part}"] = _take(left, f"{at}module.{part}", name)
        layer += 1
    return layer


def _check_widths(tensors: Mapping[str, Tensor], E: int, n_layers: int, name: object) -> int:
    """Return H; raise InputError unless the layers fit each other."""
    if n_layers < 2:
        raise InputError(f"{name}: found {n_layers} LSTM layers; at least 2 are needed")
    H = _matrix(tensors["encoder.rnns.0.weight_hh_l0"], "rnns.0.weight_hh_l0_raw", name)[1]
    below = E
    for layer in range(n_layers):
        units = H if layer < n_layers - 1 else E
        shapes = {
            "weight_ih_l0": [4 * units, below],
            "weight_hh_l0": [4 * units, units],
            "bias_ih_l0": [4 * units],
            "bias_hh_l0": [4 * units],
        }
        for part, shape in shapes.items():
            found = list(tensors[f"encoder.rnns.{layer}.{part}"].shape)
            if found != shape:
                what = f"rnns.{layer}.{part}: expected shape {shape}, found {found}"
                hint = "a width that fits neither the layers nor the embedding, or swapped names"
                raise InputError(f"{name}: {what}: {hint}")
        below = units
    return H


def _take(left: dict[str, Tensor], key: str, name: object) -> Tensor:
    if key not in left:
        raise InputError(f"{name}: {key} is missing: the file is not whole, or of another model")
    return left.pop(key)


def _matrix(tensor: Tensor, key: str, name: object) -> tuple[int, int]:
    if tensor.dim() != 2 or 0 in tensor.shape:
        raise InputError(f"{name}: {key}: expected a matrix, found shape {list(tensor.shape)}")
    return tensor.shape[0], tensor.shape[1]


def _same(tensor: Tensor, embedding: Tensor, key: str, name: object) -> None:
    if tensor.shape != embedding.shape or not torch.equal(tensor, embedding):
        raise InputError(f"{name}: {key}: differs from the embedding that it is tied to")
