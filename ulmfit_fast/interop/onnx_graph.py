"""From a traced model to an ONNX graph: one LSTM node a layer, nothing of the machine it ran on.

    traced graph -> (translation of our op) -> constants folded -> sizes named -> weights stored

The LSTM operator has its gates in the order i, o, f, c where torch has i, f, g, o.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxscript import opset18, optimizer

from ulmfit_fast.interop.exportable import Exportable

op: Any = opset18  # its annotations know the types of tensors, not those of traced values
#: Runs on every onnxruntime since 1.14 (2023); nothing here needs a newer one.
OPSET = 18
#: ONNX's gates i, o, f, c by their places in torch's i, f, g, o.
GATES = (0, 3, 1, 2)
#: Tensors with fewer elements stay float32.
SMALLEST_IN_BF16 = 4096
#: Constants of any size are folded: what is computed from weights alone is computed here, once.
ANY_SIZE = 1 << 40


def onnx_model(graph: Exportable) -> onnx.ModelProto:
    """Trace a module and return it as an ONNX model with float32 weights, batch and length free."""
    program = torch.export.export(graph.module, graph.inputs, dynamic_shapes=graph.dynamic_shapes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own use of its tree specs
        traced = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            custom_translation_table={torch.ops.ulmfit_fast.lstm_forward.default: _lstm_forward},
            input_names=graph.input_names,
            output_names=graph.output_names,
            verbose=False,
        )
    if traced is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    model: onnx.ModelProto = optimizer.optimize(
        traced.model_proto, input_size_limit=ANY_SIZE, output_size_limit=ANY_SIZE
    )
    _forget_the_trace(model)
    _name_sizes(model.graph, ("batch", "length"))
    return model


def _lstm_forward(
    x: Any,
    w_ih: Any,
    w_hh: Any,
    bias: Any,
    h0: Any,
    c0: Any,
    lengths: Any = None,
    seed: Any = None,
    drop_p: float = 0.0,
    reverse: bool = False,
    save: bool = False,
) -> tuple[Any, ...]:
    """Translate ulmfit_fast::lstm_forward, as a model in eval() calls it, to one LSTM node."""
    if seed is not None or drop_p or reverse or save:
        raise ValueError("lstm_forward: only the forward direction without dropping is exported")
    first, second = op.Constant(value_ints=[0]), op.Constant(value_ints=[1])
    b_ih = _onnx_gates(bias)
    b_hh = op.Mul(b_ih, op.Constant(value_float=0.0))
    y, h, c = op.LSTM(
        x, _onnx_gates(w_ih), _onnx_gates(w_hh), op.Concat(b_ih, b_hh, axis=1),
        None if lengths is None else op.Cast(lengths, to=TensorProto.INT32),
        op.Unsqueeze(h0, first), op.Unsqueeze(c0, first), hidden_size=int(w_hh.shape[1]),
    )  # fmt: skip
    nothing = op.Constant(value_float=0.0)  # what the op saves for a backward pass
    return op.Squeeze(y, second), op.Squeeze(h, first), op.Squeeze(c, first), nothing, nothing


def _onnx_gates(weight: Any) -> Any:
    """Return [4H, ...] in torch's order as [1, 4H, ...] in ONNX's."""
    n_units = int(weight.shape[0]) // 4
    rows = np.arange(4 * n_units).reshape(4, n_units)[list(GATES)].flatten().tolist()
    ordered = op.Gather(weight, op.Constant(value_ints=rows), axis=0)
    return op.Unsqueeze(ordered, op.Constant(value_ints=[0]))


def _forget_the_trace(model: onnx.ModelProto) -> None:
    """Remove what the tracer noted: file names of this machine, and shapes between the nodes."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    graph.ClearField("value_info")


def _name_sizes(graph: onnx.GraphProto, names: tuple[str, ...]) -> None:
    """Give the sizes of ids [batch, length] their names wherever they stand."""
    dims = graph.input[0].type.tensor_type.shape.dim
    name_of = {dim.dim_param: name for dim, name in zip(dims, names, strict=True)}
    for value in (*graph.input, *graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in name_of:
                dim.dim_param = name_of[dim.dim_param]


def store_in_bf16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model whose large weights are bfloat16 in the file, each behind a Cast to float32.

    onnxruntime has no bfloat16 LSTM on the CPU; it casts once, while it loads. Only tensors that
    lose nothing are stored so: those of a model whose weights were rounded before.
    """
    model = copy.deepcopy(model)
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < SMALLEST_IN_BF16:
            continue
        values = torch.from_numpy(numpy_helper.to_array(tensor).copy())
        rounded = values.to(torch.bfloat16)
        if not torch.equal(rounded.float(), values):
            continue
        name = tensor.name
        stored = helper.make_tensor(
            f"{name}.bf16", TensorProto.BFLOAT16, tensor.dims,
            rounded.view(torch.int16).numpy().tobytes(), raw=True,
        )  # fmt: skip
        tensor.CopyFrom(stored)
        casts.append(helper.make_node("Cast", [stored.name], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    model.graph.ClearField("node")
    model.graph.node.extend(nodes)
    return model
