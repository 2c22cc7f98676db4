"""Build the compiled kernels: pip install --no-build-isolation -e .

ULMFIT_FAST_BUILD=auto   what this machine can build (the default)
                  cpu    the CPU library; an error without a C++ compiler
                  cuda   both libraries; an error without nvcc and a CUDA build of torch
                  none   nothing: the package runs on its PyTorch reference
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
except ImportError:
    sys.exit("ulmfit_fast: building needs torch; install it, then pip with --no-build-isolation")

STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020b000000000000"  # one binary for torch >= 2.11
BUILD_COMMANDS = {"build_ext", "bdist_wheel", "editable_wheel", "develop", "install"}


def why_not_cpu() -> str | None:
    """Return why the CPU library cannot be built here, or None."""
    compiler = cpp_extension.get_cxx_compiler()
    return None if shutil.which(compiler) else f"no C++ compiler ({compiler}) found"


def why_not_cuda() -> str | None:
    """Return why the CUDA library cannot be built here, or None."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is not a CUDA build"
    if shutil.which("nvcc", path=f"{cpp_extension.CUDA_HOME}/bin") is None:
        return "no nvcc found"
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
    line = "ulmfit_fast: building " + ", ".join(parts)
    libraries = [device for device in built if off[device] is None]
    return libraries, line if libraries else line + "; it runs on the PyTorch reference"


def extension(device: str) -> object:
    """Return the extension ulmfit_fast._<device>."""
    csrc = Path("csrc")
    kernels = sorted((csrc / device).glob("*.cu" if device == "cuda" else "*.cpp"))
    sources = [path.as_posix() for path in (csrc / f"bindings_{device}.cpp", *kernels)]
    make = cpp_extension.CUDAExtension if device == "cuda" else cpp_extension.CppExtension
    flags = ["-O3", STABLE_ABI, *(["-DUSE_CUDA"] if device == "cuda" else [])]
    args = {"cxx": flags, "nvcc": flags}
    return make(f"ulmfit_fast._{device}", sources, extra_compile_args=args, py_limited_api=True)


libraries, line = plan()
if BUILD_COMMANDS & set(sys.argv):
    print(line, flush=True)
ninja = cpp_extension.is_ninja_available()
setup(
    ext_modules=[extension(device) for device in libraries],
    cmdclass={"build_ext": cpp_extension.BuildExtension.with_options(use_ninja=ninja)},
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if libraries else {},
)
