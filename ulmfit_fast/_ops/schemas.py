"""The schema of every op; what the arguments and results mean stands in reference/."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import torch
from torch import Tensor

SCHEMAS = {
    "activation_regularization": (
        "(Tensor x, float drop_p, Tensor? seed, float alpha, float beta) -> (Tensor, Tensor)"
    ),
    "activation_regularization_backward": (
        "(Tensor d_dropped, Tensor d_penalty, Tensor x, float drop_p, Tensor? seed, float alpha, "
        "float beta) -> Tensor"
    ),
    "concat_pool": "(Tensor output, Tensor start, Tensor end) -> (Tensor, Tensor)",
    "concat_pool_backward": (
        "(Tensor grad, Tensor argmax, Tensor start, Tensor end, SymInt n_positions) -> Tensor"
    ),
    "embedding_dropout": (
        "(Tensor ids, Tensor weight, float drop_p, Tensor? seed, int? padding_idx) -> Tensor"
    ),
    "embedding_dropout_backward": (
        "(Tensor grad, Tensor ids, SymInt n_rows, float drop_p, Tensor? seed, int? padding_idx) "
        "-> Tensor"
    ),
    "linear_cross_entropy_forward": (
        "(Tensor hidden, Tensor weight, Tensor? bias, Tensor targets, int ignore_index, "
        "float label_smoothing, str reduction, bool need_dx, bool need_dw) "
        "-> (Tensor, Tensor, Tensor, Tensor, Tensor)"
    ),
    "linear_cross_entropy_backward": (
        "(Tensor grad, Tensor hidden, Tensor weight, Tensor? bias, Tensor targets, Tensor lse, "
        "int ignore_index, float label_smoothing, str reduction, bool need_dx, bool need_dw) "
        "-> (Tensor, Tensor, Tensor)"
    ),
    "variational_dropout": "(Tensor x, float drop_p, Tensor seed) -> Tensor",
    "drop_connect": "(Tensor weight, float drop_p, Tensor seed) -> Tensor",
    "lstm_forward": (
        "(Tensor x, Tensor w_ih, Tensor w_hh, Tensor? bias, Tensor h0, Tensor c0, "
        "Tensor? lengths, Tensor? seed, float drop_p, bool reverse, bool save) "
        "-> (Tensor, Tensor, Tensor, Tensor, Tensor)"
    ),
    "lstm_chunks_forward": (
        "(Tensor x, Tensor w_ih, Tensor w_hh, Tensor? bias, Tensor h0, Tensor c0, int[] rows, "
        "Tensor? seed, float drop_p, bool save) "
        "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
    ),
    "lstm_backward": (
        "(Tensor dy, Tensor dh_n, Tensor dc_n, Tensor x, Tensor w_ih, Tensor w_hh, Tensor h0, "
        "Tensor c0, Tensor y, Tensor c, Tensor gates, Tensor? lengths, Tensor? seed, "
        "float drop_p, bool reverse, bool need_dx, bool need_dw) "
        "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
    ),
    "layerwise_adamw_": (
        "(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avgs, Tensor(c!)[] exp_avg_sqs, "
        "Tensor(d!)[] steps, Tensor(e!)[] shadows, Tensor(f!)[] averages, "
        "Tensor(g!)[] n_averaged, Tensor(h!) grad_norm, Tensor(i!) skipped_steps, "
        "Tensor(j!) ticket, Tensor layers, int[] layer_of, Tensor? grad_scale, "
        "Tensor? found_inf, float? max_grad_norm, bool skip_nonfinite, float average_weight) "
        "-> ()"
    ),
}

for _name, _schema in SCHEMAS.items():
    torch.library.define(f"ulmfit_fast::{_name}", _schema, tags=torch.Tag.pt2_compliant_tag)

#: The optimizer's table of layers stays on the CPU, wherever the parameters are.
ANYWHERE = ("layers",)


def register_fake(op: str, fake: Callable[..., Any]) -> None:
    """Register what an op gives for tensors without values, if none of its tensors has some.

    PyTorch asks the fake of a call with a single meta tensor, too: it would return memory that
    nobody wrote, or leave out a step that was to be taken.

    Args:
        op: name without the namespace.
        fake: makes the results.
    """
    names = names_of(op)
    needed = [name for name in names if f"Tensor {name}" in SCHEMAS[op]]

    @wraps(fake)
    def checked(*arguments: Any, **keywords: Any) -> Any:
        of_name = {**dict(zip(names, arguments, strict=False)), **keywords}
        kinds = {
            tensor.device.type: name
            for name, value in of_name.items()
            if name not in ANYWHERE
            for tensor in _tensors_of(value)
        }
        for name in needed:
            if of_name.get(name) is None:
                raise TypeError(f"{op}: {name}: expected a tensor, found None")
        if "meta" in kinds and len(kinds) > 1:
            other = next(kind for kind in kinds if kind != "meta")
            raise RuntimeError(
                f"{op}: {kinds['meta']} is on meta, without values, and {kinds[other]} on {other}; "
                "move all tensors to one device"
            )
        return fake(*arguments, **keywords)

    torch.library.register_fake(f"ulmfit_fast::{op}", checked)


def names_of(op: str) -> list[str]:
    """Return the names of an op's arguments, in order."""
    return [part.split()[-1] for part in SCHEMAS[op].rpartition(" -> ")[0][1:-1].split(", ")]


def _tensors_of(value: Any) -> Iterator[Tensor]:
    for each in value if isinstance(value, list | tuple) else (value,):
        if isinstance(each, Tensor):
            yield each
