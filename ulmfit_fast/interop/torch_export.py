"""Models to torch.export's .pt2: a graph for AOTInductor and other back ends of torch.

    classifier       (ids [B, T] int64, lengths [B] int64) -> logits [B, C]
    language model   (ids [B, T] int64, state) -> logits [B, T, V], state

state is a list with (h, c) per layer, each [B, H]. The graph calls our op: import
ulmfit_fast.functional before torch.export.load.
"""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ulmfit_fast import functional  # noqa: F401  (registers the op that the graph calls)
from ulmfit_fast.errors import InputError
from ulmfit_fast.interop.export_check import ExportCheck, check_documents, compare, require_near
from ulmfit_fast.interop.export_files import (
    KEY,
    Model,
    check_place,
    new_files,
    read_description,
    to_export,
)
from ulmfit_fast.interop.exportable import exportable
from ulmfit_fast.training.trainer import ULMFiTTrainer


def export_program(
    source: ULMFiTTrainer | Model,
    path: str | Path,
    *,
    overwrite: bool = False,
    texts: Sequence[str] = (),
    kind: str | None = None,
) -> ExportCheck:
    """Write a model as a torch.export program, once what is read back computes the same.

    Args:
        source: a trainer, or a model of ours, which has no tokenizer and no names of classes.
        path: file that ends in .pt2; the tokenizer becomes NAME.tokenizer.json.
        overwrite: whether files may stand there.
        texts: documents to check with; none draws some of 1 to max_len and more tokens.
        kind: of a trainer, "classifier" or "language_model"; None takes the classifier where there
            is one.

    Returns:
        check: how near the program comes to the model.

    Raises:
        InputError: no such model or place, or the program differs from the model; nothing is
            written then.
        OSError: the disk refuses.
    """
    path = Path(path)
    check_place(path, ".pt2", overwrite=overwrite)
    exported = to_export(source, kind)
    documents = check_documents(exported, texts)
    graph = exportable(exported.model)
    program = torch.export.export(graph.module, graph.inputs, dynamic_shapes=graph.dynamic_shapes)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # names files of this machine
    description = exported.description(
        path, precision="fp32", exporter=f"torch {torch.__version__}"
    )
    with new_files(path, exported.tokenizer) as part:
        torch.export.save(program, str(part), extra_files={KEY: json.dumps(description)})
        module, _ = load_program(part)
        check = compare(module, exported.model, None, documents)
        require_near(check, str(path))
    return check


def load_program(path: str | Path) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Read a file that export_program wrote.

    Args:
        path: the file.

    Returns:
        module: takes and returns what the top of this file says.
        description: kind, labels, tokenizer and sizes.

    Raises:
        InputError: no such file, or not one that we exported.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; give one that ulmfit-fast export wrote")
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path}: not a .pt2 file, or cut off; export it again")
    extra = {KEY: ""}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of torch's own tree specs
            program = torch.export.load(str(path), extra_files=extra)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: torch cannot load it ({reason}); export it again") from error
    return program.module(), read_description(extra[KEY], path)
