"""Models to packed folders of their own format, held against the model before they are written."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

from ulmfit_fast.errors import InputError
from ulmfit_fast.interop.export_check import ExportCheck, check_documents, compare, require_near
from ulmfit_fast.interop.export_files import to_export
from ulmfit_fast.training.packing import pack, unpack
from ulmfit_fast.training.trainer import ULMFiTTrainer


def export_packed(
    trainer: ULMFiTTrainer,
    path: str | Path,
    *,
    packing: str = "int8",
    overwrite: bool = False,
    texts: Sequence[str] = (),
) -> ExportCheck:
    """Write a model as a packed folder, once the rounded weights compute nearly the same.

    Args:
        trainer: its classifier, or its language model where it has no classifier.
        path: the folder.
        packing: "int8" or "bf16".
        overwrite: whether something may stand there: a model.
        texts: documents to check with; none draws some.

    Returns:
        check: how near the folder comes to the model.

    Raises:
        InputError: no model, or one that cannot be packed, or the place is taken, or the rounded
            model differs from the model; nothing is written then.
        OSError: the disk refuses.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise InputError(f"{path}: exists; give another name, or replace it: --overwrite")
    exported = to_export(trainer)
    rounded = copy.deepcopy(exported.model)
    stream, n_bytes = pack(exported.model.state_dict(), packing)
    rounded.load_state_dict(unpack(stream, packing, n_bytes, path))
    check = compare(rounded, exported.model, None, check_documents(exported, texts))
    require_near(check, str(path), int8=True)
    trainer.save(path, overwrite=overwrite, packing=packing)
    return check
