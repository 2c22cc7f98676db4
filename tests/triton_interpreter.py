"""Triton, run by its interpreter on CPU tensors: tests/conftest.py asks for it without a GPU.

Where there is a GPU the tests beside this one compile: the modules that import this are skipped
there unless TRITON_INTERPRET=1 is set.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    reason = "a GPU is here: its tests compile; for these, TRITON_INTERPRET=1 pytest -m interpret"
    pytest.skip(reason, allow_module_level=True)
triton = pytest.importorskip("triton", reason="triton is not installed")
tl = triton.language
interpreter = pytest.importorskip("triton.runtime.interpreter")
cast = interpreter.InterpreterBuilder.cast_impl
multiply = interpreter.InterpreterBuilder.create_dot
patch_lang_tensor = interpreter._patch_lang_tensor


def rounding_cast(self: Any, source: Any, target: Any) -> Any:
    """Convert as compiled kernels do: float32 to bfloat16 by rounding to the nearest, even of two.

    Triton 3.6's interpreter cuts the lower bits off instead.
    """
    if (source.dtype.scalar, target.scalar) != (tl.float32, tl.bfloat16):
        return cast(self, source, target)
    rounded = torch.from_numpy(np.ascontiguousarray(source.data)).bfloat16()
    return interpreter.TensorHandle(rounded.view(torch.int16).numpy().view(np.uint16), tl.bfloat16)


def dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
    """Multiply bfloat16 as numbers; Triton 3.6's interpreter multiplies their bits as integers."""
    return multiply(self, *(widened(self, operand) for operand in (a, b)), *rest)


def widened(builder: Any, operand: Any) -> Any:
    """Return an operand of a product in float32 where it is bfloat16."""
    return cast(builder, operand, tl.float32) if operand.dtype.scalar == tl.bfloat16 else operand


def patch_tensor(tensor: Any, scope: Any) -> None:
    """Let a scalar be a bound of range: NumPy 2.4 makes no number of an array with a dimension."""
    patch_lang_tensor(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))


interpreter.InterpreterBuilder.cast_impl = rounding_cast
interpreter.InterpreterBuilder.create_dot = dot
interpreter._patch_lang_tensor = patch_tensor
#: Marks of a module of such tests. exp may overflow in the kernels: its reciprocal is then 0.
MARKS = [
    pytest.mark.interpret,
    pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:invalid value encountered in divide:RuntimeWarning"),
]
