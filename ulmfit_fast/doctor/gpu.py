"""Why torch uses no GPU: causes in the order in which they hide each other; the first one counts.

The numbers are those of docs/doctor.md. 10 to 14 are in findings.py: with them a GPU is used.
"""

from __future__ import annotations

from dataclasses import dataclass

from ulmfit_fast.doctor.machine import Machine

DRIVER_MISMATCH = "mismatch"


@dataclass(frozen=True)
class Cause:
    """Why there is no GPU.

    Attributes:
        number: place in the order.
        says: how it is; part of a sentence.
        do: what to do.
    """

    number: int
    says: str
    do: str


def why_no_gpu(machine: Machine) -> Cause | None:
    """Return the first cause that keeps torch from the GPU; None if nothing does."""
    return (
        _of_torch(machine)
        or _of_hardware(machine)
        or _of_driver(machine)
        or _of_visibility(machine)
        or _of_the_gpu_itself(machine)
    )


def _of_torch(machine: Machine) -> Cause | None:
    """Causes 1 and 2: torch was built for something else."""
    if machine.torch_cuda is not None:
        return None
    if machine.torch_other:
        says = f"torch is a build for {machine.torch_other}, and the fast kernels need CUDA"
        return Cause(2, says, "use an NVIDIA GPU, or train on the CPU")
    if not machine.has_nvidia:
        # No build of torch would find one; say so, and not that torch is the wrong one.
        return Cause(3, "no NVIDIA GPU is visible", _if_container(machine))
    says = f"torch {machine.torch} is a CPU build although an NVIDIA GPU is there"
    fits = ""
    if machine.driver_cuda is not None:
        fits = ", for CUDA {}.{} or older: that is what the driver runs".format(
            *machine.driver_cuda
        )
    return Cause(1, says, f"pip install --force-reinstall torch (a CUDA build{fits})")


def _of_hardware(machine: Machine) -> Cause | None:
    """Cause 3: there is no GPU, or none reaches into this container."""
    if machine.has_nvidia:
        return None
    return Cause(3, "no NVIDIA GPU is visible", _if_container(machine))


def _if_container(machine: Machine) -> str:
    if machine.in_container:
        return "if the machine has one, start the container with access to it (--gpus all)"
    return ""


def _of_driver(machine: Machine) -> Cause | None:
    """Causes 4 to 6: the driver is not there, too old, or half replaced."""
    if not machine.driver_library:
        do = "install NVIDIA's driver"
        if machine.in_container:
            do = "start the container with --gpus all, so that the driver's libraries are mounted"
        return Cause(4, "there is a GPU, but its driver's library is missing", do)
    if DRIVER_MISMATCH in machine.driver_error.lower():
        says = "the driver was updated, and the old one is still loaded"
        return Cause(6, f"{says} ({machine.driver_error})", "restart the machine")
    needed = machine.torch_cuda or "0"
    major = int(needed.split(".")[0])
    if machine.driver_cuda is not None and machine.driver_cuda[0] < major:
        found = "{}.{}".format(*machine.driver_cuda)
        version = f" {machine.driver}" if machine.driver else ""
        says = f"the driver{version} is too old: torch needs CUDA {needed}, it runs up to {found}"
        return Cause(5, says, f"update the driver, or install a build of torch for CUDA {found}")
    return None


def _of_visibility(machine: Machine) -> Cause | None:
    """Cause 7: a variable hides it."""
    if machine.gpus or machine.visible_devices is None:
        return None
    says = f"CUDA_VISIBLE_DEVICES={machine.visible_devices!r} hides it"
    n_files = len(machine.device_files)
    return Cause(7, says, f"unset it, or set it to an index below {max(1, n_files)}")


def _of_the_gpu_itself(machine: Machine) -> Cause | None:
    """Causes 8 and 9: torch cannot run on it, or it does not run."""
    if not machine.gpus:
        says = f"torch sees no GPU ({machine.cuda_error or 'it gives no reason'})"
        return Cause(9, says, "see whether nvidia-smi shows it; if so, restart the machine")
    for index, gpu in enumerate(machine.gpus):
        arch = "sm_{}{}".format(*gpu.capability)
        if machine.torch_archs and not _runs(gpu.capability, machine.torch_archs):
            says = f"GPU {index} ({gpu.name}, {arch}) is not among those of this torch"
            known = ", ".join(machine.torch_archs)
            return Cause(8, f"{says} ({known})", "install a build of torch that has it")
        if gpu.launch_error is not None:
            do = "see nvidia-smi: exclusive mode, MIG without an instance, or memory errors (ECC)"
            return Cause(9, f"GPU {index} runs no kernel ({gpu.launch_error})", do)
    return None


def _runs(capability: tuple[int, int], archs: tuple[str, ...]) -> bool:
    """Say whether one of torch's architectures runs: of the same major version, or as PTX."""
    major, minor = capability
    for arch in archs:
        kind, _, number = arch.partition("_")
        digits = number.rstrip("af")
        if not digits.isdigit():
            continue
        built = int(digits[:-1]), int(digits[-1])
        if kind == "sm" and built[0] == major and built[1] <= minor:
            return True
        if kind == "compute" and built <= (major, minor):
            return True
    return False
