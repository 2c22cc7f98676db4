"""Files of fastai's, of every era: real ones of v2, and 0.7's and v1's by their recorded layout."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

E, H, V, C = 8, 16, 40, 3
V2 = ["xxunk", "xxpad", "xxbos", "xxeos", "xxfld", "xxrep", "xxwrep", "xxup", "xxmaj"]
V1 = ["xxunk", "xxpad", "xxbos", "xxeos", "xxfld", "xxmaj", "xxup", "xxrep", "xxwrep"]
V07 = ["_unk_", "_pad_", "the", "xbos", "xfld", "t_up", "tk_rep"]


def vocab_of(specials: list[str], n: int = V) -> list[str]:
    """Return a vocabulary of n tokens."""
    return [*specials, *(f"word{i}" for i in range(n - len(specials)))]


def layer_tensors(n_in: int, n_out: int) -> dict[str, Tensor]:
    """Draw the weights of an LSTM layer, under torch's names."""
    return {
        "weight_ih_l0": torch.randn(4 * n_out, n_in) / 4,
        "bias_ih_l0": torch.randn(4 * n_out) / 4,
        "bias_hh_l0": torch.randn(4 * n_out) / 4,
        "weight_hh_l0": torch.randn(4 * n_out, n_out) / 4,
    }


def old_language_model(era: str, n_hidden: int = H) -> OrderedDict[str, Tensor]:
    """Return a state dict as fastai 0.7 or v1 wrote it: names and order of the spec."""
    torch.manual_seed(5)
    embedding = torch.randn(V, E)
    state: OrderedDict[str, Tensor] = OrderedDict()
    alias = "0.encoder_with_dropout.embed.weight" if era == "0.7" else "0.encoder_dp.emb.weight"
    state["0.encoder.weight"] = embedding
    state[alias] = embedding.clone()
    for layer, (n_in, n_out) in enumerate([(E, n_hidden), (n_hidden, n_hidden), (n_hidden, E)]):
        drawn = layer_tensors(n_in, n_out)
        at = f"0.rnns.{layer}."
        raw = drawn.pop("weight_hh_l0")
        if era == "v1":
            state[f"{at}weight_hh_l0_raw"] = raw
        for part, tensor in drawn.items():
            state[f"{at}module.{part}"] = tensor
        if era == "0.7":
            state[f"{at}module.weight_hh_l0_raw"] = raw
        else:
            state[f"{at}module.weight_hh_l0"] = raw * 0  # what the last call had dropped
    state["1.decoder.weight"] = embedding.clone()
    if era == "v1":
        state["1.decoder.bias"] = torch.randn(V)
    return state


def old_classifier(era: str) -> OrderedDict[str, Tensor]:
    """Return a classifier's state dict as fastai 0.7 or v1 wrote it, biases in its head."""
    of_lm = old_language_model(era)
    state: OrderedDict[str, Tensor] = OrderedDict()
    prefix = "0." if era == "0.7" else "0.module."
    for key, tensor in of_lm.items():
        if not key.startswith("1."):
            state[prefix + key.removeprefix("0.")] = tensor
    names = (
        [("1.layers.0.lin", "1.layers.0.bn"), ("1.layers.1.lin", "1.layers.1.bn")]
        if era == "0.7"
        else [("1.layers.2", "1.layers.0"), ("1.layers.6", "1.layers.4")]
    )
    for (linear, norm), (n_in, n_out) in zip(names, [(3 * E, 5), (5, C)], strict=True):
        state[f"{linear}.weight"] = torch.randn(n_out, n_in) / n_in**0.5
        state[f"{linear}.bias"] = torch.randn(n_out)
        state[f"{norm}.weight"] = 1 + torch.rand(n_in)
        state[f"{norm}.bias"] = torch.randn(n_in)
        state[f"{norm}.running_mean"] = torch.randn(n_in)
        state[f"{norm}.running_var"] = 1 + torch.rand(n_in)
        if era != "0.7":
            state[f"{norm}.num_batches_tracked"] = torch.tensor(7)
    return state


def write_pair(folder: Path, state: Any, vocab: Any, name: str = "lm.pth") -> Path:
    """Write a model and its vocabulary as fastai does; return the model's file."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / name)
    (folder / "itos.pkl").write_bytes(pickle.dumps(vocab))
    return folder / name
