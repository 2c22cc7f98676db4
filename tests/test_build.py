"""The build says what it made, works without a compiler, and its CUDA code compiles."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from test_ops import PHILOX_VECTORS
from torch.utils import cpp_extension

CSRC = ROOT / "csrc"
CUDA_SOURCES = sorted((CSRC / "cuda").glob("*.cu"))
STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020b000000000000"


@pytest.fixture(scope="session")
def cxx() -> str:
    compiler = shutil.which(cpp_extension.get_cxx_compiler())
    if compiler is None:
        pytest.skip("no C++ compiler")
    return compiler


@pytest.fixture(scope="session")
def nvcc() -> str:
    compiler = shutil.which("nvcc")
    if compiler is None:
        pytest.skip("no nvcc: the CUDA sources were not compiled")
    return compiler


@pytest.fixture
def source_tree(tmp_path: Path) -> Path:
    """Copy what a build reads, without anything built."""
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    for folder in ("csrc", "ulmfit_fast"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    for file in ("setup.py", "pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / file, tmp_path / file)
    (tmp_path / "README.md").touch()
    return tmp_path


def build(tree: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    env = {**os.environ, **environment}
    return subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True, check=False)


def lines_of_ours(ran: subprocess.CompletedProcess[str]) -> list[str]:
    output = (ran.stdout + ran.stderr).splitlines()
    return [line for line in output if line.startswith("ulmfit_fast:")]


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"ULMFIT_FAST_BUILD": "none"}, "ULMFIT_FAST_BUILD=none"),
        ({"CXX": "no-such-compiler"}, "no C++ compiler (no-such-compiler) found"),
    ],
    ids=["none", "no-compiler"],
)
def test_build_of_nothing_succeeds_and_says_why(
    source_tree: Path, environment: dict[str, str], reason: str
) -> None:
    ran = build(source_tree, **{"ULMFIT_FAST_BUILD": "auto", **environment})
    assert ran.returncode == 0, ran.stderr
    (line,) = lines_of_ours(ran)
    assert line.startswith(f"ulmfit_fast: building no CPU kernels ({reason}), no CUDA kernels (")
    assert line.endswith("it runs on the PyTorch reference")
    assert not list((source_tree / "ulmfit_fast").glob("*.so"))


def test_build_makes_one_binary_for_every_python(source_tree: Path, cxx: str) -> None:
    ran = build(source_tree, ULMFIT_FAST_BUILD="cpu")
    assert ran.returncode == 0, ran.stderr
    (line,) = lines_of_ours(ran)
    assert line == ("ulmfit_fast: building CPU kernels, no CUDA kernels (ULMFIT_FAST_BUILD=cpu)")
    assert [p.name for p in (source_tree / "ulmfit_fast").glob("*.so")] == ["_cpu.abi3.so"]


def test_build_refuses_what_it_cannot_do_in_one_line(source_tree: Path) -> None:
    unknown = build(source_tree, ULMFIT_FAST_BUILD="fast")
    assert (unknown.returncode, unknown.stderr.splitlines()[-1]) == (
        1,
        "ulmfit_fast: ULMFIT_FAST_BUILD=fast: expected auto, cpu, cuda or none",
    )
    impossible = build(source_tree, ULMFIT_FAST_BUILD="cpu", CXX="no-such-compiler")
    assert (impossible.returncode, impossible.stderr.splitlines()[-1]) == (
        1,
        "ulmfit_fast: ULMFIT_FAST_BUILD=cpu is not possible: "
        "no C++ compiler (no-such-compiler) found",
    )


def test_philox_header_alone_gives_the_published_words(tmp_path: Path, cxx: str) -> None:
    rows = [
        "show({{{}}}, {}u, {}u);".format(", ".join(f"{w}u" for w in counter), *key)
        for counter, key, _ in PHILOX_VECTORS
    ]
    program = tmp_path / "words.cpp"
    program.write_text(
        '#include <cstdio>\n#include "philox.h"\n'
        "void show(ulmfit_fast::PhiloxBlock counter, uint32_t k0, uint32_t k1) {\n"
        "  const auto b = ulmfit_fast::philox4x32(counter, k0, k1);\n"
        '  std::printf("%u %u %u %u\\n", b.word[0], b.word[1], b.word[2], b.word[3]);\n}\n'
        "int main() {\n  " + "\n  ".join(r.replace("{", "{{").replace("}", "}}") for r in rows)
        + "\n}\n"
    )  # fmt: skip
    binary = tmp_path / "words"
    subprocess.run([cxx, "-Wall", "-Werror", f"-I{CSRC}", program, "-o", binary], check=True)
    printed = subprocess.run([binary], capture_output=True, text=True, check=True).stdout
    found = [tuple(int(w) for w in line.split()) for line in printed.splitlines()]
    assert found == [expected for _, _, expected in PHILOX_VECTORS]


@dataclass(frozen=True)
class Compiled:
    """A CUDA source as nvcc made it: the object file, and what ptxas says."""

    path: Path
    said: str

    def sass(self) -> dict[str, str]:
        """Return the instructions of every kernel, by its mangled name."""
        import triton

        tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        command = [str(shutil.which("cuobjdump") or tool), "-sass", str(self.path)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        _, *functions = re.split(r"Function : (\S+)", text)
        return dict(zip(functions[::2], functions[1::2], strict=True))


@pytest.fixture(scope="session")
def compile_cuda(nvcc: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Compiled]:
    """Compile a source for an architecture; every pair once."""
    folder = tmp_path_factory.mktemp("cuda")
    flags = ["-std=c++20", "-O3", "-DUSE_CUDA", "-Xptxas=-v", "-Werror=all-warnings"]

    @cache
    def compile_one(source: Path, arch: str) -> Compiled:
        target = f"-gencode=arch=compute_{arch},code=sm_{arch}"
        path = folder / f"{source.stem}_{arch}.o"
        command = [nvcc, *flags, target, "-c", source, "-o", path]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        return Compiled(path, ran.stderr)

    return compile_one


@pytest.mark.parametrize("arch", ["80", "90a"])
@pytest.mark.parametrize("source", CUDA_SOURCES, ids=lambda path: path.stem)
def test_cuda_kernel_compiles_without_spills(
    source: Path, arch: str, compile_cuda: Callable[..., Compiled]
) -> None:
    said = compile_cuda(source, arch).said
    registers = [int(n) for n in re.findall(r"Used (\d+) registers", said)]
    spills = [int(n) for n in re.findall(r"(\d+) bytes spill", said)]
    stacks = [int(n) for n in re.findall(r"(\d+) bytes stack frame", said)]
    sys.stdout.write(
        f"{source.name} sm_{arch}: registers {registers}, spilled bytes {sum(spills)}\n"
    )
    assert registers
    # 256 threads may have 255 each: a multiprocessor's four parts have 16384, for 2 warps of it.
    assert max(registers) <= 255
    assert sum(spills) + sum(stacks) == 0


@pytest.mark.parametrize("source", ["lstm_forward", "lstm_backward"])
def test_persistent_kernels_multiply_on_tensor_cores_and_move_16_bytes(
    source: str, compile_cuda: Callable[..., Compiled]
) -> None:
    kernels = compile_cuda(CSRC / "cuda" / f"{source}.cu", "90a").sass()
    assert kernels
    for name, code in kernels.items():
        wanted = "BF16" if "bfloat16" in name else "16816.F32"
        assert re.search(r"HMMA\.16816\.F32[.\w]*", code), name
        assert wanted in code, name
        assert "LDGSTS.E.BYPASS.128" in code, name  # cp.async.cg
        assert "LDSM.16.M88.4" in code, name  # ldmatrix
        assert "LDS.128" in code, name
        assert not re.search(r"\b(LDL|STL)\b", code), f"{name}: local memory"


def test_kernels_have_no_instruction_of_their_own() -> None:
    for path in (CSRC / "cuda").iterdir():
        if path.name == "device.cuh":
            continue
        found = re.findall(r"\basm\b|\b__\w+_sync\b|\b__(?:ld|st|shfl|sync)\w*", path.read_text())
        assert not found, f"{path.name}: {found}; give it a name in device.cuh"


@pytest.mark.parametrize("source", sorted(CSRC.glob("bindings_cuda*.cpp")), ids=lambda p: p.stem)
def test_cuda_bindings_compile_beside_any_torch(source: Path, nvcc: str, tmp_path: Path) -> None:
    includes = [f"-isystem={path}" for path in cpp_extension.include_paths()]
    command = [nvcc, "-std=c++20", "-DUSE_CUDA", STABLE_ABI, "-Xcompiler=-Wall,-Werror", *includes]
    ran = subprocess.run(
        [*command, "-c", source, "-o", tmp_path / "bindings.o"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr


def test_only_the_bindings_know_tensors() -> None:
    sources = [path for path in CSRC.rglob("*.*") if path.suffix in (".h", ".cpp", ".cu", ".cuh")]
    knowing = {path.name for path in sources if "torch/csrc" in path.read_text()}
    assert knowing
    assert all(name.startswith("bindings") for name in knowing), knowing


def test_stable_abi_target_is_the_oldest_torch_that_is_supported() -> None:
    assert STABLE_ABI in (ROOT / "setup.py").read_text()
    assert '"torch>=2.11"' in (ROOT / "pyproject.toml").read_text()
    assert tuple(int(n) for n in torch.__version__.split(".")[:2]) >= (2, 11)
