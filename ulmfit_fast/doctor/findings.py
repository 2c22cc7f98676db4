"""From facts to findings: what is well, what is not, and what to do; then one line for all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ulmfit_fast.doctor.gpu import why_no_gpu
from ulmfit_fast.doctor.machine import Gpu, Machine

#: "note" is worth knowing and costs nothing that this machine could have.
Level = Literal["ok", "note", "problem"]

GIB = 1 << 30
#: Below this a run of ordinary size may end in an error.
LEAST_MEMORY, LEAST_DISK = 2 * GIB, 2 * GIB
#: Share of the GPU's time that others take from which on it is said.
BUSY_PERCENT = 20


@dataclass(frozen=True)
class Finding:
    """One line of a diagnosis.

    Attributes:
        level: how it stands.
        what: of which this is said.
        says: how it is.
        do: what to do; "" where there is nothing to do.
        cause: number of the cause in gpu.py; None if it is about something else.
    """

    level: Level
    what: str
    says: str
    do: str = ""
    cause: int | None = None


@dataclass(frozen=True)
class Report:
    """All findings and the line that sums them up.

    Attributes:
        verdict: one sentence.
        findings: in the order in which they are shown.
        is_well: whether nothing is a problem.
    """

    verdict: str
    findings: tuple[Finding, ...]

    @property
    def is_well(self) -> bool:
        """Whether nothing is a problem."""
        return all(finding.level != "problem" for finding in self.findings)


def diagnose(machine: Machine) -> Report:
    """Return what is to be said about a machine."""
    findings = (*_gpu(machine), *_libraries(machine), *_processor(machine), *_room(machine))
    return Report(_verdict(machine, findings), findings)


def _gpu(machine: Machine) -> Iterator[Finding]:
    cause = why_no_gpu(machine)
    if cause is not None:
        # A machine without a GPU is no mistake; one whose GPU stands idle is.
        level: Level = "problem" if machine.has_nvidia else "note"
        yield Finding(level, "GPU", cause.says, cause.do, cause.number)
        return
    for index, gpu in enumerate(machine.gpus):
        yield Finding("ok", f"GPU {index}", _of_gpu(gpu))
        yield from _paths(machine, gpu, index)
        yield from _starved(gpu, index)


def _of_gpu(gpu: Gpu) -> str:
    major, minor = gpu.capability
    memory = f"{gpu.free_bytes / GIB:.1f} of {gpu.total_bytes / GIB:.1f} GiB free"
    return f"{gpu.name}, compute capability {major}.{minor}, {memory}"


def _paths(machine: Machine, gpu: Gpu, index: int) -> Iterator[Finding]:
    """Causes 10 to 13: which kernels run there."""
    what = f"kernels of GPU {index}"
    if machine.cuda_library is not None:
        do = "ULMFIT_FAST_BUILD=cuda pip install --no-build-isolation -e . in the clone, with nvcc"
        number = 11 if "cannot be loaded" in machine.cuda_library else 10
        says = f"{machine.cuda_library}; Triton's kernels run instead"
        yield Finding("problem", what, says, do, number)
        return
    if gpu.own_launch_error is not None:
        arch = "{}.{}".format(*gpu.capability)
        do = f"build again with TORCH_CUDA_ARCH_LIST={arch}"
        says = f"the extension was built for other architectures ({gpu.own_launch_error})"
        yield Finding("problem", what, says, do, 12)
        return
    for layer, path in gpu.layers:
        level: Level = "ok" if path == "persistent kernel" else "note"
        yield Finding(level, f"{layer} on GPU {index}", path, cause=None if level == "ok" else 13)


def _starved(gpu: Gpu, index: int) -> Iterator[Finding]:
    """Cause 14: it is used, but not by you, or not at its speed."""
    if gpu.other_processes or (gpu.busy_percent or 0) >= BUSY_PERCENT:
        names = ", ".join(gpu.other_processes) or "other programs"
        says = f"busy {gpu.busy_percent or 0} % of the time with {names}"
        yield Finding("note", f"GPU {index}", says, "end them, or choose another GPU", 14)
    if gpu.throttled:
        do = "check cooling and the power limit (nvidia-smi -q -d PERFORMANCE)"
        yield Finding("note", f"GPU {index}", f"runs slower than it could: {gpu.throttled}", do, 14)


def _libraries(machine: Machine) -> Iterator[Finding]:
    if machine.cpu_library is None:
        yield Finding("ok", "CPU kernels", "compiled")
    else:
        do = "install a C++ compiler, then pip install --no-build-isolation -e . in the clone"
        says = f"{machine.cpu_library}; plain PyTorch runs, several times slower"
        yield Finding("problem", "CPU kernels", says, do)
    if machine.gpus and machine.triton is None:
        yield Finding("problem", "Triton", "not installed", "pip install triton")


def _processor(machine: Machine) -> Iterator[Finding]:
    features = machine.features
    if "amx_bf16" in features:
        products = "bfloat16 by AMX tiles"
    elif "avx512_bf16" in features:
        products = "bfloat16 by AVX512-BF16"
    elif "avx512f" in features or "avx2" in features:
        products = f"float32 ({'AVX-512' if 'avx512f' in features else 'AVX2'}), no bfloat16"
    else:
        products = "float32 without AVX2: several times slower"
    yield Finding("ok", "processor", f"{machine.processor}; products in {products}")
    usable, threads = machine.usable_cpus, machine.n_threads
    says = f"{threads} of {usable:g} usable processors"
    if threads > usable + 0.5:
        do = (
            f"set OMP_NUM_THREADS={max(1, int(usable))}: more threads than processors wait in turns"
        )
        yield Finding("problem", "threads", says, do)
    elif threads < usable / 4 and not machine.gpus:
        yield Finding("note", "threads", says, f"set OMP_NUM_THREADS={int(usable)} to use them")
    else:
        yield Finding("ok", "threads", says)


def _room(machine: Machine) -> Iterator[Finding]:
    free, total = machine.free_memory, machine.total_memory
    says = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free"
    if free < LEAST_MEMORY:
        yield Finding("problem", "memory", says, "end other programs, or train with --size tiny")
    else:
        yield Finding("ok", "memory", says)
    for folder, free in machine.disk:
        says = f"{free / GIB:.1f} GiB free in {folder}"
        if free < LEAST_DISK:
            yield Finding("problem", "disk", says, "make room, or give --out and --cache elsewhere")
        else:
            yield Finding("ok", "disk", says)


def _verdict(machine: Machine, findings: tuple[Finding, ...]) -> str:
    of_gpu = next((f for f in findings if f.cause is not None and f.cause <= 9), None)
    n_problems = sum(finding.level == "problem" for finding in findings)
    if of_gpu is None:
        fast = sum(p == "persistent kernel" for gpu in machine.gpus for _, p in gpu.layers)
        layers = sum(len(gpu.layers) for gpu in machine.gpus)
        verdict = f"The GPU is used: yes, persistent kernels for {fast} of {layers} layers."
    elif machine.has_nvidia:
        verdict = f"The GPU is used: no: {of_gpu.says}."
    else:
        verdict = f"There is no GPU to use ({of_gpu.says}): the CPU trains."
    if n_problems:
        verdict += f" {n_problems} {'problem' if n_problems == 1 else 'problems'} to mend."
    return verdict
