"""Tensors out of a .pth or .h5 file of strangers: nothing in it is run."""

from __future__ import annotations

import io
import re
import struct
import warnings
import zipfile
from pickle import UnpicklingError  # the exception alone; torch reads, without running anything
from typing import Any

import torch
from torch import Tensor

from ulmfit_fast.errors import InputError, one_line

DAMAGED = (
    RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError, AssertionError,
    ArithmeticError, MemoryError, struct.error, zipfile.BadZipFile,
)  # fmt: skip


class _OfTheOptimizer:
    """Stands for what fastai's optimizer leaves beside the model: lists, and numbers of numpy.

    Neither library is called: what would describe numpy's types comes from the file, too.
    """

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


_STANDING_FOR = (
    "fastcore.foundation.L", "numpy.dtype", "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
)  # fmt: skip
_KNOWN: list[Any] = [(_OfTheOptimizer, name) for name in _STANDING_FOR]


def read_weights(data: bytes, name: object) -> dict[str, Tensor]:
    """Read the state dict of a .pth or .h5 file.

    Args:
        data: content of the file: an OrderedDict of tensors, alone or as "model" beside "opt".
        name: of the file, for messages.

    Raises:
        InputError: it is damaged, holds other things than tensors, or would run code.
    """
    try:
        _check_sizes(data, name)
        with torch.serialization.safe_globals(_KNOWN), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other protocols of pickle: all are read alike
            found: object = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except InputError:
        raise
    except UnpicklingError as error:
        code = re.search(r"GLOBAL ([\w.]{1,80})", str(error))
        what = f"holds more than tensors ({code[1]})" if code else "holds no tensors, or is damaged"
        raise InputError(
            f"{name}: {what}; nothing in it was run. Save it again with learn.save(..., "
            "with_opt=False), or learn.save_encoder"
        ) from error
    except DAMAGED as error:
        raise InputError(
            f"{name}: damaged or cut short, torch cannot read it; get it again"
        ) from error
    # By dict's own methods: a file may give an OrderedDict attributes of their names.
    if isinstance(found, dict) and isinstance(dict.get(found, "model"), dict):
        found = dict.get(found, "model")
    if not isinstance(found, dict) or not found:
        raise InputError(f"{name}: expected the tensors of a model, found {type(found).__name__}")
    state: dict[str, Tensor] = {}
    pairs: list[tuple[Any, Any]] = list(dict.items(found))
    for key, value in pairs:
        if not isinstance(key, str) or not isinstance(value, Tensor):
            found_type = type(value).__name__
            raise InputError(f"{name}: {one_line(key)}: expected a tensor, found {found_type}")
        state[key] = Tensor.detach(value)  # without attributes, which a file may give it, too
    return state


def _check_sizes(data: bytes, name: object) -> None:
    """Raise InputError for a zip file whose entries together are larger than itself.

    torch stores tensors as they are, one behind the other; only a bomb packs or shares them.
    """
    if data[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > len(data):
                raise InputError(f"{name}: unpacks to more than its size; torch writes none such")
