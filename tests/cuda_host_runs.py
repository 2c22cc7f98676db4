"""Builds the CUDA kernels for a CPU (tests/cuda_host), runs them, and holds them to the reference.

A case is one call of the persistent kernels: x W_ih^T + bias is given as the reference's x beside
an identity for W_ih, so that the gradient of x is that of the gates.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from conftest import ROOT
from numerics import assert_no_worse
from torch import Tensor
from torch.utils import cpp_extension

from ulmfit_fast import reference

HOST = ROOT / "tests" / "cuda_host"
#: Programs of tests/cuda_host, and the kernels that they run.
PROGRAMS = {"run_lstm": ("lstm_forward", "lstm_backward"), "run_adamw": ("layerwise_adamw",)}
FLAGS = ["-std=c++20", "-O2", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-DUSE_CUDA"]
FLAGS += ["-Wno-missing-field-initializers", f"-I{HOST}"]
SANITIZE = ["-fsanitize=address", "-g1"]


@dataclass(frozen=True)
class HostCase:
    """One call; groups are those of the forward and the backward kernel."""

    T: int
    B: int
    H: int
    dtype: torch.dtype = torch.bfloat16
    drop_p: float = 0.5
    ragged: bool = False
    reverse: bool = False
    groups: tuple[int, int] = (1, 1)

    def __str__(self) -> str:
        """Return a short name for pytest."""
        parts = [f"T{self.T}-B{self.B}-H{self.H}", str(self.dtype).removeprefix("torch.")]
        parts += [f"p{self.drop_p}", "groups{}-{}".format(*self.groups)]
        return "-".join(parts + ["ragged"] * self.ragged + ["reverse"] * self.reverse)


def compiler() -> str | None:
    """Return the C++ compiler, if there is one that knows the flags (GCC or Clang on Linux)."""
    return shutil.which(cpp_extension.get_cxx_compiler())


def compile_all(
    folder: Path,
    sources: Path = ROOT / "csrc",
    flags: Sequence[str] = (),
    program: str = "run_lstm",
) -> Path:
    """Return the path of a program built from the kernels of a csrc folder."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(HOST / f"{name}.cpp", []) for name in ("emulator", "memory", program)]
    twin = ["-include", str(HOST / "device.h"), "-x", "c++"]
    jobs += [(sources / "cuda" / f"{name}.cu", twin) for name in PROGRAMS[program]]
    objects = []
    for source, more in jobs:
        objects.append(folder / f"{source.stem}.o")
        if not objects[-1].exists():
            command = [compiler(), *FLAGS, *flags, *more, "-c", source, "-o", objects[-1]]
            ran = subprocess.run(command, capture_output=True, text=True, check=False)
            assert ran.returncode == 0, ran.stderr
    subprocess.run([compiler(), *flags, *objects, "-o", folder / program], check=True)
    return folder / program


def compile_mutant(
    built: Path,
    folder: Path,
    mutant: tuple[str, str, str],
    flags: Sequence[str] = (),
    program: str = "run_lstm",
) -> Path:
    """Return the path of a program with one mistake; what that leaves alone is taken from built."""
    file, right, wrong = mutant
    shutil.copytree(ROOT / "csrc", folder / "csrc")
    mutated = folder / "csrc" / "cuda" / file
    text = mutated.read_text()
    assert right in text, f"{file} has changed: mend the mutant"
    mutated.write_text(text.replace(right, wrong))
    objects = {"emulator", "memory", program}
    if mutated.suffix == ".cu":
        objects |= set(PROGRAMS[program]) - {mutated.stem}
    for name in objects:
        (folder / f"{name}.o").symlink_to(built / f"{name}.o")
    return compile_all(folder, folder / "csrc", flags, program)


def execute(program: Path, *arguments: str | Path) -> str:
    """Run a program and return why it failed; nothing if it did not."""
    environment = os.environ | {"ASAN_OPTIONS": "detect_stack_use_after_return=0:detect_leaks=0"}
    ran = subprocess.run(
        [program, *arguments], capture_output=True, text=True, check=False, env=environment
    )
    if ran.returncode == 0:
        return ""
    return (ran.stdout + ran.stderr).strip() or f"{program.name} ended with {ran.returncode}"


@dataclass(frozen=True)
class HostCall:
    """Tensors of a case. gates is x W_ih^T + bias."""

    case: HostCase
    gates: Tensor  # [T, B, 4H]
    w_hh: Tensor
    h0: Tensor
    c0: Tensor
    lengths: Tensor
    dy: Tensor
    dh_n: Tensor
    dc_n: Tensor
    seed: int = 20_261_124 + (3 << 40)

    def to(self, dtype: torch.dtype) -> HostCall:
        """Return the same numbers in another dtype."""
        names = ("gates", "w_hh", "h0", "c0", "dy", "dh_n", "dc_n")
        return replace(self, **{name: getattr(self, name).to(dtype) for name in names})


def draw(case: HostCase) -> HostCall:
    """Draw the tensors of a case."""
    T, B, H = case.T, case.B, case.H
    generator = torch.Generator().manual_seed(T + 10 * B + 1000 * H)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(case.dtype)

    lengths = torch.randint(0, T + 1, (B,), generator=generator)
    lengths[-1] = T
    w_hh = (random(4 * H, H).float() * H**-0.5).to(case.dtype)
    states = [random(B, H), random(B, H), lengths, random(T, B, H), random(B, H), random(B, H)]
    return HostCall(case, random(T, B, 4 * H), w_hh, *states)


def expected(call: HostCall) -> dict[str, Tensor]:
    """Return the reference's results in the call's dtype."""
    case, H = call.case, call.case.H
    identity = torch.eye(4 * H, dtype=call.gates.dtype)
    lengths = call.lengths if case.ragged else None
    seed = torch.tensor([call.seed]) if case.drop_p > 0 else None
    rest = (lengths, seed, case.drop_p, case.reverse)
    layer = (call.gates, identity, call.w_hh)
    y, h_n, c_n, c, gates = reference.lstm_forward(*layer, None, call.h0, call.c0, *rest, True)
    grads = (call.dy, call.dh_n, call.dc_n)
    saved = (call.h0, call.c0, y, c, gates)
    dx, _, _, dbias, dh0, dc0 = reference.lstm_backward(*grads, *layer, *saved, *rest, True, True)
    results = {"y": y, "gates": gates, "cells": c, "h_n": h_n, "c_n": c_n}
    return results | {"dgates": dx, "dh0": dh0, "dc0": dc0, "dbias": dbias}


def words(tensor: Tensor, wide: bool = False) -> bytes:
    """Return a tensor's bytes, as float32 if wide."""
    tensor = tensor.float() if wide else tensor
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def write(call: HostCall, path: Path) -> None:
    """Write what run_lstm reads."""
    case = call.case
    numbers = [case.T, case.B, case.H, *case.groups, case.reverse, case.dtype == torch.float16]
    numbers += [case.ragged, case.drop_p > 0, call.seed, int(case.drop_p * 2**32)]
    header = np.array(numbers, dtype=np.int64).tobytes()
    header += np.array([1 / (1 - case.drop_p)]).tobytes()
    parts = [words(t) for t in (call.w_hh, call.gates, call.h0)]
    parts += [words(call.c0, True), words(call.lengths), words(call.dy)]
    path.write_bytes(b"".join([header, *parts, words(call.dh_n, True), words(call.dc_n, True)]))


def read(call: HostCall, path: Path) -> dict[str, Tensor]:
    """Read what run_lstm writes."""
    T, B, H, dtype = call.case.T, call.case.B, call.case.H, call.case.dtype
    shapes = {
        "y": ((T, B, H), dtype),
        "gates": ((T, B, 4 * H), dtype),
        "cells": ((T, B, H), torch.float32),
        "h_n": ((B, H), dtype),
        "c_n": ((B, H), torch.float32),
        "dgates": ((T, B, 4 * H), dtype),
        "dh0": ((B, H), torch.float32),
        "dc0": ((B, H), torch.float32),
        "dbias": ((call.case.groups[1], 4 * H), torch.float32),
    }
    data, found = bytearray(path.read_bytes()), {}
    for name, (shape, kind) in shapes.items():
        n = int(np.prod(shape))
        found[name] = torch.frombuffer(data, dtype=kind, count=n).reshape(shape)
        data = data[n * kind.itemsize :]
    assert not data
    found["dbias"] = found["dbias"].sum(0)
    return found


@dataclass(frozen=True)
class Run:
    """What a program said of a case: results, or why it failed."""

    results: dict[str, Tensor] | None
    message: str


def run(
    program: Path, call: HostCall, folder: Path, seeds: range = range(1), mutation: str = ""
) -> Run:
    """Run a case under the schedules of some seeds."""
    case, result = folder / "case", folder / "result"
    write(call, case)
    message = execute(program, case, result, str(seeds.start), str(len(seeds)), mutation)
    if message:
        return Run(None, message)
    return Run(read(call, result), "")


def assert_right(call: HostCall, found: dict[str, Tensor]) -> None:
    """Fail unless every result is as exact as plain PyTorch's."""
    exact, plain = expected(call.to(torch.float64)), expected(call)
    for name, e in exact.items():
        assert_no_worse(name, found[name], plain[name], e, call.case.dtype)
