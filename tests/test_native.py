"""Compiled kernels give the reference's bits; where one is missing, the package says why."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from ulmfit_fast import _native, _ops, functional, reference

BITS = {
    torch.float32: torch.int32,
    torch.float64: torch.int64,
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
}
OPS = sorted(_ops.SCHEMAS)
SHOW_KERNELS = """
import torch
from ulmfit_fast import _native, _ops, functional
for op in sorted(_ops.SCHEMAS):
    print(op, _native.kernels[op, "cpu"], _native.missing.get((op, "cpu")))
print(functional.drop_connect(torch.ones(8), 0.5, torch.tensor([3])).tolist())
"""


@pytest.fixture(scope="module")
def compiled() -> None:
    reason = _native.why_missing("drop_connect", "cpu")
    if reason is not None:
        pytest.skip(f"no compiled CPU kernels: {reason}")


def copy_of_package(folder: Path) -> Path:
    """Copy the package without its libraries; return the copy's folder."""
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    return Path(shutil.copytree(ROOT / "ulmfit_fast", folder / "ulmfit_fast", ignore=ignored))


def run_python(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code with the package of a folder."""
    env = {**os.environ, "PYTHONPATH": str(folder), **environment}
    command = [sys.executable, "-W", "always", "-c", code]
    return subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.usefixtures("compiled")
@settings(derandomize=True, deadline=None, max_examples=150)
@given(
    shape=st.lists(st.integers(0, 40), min_size=0, max_size=3),
    dtype=st.sampled_from(list(BITS)),
    drop_p=st.one_of(st.just(0.0), st.floats(0, 1, exclude_max=True)),
    seed=st.integers(-(2**63), 2**63 - 1),
    transposed=st.booleans(),
    scale=st.sampled_from([1e-30, 1e-6, 1.0, 1e4, 1e30]),
)
def test_compiled_drop_connect_gives_the_bits_of_the_reference(
    shape: list[int], dtype: torch.dtype, drop_p: float, seed: int, transposed: bool, scale: float
) -> None:
    generator = torch.Generator().manual_seed(seed & 0xFFFF)
    weight = (torch.randn(shape, generator=generator) * scale).to(dtype)
    if transposed and weight.dim() > 1:
        weight = weight.transpose(0, -1)
    seeds = torch.tensor([seed])
    found = torch.ops.ulmfit_fast_cpu.drop_connect(weight, drop_p, seeds)
    expected = reference.drop_connect(weight, drop_p, seeds)
    assert found.is_contiguous()
    bits = [t.flatten().contiguous().view(BITS[dtype]) for t in (found, expected)]
    assert torch.equal(*bits)


@pytest.mark.usefixtures("compiled")
def test_compiled_drop_connect_does_not_depend_on_the_number_of_threads() -> None:
    weight = torch.randn(1153, 401)
    seed = torch.tensor([5])
    found = []
    for n_threads in (4, 3, 1):  # the suite runs on one
        torch.set_num_threads(n_threads)
        found.append(functional.drop_connect(weight, 0.5, seed))
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[1], found[2])


@pytest.mark.usefixtures("compiled")
def test_compiled_drop_connect_refuses_what_would_read_foreign_memory() -> None:
    op = torch.ops.ulmfit_fast_cpu.drop_connect
    with pytest.raises(RuntimeError, match="seed: expected an int64 tensor with one element"):
        op(torch.ones(4), 0.5, torch.tensor([], dtype=torch.int64))
    with pytest.raises(RuntimeError, match="seed: expected an int64 tensor with one element"):
        op(torch.ones(4), 0.5, torch.tensor([1], dtype=torch.int32))
    with pytest.raises(RuntimeError, match="expected float32, float64, bfloat16 or float16"):
        op(torch.ones(4, dtype=torch.int64), 0.5, torch.tensor([1]))


def test_every_op_has_one_kernel_on_the_cpu() -> None:
    assert {op for op, device in _native.kernels if device == "cpu"} == set(_ops.SCHEMAS)


def test_missing_cuda_kernel_says_what_why_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(_native.kernels, ("drop_connect", "cuda"), raising=False)
    monkeypatch.setitem(_native.missing, ("drop_connect", "cuda"), "the library was not built")
    with pytest.raises(RuntimeError) as raised:
        _native.require_kernel("drop_connect", torch.device("cuda"))
    assert str(raised.value) == (
        "drop_connect has no CUDA kernel here: the library was not built. Rebuild with "
        "ULMFIT_FAST_BUILD=cuda pip install --no-build-isolation -e . or set "
        "ULMFIT_FAST_REFERENCE=1 to run the slow PyTorch version."
    )


def test_unknown_device_is_refused_and_meta_passes() -> None:
    with pytest.raises(
        RuntimeError, match="no XPU kernel here: ulmfit_fast has no kernels for xpu"
    ):
        _native.require_kernel("drop_connect", torch.device("xpu"))
    weight = torch.ones(3, 4, device="meta")
    seed = torch.zeros(1, dtype=torch.int64, device="meta")
    assert functional.drop_connect(weight, 0.5, seed).shape == (3, 4)


def test_library_without_the_op_or_with_other_arguments_counts_as_stale(
    compiled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _native._compiled_op("cpu", "drop_connect")[1] == ""
    monkeypatch.setitem(_ops.SCHEMAS, "drop_connect", "(Tensor weight, int seed) -> Tensor")
    assert _native._compiled_op("cpu", "drop_connect") == (
        None,
        "the library ulmfit_fast._cpu was built from another version (drop_connect has other "
        "arguments)",
    )
    assert "it has no future_op" in _native._compiled_op("cpu", "future_op")[1]


def test_package_without_libraries_runs_on_the_reference_in_silence(tmp_path: Path) -> None:
    copy_of_package(tmp_path)
    ran = run_python(SHOW_KERNELS, tmp_path)
    expected = reference.drop_connect(torch.ones(8), 0.5, torch.tensor([3])).tolist()
    assert ran.returncode == 0, ran.stderr
    reason = "reference the library ulmfit_fast._cpu was not built"
    assert ran.stdout.splitlines() == [*(f"{op} {reason}" for op in OPS), str(expected)]
    assert "ulmfit_fast" not in ran.stderr


def test_broken_library_gives_one_warning_and_the_reference(tmp_path: Path) -> None:
    package = copy_of_package(tmp_path)
    (package / "_cpu.abi3.so").write_bytes(b"\x7fELF and nothing more")
    ran = run_python(SHOW_KERNELS, tmp_path)
    assert ran.returncode == 0, ran.stderr
    *lines, _ = ran.stdout.splitlines()
    for line, op in zip(lines, OPS, strict=True):
        assert line.startswith(f"{op} reference _cpu.abi3.so cannot be loaded (")
    warned = [line for line in ran.stderr.splitlines() if "RuntimeWarning: ulmfit_fast:" in line]
    assert len(warned) == 1
    assert "the PyTorch reference runs. Rebuild with pip install" in warned[0]


def test_switch_to_the_reference_takes_both_devices(tmp_path: Path) -> None:
    code = "from ulmfit_fast import _native; print(sorted(_native.kernels.items()))"
    ran = run_python(code, ROOT, ULMFIT_FAST_REFERENCE="1")
    assert ran.returncode == 0, ran.stderr
    both = [((op, d), "reference") for op in OPS for d in ("cpu", "cuda")]
    assert ran.stdout.strip() == str(both)
