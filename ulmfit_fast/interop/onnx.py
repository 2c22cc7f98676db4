"""Models to ONNX: a file that onnxruntime runs without torch, for any batch and length.

    classifier       ids [B, T] int64, lengths [B] int64 -> logits [B, C]
    language model   ids [B, T] int64, h0, c0, h1, ... each [B, H] -> logits [B, T, V], h0_next, ...

Needs the extra: pip install "ulmfit_fast[onnx]".
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ulmfit_fast.errors import InputError
from ulmfit_fast.interop.export_check import (
    ExportCheck,
    Step,
    check_documents,
    compare,
    require_near,
)
from ulmfit_fast.interop.export_files import (
    KEY,
    Model,
    check_place,
    new_files,
    read_description,
    to_export,
)
from ulmfit_fast.interop.exportable import exportable
from ulmfit_fast.model import EncoderState
from ulmfit_fast.training.trainer import ULMFiTTrainer

try:
    import onnx
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from ulmfit_fast.interop.onnx_graph import OPSET, SMALLEST_IN_BF16, onnx_model, store_in_bf16
except ImportError as error:
    raise ImportError(
        f'ONNX needs onnx, onnxruntime and onnxscript ({error}): pip install "ulmfit_fast[onnx]"'
    ) from error

#: Exceptions of onnxruntime's own for a file that it cannot load.
_LOAD_ERRORS: tuple[type[Exception], ...] = (
    onnxruntime_pybind11_state.Fail,
    onnxruntime_pybind11_state.InvalidArgument,
    onnxruntime_pybind11_state.InvalidGraph,
    onnxruntime_pybind11_state.InvalidProtobuf,
    onnxruntime_pybind11_state.NotImplemented,
    RuntimeError,
    ValueError,
)
#: What a protobuf file can hold.
MOST_BYTES = (1 << 31) - (1 << 20)


def export_onnx(
    source: ULMFiTTrainer | Model,
    path: str | Path,
    *,
    precision: str = "fp32",
    quantize: bool = False,
    overwrite: bool = False,
    texts: Sequence[str] = (),
    kind: str | None = None,
) -> ExportCheck:
    """Write a model as ONNX, with its tokenizer beside it, once onnxruntime computes the same.

    Args:
        source: a trainer, or a model of ours, which has no tokenizer and no names of classes.
        path: file that ends in .onnx; the tokenizer becomes NAME.tokenizer.json.
        precision: of large weights in the file: "fp32", or "bf16", half as large. Products are
            float32 in either.
        quantize: whether weights of the LSTM and the softmax are 8-bit integers, and their
            products too (onnxruntime's dynamic quantisation); embeddings as well, so that bf16
            then saves nothing more.
        overwrite: whether files may stand there.
        texts: documents to check with; none draws some of 1 to max_len and more tokens.
        kind: of a trainer, "classifier" or "language_model"; None takes the classifier where there
            is one.

    Returns:
        check: how near the file comes to the model.

    Raises:
        InputError: no such model, precision or place, or the file differs from the model; nothing
            is written then.
        OSError: the disk refuses.

    Numbers: in float32 within 1e-4 of the model, times its largest logit where that is above 1.
    """
    path = Path(path)
    if precision not in ("fp32", "bf16"):
        raise InputError(f"no precision {precision!r} for ONNX: give fp32 or bf16")
    check_place(path, ".onnx", overwrite=overwrite)
    exported = to_export(source, kind)
    documents = check_documents(exported, texts)
    rounded = rounded_to_bf16(exported.model) if precision == "bf16" else None
    model = onnx_model(exportable(rounded or exported.model))
    if model.ByteSize() > MOST_BYTES:
        raise InputError(f"{path}: the model has more than the 2 GB that an ONNX file can hold")
    description = exported.description(
        path, precision=precision, int8=quantize, opset=OPSET, exporter=f"torch {torch.__version__}"
    )
    with new_files(path, exported.tokenizer) as part:
        if quantize:
            model = _quantized(model, part)
        if precision == "bf16":
            model = store_in_bf16(model)
        _write(model, part, description)
        check = compare(load_step(part), exported.model, rounded, documents)
        require_near(check, str(path), int8=quantize)
    return check


def verify_onnx(
    path: str | Path,
    source: ULMFiTTrainer | Model,
    texts: Sequence[str] = (),
    *,
    kind: str | None = None,
) -> ExportCheck:
    """Compare an exported file with a model.

    Args:
        path: file that export_onnx wrote.
        source: trainer or model that it was made from.
        texts: as for export_onnx.
        kind: as for export_onnx.

    Returns:
        check: how near the file comes to the model.

    Raises:
        InputError: the file cannot be used, or is of a model of another kind or with other sizes.
    """
    path = Path(path)
    exported = to_export(source, kind)
    found = read_onnx_description(path)
    wanted = exported.description(path)
    for name in ("kind", "vocab_size", "hidden_sizes", "tokenizer_fingerprint"):
        if name in wanted and found.get(name, wanted[name]) != wanted[name]:
            raise InputError(f"{path}: made from another model ({name} differs); export it again")
    rounded = rounded_to_bf16(exported.model) if found["precision"] == "bf16" else None
    return compare(load_step(path), exported.model, rounded, check_documents(exported, texts))


def read_onnx_description(path: Path) -> dict[str, Any]:
    """Return what an exported file says of itself.

    Raises:
        InputError: there is no such file, or it was not exported by us.
    """
    properties = _session(path).get_modelmeta().custom_metadata_map
    return read_description(properties.get(KEY), path)


def rounded_to_bf16(model: Model) -> Model:
    """Return a copy whose large weights of encoder and softmax are values of bfloat16."""
    model = copy.deepcopy(model)
    for parameter in model.encoder.parameters():
        if parameter.dim() == 2 and parameter.numel() >= SMALLEST_IN_BF16:
            parameter.copy_(parameter.bfloat16().float())
    return model


def _write(model: onnx.ModelProto, path: Path, description: dict[str, Any]) -> None:
    """Write a model with what it says of itself, and have onnx check the file."""
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, json.dumps(description)
    model.producer_name, model.producer_version = "ulmfit_fast", description["ulmfit_fast"]
    onnx.save(model, path)
    onnx.checker.check_model(str(path), full_check=True)


def _quantized(model: onnx.ModelProto, place: Path) -> onnx.ModelProto:
    """Return a model with 8-bit weights, a scale for each row of a matrix.

    Of the 8 bits 7 are used: sums of products overflow otherwise on processors without VNNI, and
    the file may go there.
    """
    with _quiet():
        quantize_dynamic(
            model, place, weight_type=QuantType.QInt8, per_channel=True, reduce_range=True
        )
    return onnx.load(str(place))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what onnxruntime's quantisation logs away from the terminal, warnings and less."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _session(path: Path) -> onnxruntime.InferenceSession:
    if not path.is_file():
        raise InputError(f"{path}: no such file; give one that ulmfit-fast export wrote")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except _LOAD_ERRORS as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: onnxruntime cannot load it ({reason}); export again") from error


def load_step(path: Path) -> Step:
    """Return one call of a file, in tensors."""
    session = _session(path)
    names = [value.name for value in session.get_inputs()]

    def step(ids: Tensor, second: Tensor | EncoderState) -> Any:
        more = [second] if isinstance(second, Tensor) else [x for pair in second for x in pair]
        arguments = [tensor.contiguous().numpy() for tensor in (ids, *more)]
        results = session.run(None, dict(zip(names, arguments, strict=True)))
        logits, *state = map(torch.from_numpy, results)
        return (logits, list(zip(state[::2], state[1::2], strict=True))) if state else logits

    return step
