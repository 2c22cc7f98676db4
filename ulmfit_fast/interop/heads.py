"""Heads of fastai's classifiers: batch norm, linear, ReLU, batch norm, linear.

v2 has blocks (1.layers.0.0, 1.layers.0.2), v1 a flat row (1.layers.0, .2, .4, .6), 0.7 blocks with
names (1.layers.0.bn, 1.layers.0.lin). A dropout of 0 is left out in v1 and v2, and moves the number
of the linear layer behind it, so that modules are told by what they hold.

Ours, like v2's, has no biases in its linear layers. Older ones do: W (b' + x) = W x + b for any
b' with W b' = b, so that b' is added to the bias of the batch norm in front.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor

from ulmfit_fast.errors import InputError

NORM_PARTS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
#: Places of our head's modules: the two batch norms and the two linear layers.
NORMS, LINEARS = (0, 4), (2, 6)
#: Their places in fastai 2.8, in its order.
FASTAI_NAMES = {0: "1.layers.0.0", 2: "1.layers.0.2", 4: "1.layers.1.0", 6: "1.layers.1.2"}
WITHOUT_DROPOUT = {**FASTAI_NAMES, 2: "1.layers.0.1"}


def head_of(
    head: Mapping[str, Tensor], pooled_size: int, name: object
) -> tuple[dict[str, Tensor], int, int]:
    """Find our head's tensors in fastai's.

    Args:
        head: all tensors under 1.layers.
        pooled_size: features that go in, 3E.
        name: of the file, for messages.

    Returns:
        tensors: of our head.
        hidden_size: units of its hidden layer.
        n_classes: C.

    Raises:
        InputError: it is no head of two layers with these sizes.
    """
    modules: dict[str, dict[str, Tensor]] = {}
    for key, tensor in head.items():
        module, _, part = key.rpartition(".")
        modules.setdefault(module, {})[part] = tensor
    # In the order of their numbers; 0.7's block runs bn before lin.
    ordered = [modules[m] for m in sorted(modules, key=lambda m: (_numbers(m), "lin" in m))]
    norms = [module for module in ordered if "running_mean" in module]
    linears = [module for module in ordered if "running_mean" not in module]
    if len(norms) != 2 or len(linears) != 2 or any("weight" not in m for m in linears):
        found = f"found {len(norms)} batch norms and {len(linears)} linear layers"
        raise InputError(f"{name}: head: expected two blocks of both, {found}")
    if any(linear["weight"].dim() != 2 for linear in linears):
        raise InputError(f"{name}: head: expected matrices in its linear layers")
    hidden_size, n_classes = linears[0]["weight"].shape[0], linears[1]["weight"].shape[0]
    sizes = (pooled_size, hidden_size), (hidden_size, n_classes)
    tensors: dict[str, Tensor] = {}
    places = zip(NORMS, LINEARS, norms, linears, sizes, strict=True)
    for norm_at, linear_at, norm, linear, (n_in, n_out) in places:
        if list(linear["weight"].shape) != [n_out, n_in] or norm["running_mean"].shape != (n_in,):
            found = f"{list(linear['weight'].shape)} behind {list(norm['running_mean'].shape)}"
            raise InputError(f"{name}: head: expected a layer of [{n_out}, {n_in}], found {found}")
        counted = {"num_batches_tracked": torch.tensor(0), **norm}
        for part in NORM_PARTS:
            shape = (n_in,) if part != "num_batches_tracked" else ()
            if part not in counted or counted[part].shape != shape:
                found = str(list(counted[part].shape)) if part in counted else "none"
                expected = f"expected {part} of shape {list(shape)}, found {found}"
                raise InputError(f"{name}: head: batch norm: {expected}")
            tensors[f"head.{norm_at}.{part}"] = counted[part]
        tensors[f"head.{linear_at}.weight"] = linear["weight"]
        if "bias" in linear:
            if linear["bias"].shape != (n_out,):
                found = str(list(linear["bias"].shape))
                raise InputError(f"{name}: head: expected a bias of [{n_out}], found {found}")
            bias = _behind_the_norm(linear["weight"], linear["bias"], name)
            tensors[f"head.{norm_at}.bias"] = counted["bias"] + bias
    return tensors, hidden_size, n_classes


def has_dropout(head: Mapping[str, Tensor]) -> bool:
    """Say whether a dropout stands before the first linear layer; 0.7's names do not tell."""
    return not any(key in head for key in ("1.layers.0.1.weight", "1.layers.1.weight"))


def head_to_fastai(ours: Mapping[str, Tensor], *, with_dropout: bool) -> OrderedDict[str, Tensor]:
    """Return the tensors of our head under fastai 2.8's names, in its order."""
    state: OrderedDict[str, Tensor] = OrderedDict()
    for place, name in (FASTAI_NAMES if with_dropout else WITHOUT_DROPOUT).items():
        for part in NORM_PARTS if place in NORMS else ("weight",):
            state[f"{name}.{part}"] = ours[f"head.{place}.{part}"]
    return state


def _numbers(module: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", module)]


def _behind_the_norm(weight: Tensor, bias: Tensor, name: object) -> Tensor:
    """Return the shortest b' with weight b' = bias."""
    W, b = weight.double(), bias.double()
    found: Tensor = torch.linalg.lstsq(W, b.unsqueeze(1), driver="gelsd").solution.squeeze(1)
    if not torch.allclose(W @ found, b, rtol=1e-6, atol=1e-9 + 1e-6 * float(b.abs().max())):
        raise InputError(
            f"{name}: head: a bias that no batch norm can hold; take the encoder (--encoder-only)"
        )
    return found.to(weight.dtype)
