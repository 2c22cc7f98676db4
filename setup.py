"""Build the compiled kernels: pip install --no-build-isolation -e .

ULMFIT_FAST_BUILD: auto (what this machine can build, the default), cpu or cuda (both libraries; an
error where that is impossible), none (the package runs on its reference).
ULMFIT_FAST_DEBUG=1: a CUDA kernel that waits for another block for two seconds ends with an error.
ULMFIT_FAST_SANITIZE=address,undefined (or thread): a CPU library for make sanitize.
Architectures: TORCH_CUDA_ARCH_LIST, else those of this machine's GPUs. Parallel jobs: MAX_JOBS.
"""

import os
import shutil
import sys
from pathlib import Path

from setuptools import setup

try:
    import torch
    from torch.utils import cpp_extension
except ModuleNotFoundError:
    sys.exit("ulmfit_fast: no torch here: pip install torch, then this again (see README, Install)")


def why_not_cpu() -> str | None:
    """Return why the CPU library cannot be built here, or None."""
    cxx = cpp_extension.get_cxx_compiler()
    return None if shutil.which(cxx) else f"no C++ compiler ({cxx}) found"


def why_not_cuda() -> str | None:
    """Return why the CUDA library cannot be built here, or None."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is not a CUDA build"
    home = cpp_extension.CUDA_HOME
    if shutil.which("nvcc", path=f"{home}/bin") is None:
        return "no nvcc found"
    if not any(Path(p, "cuda_runtime_api.h").exists() for p in cpp_extension.include_paths("cuda")):
        return f"no CUDA headers for {home}/bin/nvcc: set CUDA_HOME"
    return why_not_cpu()


def plan() -> tuple[list[str], str]:
    """Return the libraries to build, and the line that says which and why."""
    wanted = os.environ.get("ULMFIT_FAST_BUILD", "auto")
    if wanted not in ("auto", "cpu", "cuda", "none"):
        sys.exit(f"ulmfit_fast: ULMFIT_FAST_BUILD={wanted}: expected auto, cpu, cuda or none")
    off = {
        "cpu": "ULMFIT_FAST_BUILD=none" if wanted == "none" else why_not_cpu(),
        "cuda": f"ULMFIT_FAST_BUILD={wanted}" if wanted in ("none", "cpu") else why_not_cuda(),
    }
    if off.get(wanted) is not None:
        sys.exit(f"ulmfit_fast: ULMFIT_FAST_BUILD={wanted} is not possible: {off[wanted]}")
    archs = os.environ.get("TORCH_CUDA_ARCH_LIST", "the GPUs of this machine")
    built = {"cpu": "CPU kernels", "cuda": f"CUDA kernels for {archs}"}
    parts = [f"no {d.upper()} kernels ({off[d]})" if off[d] else built[d] for d in built]
    libraries = [device for device in built if off[device] is None]
    line = f"ulmfit_fast: building {', '.join(parts)}"
    return libraries, line if libraries else line + "; it runs on the PyTorch reference"


def extension(device: str) -> object:
    """Return the extension ulmfit_fast._<device>."""
    on_gpu = device == "cuda"
    kernels = sorted(Path("csrc", device).glob("*.cu" if on_gpu else "*.cpp"))
    bindings = sorted(Path("csrc").glob(f"bindings_{device}*.cpp"))
    make = cpp_extension.CUDAExtension if on_gpu else cpp_extension.CppExtension
    # One binary for torch >= 2.11 and, with py_limited_api, for Python >= 3.10.
    flags = ["-O3", "-DTORCH_TARGET_VERSION=0x020b000000000000"] + ["-DUSE_CUDA"] * on_gpu
    if os.environ.get("ULMFIT_FAST_DEBUG") == "1":
        flags.append("-DULMFIT_FAST_DEBUG")
    linked = []
    if sanitizers := os.environ.get("ULMFIT_FAST_SANITIZE"):
        linked = [f"-fsanitize={sanitizers}"]
        flags += [*linked, "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g1", "-O1"]
    sources = [*map(str, bindings), *map(str, kernels)]
    arguments = {"cxx": flags, "nvcc": flags}
    return make(
        f"ulmfit_fast._{device}", sources, extra_compile_args=arguments, extra_link_args=linked,
        py_limited_api=True,
    )  # fmt: skip


libraries, line = plan()
if {"build_ext", "bdist_wheel", "editable_wheel", "install"} & set(sys.argv):
    print(line, flush=True)
builder = cpp_extension.BuildExtension.with_options(use_ninja=cpp_extension.is_ninja_available())
setup(
    ext_modules=[extension(device) for device in libraries],
    cmdclass={"build_ext": builder},
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if libraries else {},
)
