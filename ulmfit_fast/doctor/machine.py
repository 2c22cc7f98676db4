"""What a diagnosis is made from: plain values, so that a test can make any machine."""

from __future__ import annotations

from dataclasses import dataclass

#: Compute capability, major and minor.
Capability = tuple[int, int]


@dataclass(frozen=True)
class Gpu:
    """A GPU that torch sees.

    Attributes:
        name: as the driver calls it.
        capability: compute capability, such as (9, 0).
        total_bytes: memory.
        free_bytes: memory that nobody holds.
        launch_error: what a tiny kernel of torch's ended in; None if it ran.
        own_launch_error: likewise a tiny kernel of this package's CUDA library; None if it ran or
            there is no library.
        layers: (what, which path) of the model's LSTM layers: "persistent kernel", or why not.
        busy_percent: time in which a kernel ran lately, by whomever; None if unknown.
        other_processes: names of other programs that hold memory of it.
        throttled: why it runs slower than it could; empty if it does not.
    """

    name: str
    capability: Capability
    total_bytes: int
    free_bytes: int
    launch_error: str | None = None
    own_launch_error: str | None = None
    layers: tuple[tuple[str, str], ...] = ()
    busy_percent: int | None = None
    other_processes: tuple[str, ...] = ()
    throttled: str = ""


@dataclass(frozen=True)
class Machine:
    """A machine, the torch on it, and this package's libraries.

    Attributes:
        system: "Linux", "Windows" or "Darwin".
        python: version.
        torch: version.
        torch_cuda: version of CUDA that torch was built with, such as "13.0"; None for none.
        torch_other: another accelerator that torch was built for, such as "ROCm 6.4"; or "".
        torch_archs: GPUs that torch was compiled for, such as "sm_90".
        device_files: of NVIDIA GPUs, such as /dev/nvidia0.
        in_container: whether this is a container.
        driver_library: whether NVIDIA's driver library can be loaded.
        driver: version of the driver; None if unknown.
        driver_cuda: newest CUDA that the driver runs, such as (13, 0); None if unknown.
        driver_error: what NVIDIA's management library said; "" if nothing.
        visible_devices: value of CUDA_VISIBLE_DEVICES; None if not set.
        gpus: those that torch sees.
        cuda_error: what torch said when it was asked to start CUDA; "" if nothing.
        cuda_library: why this package's CUDA library is missing; None if it is loaded.
        cpu_library: why its CPU library is missing; None if it is loaded.
        triton: version; None if not installed.
        processor: name.
        features: of the processor, such as "amx_bf16", "avx512_bf16", "avx512f", "avx2".
        n_cpus: processors of the machine.
        usable_cpus: processors that this process may use (affinity, a container's quota).
        n_threads: threads that torch uses.
        total_memory: bytes.
        free_memory: bytes that programs can still get.
        disk: (folder, free bytes) of where results and caches go.
    """

    system: str = "Linux"
    python: str = "3.12.0"
    torch: str = "2.13.0"
    torch_cuda: str | None = None
    torch_other: str = ""
    torch_archs: tuple[str, ...] = ()
    device_files: tuple[str, ...] = ()
    in_container: bool = False
    driver_library: bool = False
    driver: str | None = None
    driver_cuda: tuple[int, int] | None = None
    driver_error: str = ""
    visible_devices: str | None = None
    gpus: tuple[Gpu, ...] = ()
    cuda_error: str = ""
    cuda_library: str | None = None
    cpu_library: str | None = None
    triton: str | None = None
    processor: str = "a processor"
    features: frozenset[str] = frozenset()
    n_cpus: int = 8
    usable_cpus: float = 8
    n_threads: int = 8
    total_memory: int = 16 << 30
    free_memory: int = 12 << 30
    disk: tuple[tuple[str, int], ...] = ()

    @property
    def has_nvidia(self) -> bool:
        """Whether anything says that there is an NVIDIA GPU."""
        return bool(self.device_files or self.gpus or self.driver)
