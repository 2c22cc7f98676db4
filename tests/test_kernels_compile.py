"""Every Triton kernel compiles for NVIDIA and AMD GPUs, without one, as the launchers launch it.

Here Triton runs in its interpreter, which is chosen for a whole process. So this file is also the
program of a child process, which calls the launchers with CPU tensors behind a driver that names a
GPU, compiles what they would launch, launches nothing, and prints what came out.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import adamw_calls
import loss_calls
import pytest
import torch
from conftest import ROOT
from lstm_calls import Case, draw

from ulmfit_fast import kernels
from ulmfit_fast.kernels import (
    activation_regularization,
    concat_pool,
    embedding_dropout,
    layerwise_adamw,
    linear_cross_entropy,
    lstm,
    variational_dropout,
)

TARGETS = {"sm_80": ("cuda", 80, 32), "sm_90": ("cuda", 90, 32), "gfx942": ("hip", "gfx942", 64)}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
#: T and B of the calls of one layer: 1 and multiples of 16 are what Triton likes to make constants.
SIZES = ((1, 1), (3, 2), (16, 16), (17, 48))
#: More than a tile in rows of whole 16 bytes, as H 1152 has; and rows that are not, as H 1150 has.
ALIGNED, ODD = 272, 267
#: See the sums of other kernels only.
OF_SUMS = {"_total_kernel", "_row_gradient_kernel", "_penalty_kernel"}
#: Round what they read beside what they write, or write what they read.
ROUND_OTHERWISE = {"_combine_kernel", "_embedding_dropout_kernel"}

Variant = dict[str, Any]


def call_launchers(T: int, B: int, H: int, dtype: torch.dtype) -> None:
    """Call both launchers with and without all that is optional, at two chances."""
    for lengths, bias, drop_p in ((None, True, 0.5), ("some", False, 0.3)):
        call = draw(Case((T, B, 4, H), dtype, lengths=lengths, bias=bias, drop_p=drop_p))
        forward = list(call.forward_arguments())
        y, h_n, c_n, c, gates = lstm.lstm_forward(*forward)
        forward[-2:] = [True, False]
        lstm.lstm_forward(*forward)
        x, w_ih, w_hh, _, h0, c0, *rest = forward[:-2]
        arguments = (y, h_n, c_n, x, w_ih, w_hh, h0, c0, y, c, gates, *rest)
        lstm.lstm_backward(*arguments, False, True, True)
        lstm.lstm_backward(*arguments, True, True, True)


def call_loss(N: int, E: int, dtype: torch.dtype) -> None:
    """Call both launchers of the loss with and without all that is optional."""
    masters = dtype in linear_cross_entropy.FUSED_DTYPES
    for changed in ({"masters": masters, "label_smoothing": 0.1}, {"bias": False}):
        call = loss_calls.draw(loss_calls.Case((N, E, 300), dtype, **changed))
        forward = call.forward_arguments()
        _, lse, *_ = linear_cross_entropy.linear_cross_entropy_forward(*forward)
        linear_cross_entropy.linear_cross_entropy_backward(
            call.cotangent, *forward[:4], lse, *forward[4:7], True, True
        )


def call_layers(T: int, B: int, E: int, dtype: torch.dtype) -> None:
    """Call the launchers of the other layers with and without all that is optional."""
    x, ids = torch.randn(T, B, E).to(dtype), torch.zeros(T, B, dtype=torch.int64)
    table, seed = torch.randn(300, E).to(dtype), torch.tensor([1])
    start = torch.zeros(B, dtype=torch.int64)
    for drop_p, each in ((0.3, seed), (0.0, None)):
        rest = (drop_p, each, 2.0, 1.0)
        _, penalty = activation_regularization.activation_regularization(x, *rest)
        activation_regularization.activation_regularization_backward(x, penalty, x, *rest)
        embedding_dropout.embedding_dropout(ids.t(), table, drop_p, each, 1)
        embedding_dropout.embedding_dropout_backward(x, ids, 300, drop_p, each, 1)
    padded = torch.randn(T, B + 1, E + 1).to(dtype)[:, :, 1:]
    for each in (x, padded):
        variational_dropout.variational_dropout(each, 0.3, seed)
    pooled, argmax = concat_pool.concat_pool(x.transpose(0, 1), start, start + T)
    concat_pool.concat_pool_backward(pooled, argmax, start, start + T, T)


def call_optimizer(n: int) -> None:
    """Call the optimizer's launcher for n tensors with and without all that is optional."""
    shapes = tuple((5 * i + 1,) for i in range(n))
    everything = {"grad_scale": 2.0, "found_inf": 0.0, "shadow": True, "average": 0.1}
    for case in (
        adamw_calls.Case(shapes),
        adamw_calls.Case(shapes, layout="unaligned", **everything),
        adamw_calls.Case(shapes, max_grad_norm=None, skip_nonfinite=False, grad_scale=2.0),
    ):
        layerwise_adamw.layerwise_adamw_(*adamw_calls.draw(case).values())


def resources(kernel: Any, folder: Path) -> Variant:
    """Return the registers and the bytes of stack (spills) of a compiled kernel."""
    if "cubin" not in kernel.asm:
        found = {
            key: int(re.search(rf"\.{key}: +(\d+)", kernel.asm["amdgcn"])[1])
            for key in ("vgpr_count", "vgpr_spill_count", "sgpr_spill_count")
        }
        spilled = found["vgpr_spill_count"] + found["sgpr_spill_count"]
        return {"registers": found["vgpr_count"], "spilled": spilled}
    import triton

    path = folder / "kernel.cubin"
    path.write_bytes(kernel.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    command = [str(tool), "-res-usage", str(path)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    stack, local = (int(re.search(rf"{key}:(\d+)", text)[1]) for key in ("STACK", "LOCAL"))
    return {"registers": int(re.search(r"REG:(\d+)", text)[1]), "spilled": stack + local}


def jit_functions() -> dict[str, Any]:
    """Return every function with @triton.jit of ulmfit_fast/kernels, by name."""
    from triton.runtime.jit import JITFunction

    names = [f"{kernels.__name__}.{m.name}" for m in iter_modules(kernels.__path__)]
    return {
        name: value
        for module in map(import_module, names)
        for name, value in vars(module).items()
        if isinstance(value, JITFunction)
    }


def compile_all(folder: Path) -> dict[str, Any]:
    """Return the kernels, all compiled variants, and how many there were after each size."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    functions = jit_functions()
    if not functions:
        raise RuntimeError("no function has @triton.jit: is this Triton's interpreter?")
    launch = JITFunction.run
    JITFunction.run = lambda self, *a, grid, warmup, **k: launch(
        self, *a, grid=grid, warmup=True, **k
    )
    variants: list[Variant] = []
    counts: dict[str, list[int]] = {}
    for name, target in TARGETS.items():
        driver.set_active(NamedGPU(GPUTarget(*target), name))
        caches = {k: f.device_caches[name][0] for k, f in functions.items()}
        for dtype_name, dtype in DTYPES.items():
            for T, B in SIZES:
                call_launchers(T, B, ALIGNED, dtype)
                call_optimizer(min(T * B, layerwise_adamw.MIN_TENSORS))
                call_loss(T * B, ALIGNED, dtype)
                call_layers(T, B, ALIGNED, dtype)
                n = sum(len(cache) for cache in caches.values())
                counts.setdefault(f"{name} {dtype_name}", []).append(n)
        for H in (ODD, 1):
            call_launchers(2, 3, H, torch.bfloat16)
            call_layers(2, 3, H, torch.bfloat16)
        call_loss(6, ODD, torch.bfloat16)
        variants += [
            {"kernel": k, "target": name, "signature": str(compiled.src.signature)}
            | {"rounds": "cvt.rn.bf16" in compiled.asm.get("ptx", "")}
            | {"stores_bfloat16": stores_bfloat16(compiled)}
            | {
                "moves_16_bytes": bool(
                    re.search(r"ld\.global\S*\.v4\.b32", compiled.asm.get("ptx", ""))
                )
            }
            | {"tensor_cores": bool(re.search(r"wgmma|mma\.sync", compiled.asm.get("ptx", "")))}
            | {"aligned": named_constants(compiled).get("ALIGNED")}
            | resources(compiled, folder)
            for k, cache in caches.items()
            for compiled in cache.values()
        ]
    # The other functions are parts of these.
    names = [name for name in functions if name.endswith("_kernel")]
    return {"kernels": names, "variants": variants, "counts": counts}


def stores_bfloat16(kernel: Any) -> bool:
    """Say whether a variant has bfloat16 results: its first argument, or the optimizer's copies."""
    flags = {name for name, value in named_constants(kernel).items() if value is True}
    return next(iter(kernel.src.signature.values())) == "*bf16" or "HAS_SHADOW" in flags


def named_constants(kernel: Any) -> dict[str, Any]:
    """Return the constexpr arguments of a compiled kernel by name."""
    names = kernel.src.fn.arg_names
    return {names[path[0]]: value for path, value in kernel.src.constants.items()}


class NamedGPU:
    """Triton's driver of a GPU that is not there: enough of one to compile for it."""

    def __init__(self, target: Any, name: str) -> None:
        self.target, self.name = target, name

    def get_current_target(self) -> Any:
        return self.target

    def get_current_device(self) -> str:
        return self.name

    def get_current_stream(self, device: str) -> int:
        return 0


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if find_spec("triton") is None:
        pytest.skip("triton is not installed")
    folder = tmp_path_factory.mktemp("compiled")
    environment = os.environ | {
        "TRITON_INTERPRET": "0",
        "TRITON_CACHE_DIR": str(folder / "cache"),  # an empty one: everything is compiled anew
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
    }
    command = [sys.executable, __file__, str(folder)]
    ran = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=900
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.mark.parametrize("target", TARGETS)
def test_every_kernel_compiles_for_every_gpu_and_dtype(
    compiled: dict[str, Any], target: str
) -> None:
    done = {
        (v["kernel"], dtype)
        for v in compiled["variants"]
        for dtype in DTYPES
        if v["target"] == target and f"'*{dtype}'" in v["signature"]
    }
    assert compiled["kernels"], "no kernel was found"
    of_optimizer = {kernel for kernel in compiled["kernels"] if "adamw" in kernel}
    assert len(of_optimizer) == 2
    in_float32 = of_optimizer | OF_SUMS
    others = set(compiled["kernels"]) - in_float32
    assert {(k, d) for k, d in done if k in others} == {(k, d) for k in others for d in DTYPES}
    assert {(k, d) for k, d in done if k in in_float32} == {(k, "fp32") for k in in_float32}


def test_no_kernel_spills_registers(compiled: dict[str, Any]) -> None:
    assert all(0 < v["registers"] <= 255 for v in compiled["variants"])
    spilling = [(v["kernel"], v["target"], v["spilled"]) for v in compiled["variants"]]
    assert not [each for each in spilling if each[2] > 0]


def test_aligned_tensors_of_the_optimizer_move_16_bytes_at_a_time(compiled: dict[str, Any]) -> None:
    of_nvidia = [v for v in compiled["variants"] if v["target"].startswith("sm_")]
    found = [v for v in of_nvidia if v["aligned"] is not None]
    assert {v["aligned"] for v in found} == {True, False}
    for v in found:
        assert v["moves_16_bytes"] == v["aligned"], v


def test_16_bit_logits_are_multiplied_on_tensor_cores(compiled: dict[str, Any]) -> None:
    of_nvidia = [v for v in compiled["variants"] if v["target"].startswith("sm_")]
    found = [v for v in of_nvidia if v["kernel"] in ("_lse_kernel", "_dz_kernel")]
    assert found
    for v in found:
        in_16_bits = "'hidden_ptr': '*fp16'" in v["signature"] or "*bf16" in v["signature"]
        assert v["tensor_cores"] == in_16_bits, v


def test_no_size_of_a_batch_or_sequence_compiles_a_kernel_again(compiled: dict[str, Any]) -> None:
    assert all(n == [n[0]] * len(SIZES) for n in compiled["counts"].values()), compiled["counts"]


def test_compiled_kernels_round_to_the_nearest_bfloat16(compiled: dict[str, Any]) -> None:
    # What tests/triton_interpreter.py has the interpreter do.
    for v in compiled["variants"]:
        if v["target"].startswith("sm_") and v["kernel"] not in ROUND_OTHERWISE:
            assert v["rounds"] == v["stores_bfloat16"], v


if __name__ == "__main__":
    sys.stdout.write(json.dumps(compile_all(Path(sys.argv[1]))))
