"""The doctor: 14 causes on machines made for them, their order, and the real machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from cli_runs import json_of, run

from ulmfit_fast.doctor import Gpu, Machine, diagnose, gpu_probe, probe
from ulmfit_fast.doctor.gpu_probe import SLOWDOWNS

H200 = Gpu(
    name="NVIDIA H200",
    capability=(9, 0),
    total_bytes=141 << 30,
    free_bytes=139 << 30,
    layers=(("layers of 1152 units", "persistent kernel"), ("last layer", "persistent kernel")),
    busy_percent=0,
)
WELL = Machine(
    torch="2.13.0+cu130",
    torch_cuda="13.0",
    torch_archs=("sm_80", "sm_90", "compute_120"),
    device_files=("/dev/nvidia0",),
    driver_library=True,
    driver="580.1",
    driver_cuda=(13, 0),
    gpus=(H200,),
    triton="3.6.0",
    features=frozenset({"amx_bf16", "avx512f"}),
)
BARE = Machine(cuda_library="torch 2.13.0 is not a CUDA build")
CAUSES: dict[int, tuple[Machine, str, str]] = {
    1: (
        replace(WELL, torch="2.13.0+cpu", torch_cuda=None, gpus=()),
        "torch 2.13.0+cpu is a CPU build although an NVIDIA GPU is there",
        "for CUDA 13.0 or older",
    ),
    2: (replace(BARE, torch_other="ROCm 6.4"), "a build for ROCm 6.4", "an NVIDIA GPU"),
    3: (replace(BARE, in_container=True), "no NVIDIA GPU is visible", "--gpus all"),
    4: (
        replace(WELL, driver_library=False, driver=None, driver_cuda=None, gpus=()),
        "its driver's library is missing",
        "install NVIDIA's driver",
    ),
    5: (
        replace(WELL, driver="470.2", driver_cuda=(11, 4), gpus=()),
        "the driver 470.2 is too old: torch needs CUDA 13.0, it runs up to 11.4",
        "update the driver",
    ),
    6: (
        replace(WELL, gpus=(), driver_error="Driver/library version mismatch"),
        "the driver was updated, and the old one is still loaded",
        "restart the machine",
    ),
    7: (
        replace(WELL, gpus=(), visible_devices="-1"),
        "CUDA_VISIBLE_DEVICES='-1' hides it",
        "unset",
    ),
    8: (
        replace(WELL, gpus=(replace(H200, capability=(6, 1)),)),
        "GPU 0 (NVIDIA H200, sm_61) is not among those of this torch (sm_80, sm_90",
        "install a build of torch",
    ),
    9: (
        replace(WELL, gpus=(replace(H200, launch_error="CUDA error: busy"),)),
        "GPU 0 runs no kernel (CUDA error: busy)",
        "exclusive mode",
    ),
    10: (
        replace(WELL, cuda_library="the library ulmfit_fast._cuda was not built"),
        "the library ulmfit_fast._cuda was not built",
        "ULMFIT_FAST_BUILD=cuda pip install",
    ),
    11: (
        replace(WELL, cuda_library="_cuda.so cannot be loaded (undefined symbol: x)"),
        "cannot be loaded (undefined symbol: x)",
        "pip install",
    ),
    12: (
        replace(WELL, gpus=(replace(H200, own_launch_error="no kernel image is available"),)),
        "the extension was built for other architectures (no kernel image is available)",
        "TORCH_CUDA_ARCH_LIST=9.0",
    ),
    13: (
        replace(WELL, gpus=(replace(H200, layers=(("last layer", "Triton: an odd H"),)),)),
        "Triton: an odd H",
        "",
    ),
    14: (
        replace(WELL, gpus=(replace(H200, busy_percent=93, other_processes=("python",)),)),
        "busy 93 % of the time with python",
        "another GPU",
    ),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_each_cause_is_found_and_says_what_to_do(cause: int) -> None:
    machine, says, do = CAUSES[cause]
    report = diagnose(machine)
    found = [finding for finding in report.findings if finding.cause is not None]
    assert [finding.cause for finding in found] == [cause]
    assert says in found[0].says
    assert do in found[0].do
    if cause <= 9:
        assert found[0].says in report.verdict
    else:
        assert report.verdict.startswith("The GPU is used: yes")


def test_a_well_machine_has_nothing_to_mend() -> None:
    report = diagnose(WELL)
    assert report.is_well
    assert {finding.level for finding in report.findings} == {"ok"}
    assert report.verdict == "The GPU is used: yes, persistent kernels for 2 of 2 layers."


def test_a_machine_without_a_gpu_is_well() -> None:
    report = diagnose(BARE)
    assert report.is_well
    assert report.verdict == "There is no GPU to use (no NVIDIA GPU is visible): the CPU trains."


@pytest.mark.parametrize(
    ("first", "second"),
    [(1, 7), (1, 8), (4, 5), (5, 7), (6, 7), (8, 9), (8, 10), (9, 12)],
)
def test_the_cause_that_hides_the_others_is_named(first: int, second: int) -> None:
    plain, one, other = vars(WELL), vars(CAUSES[first][0]), vars(CAUSES[second][0])
    changed = {name: value for name, value in other.items() if value != plain[name]}
    changed |= {name: value for name, value in one.items() if value != plain[name]}
    found = [f.cause for f in diagnose(Machine(**{**plain, **changed})).findings if f.cause]
    assert found[0] == first


@pytest.mark.parametrize(
    ("archs", "capability", "runs"),
    [
        (("sm_80",), (8, 6), True),
        (("sm_86",), (8, 0), False),
        (("sm_80",), (9, 0), False),
        (("compute_80",), (9, 0), True),
        (("sm_90a",), (9, 0), True),
        (("sm_120",), (12, 0), True),
        ((), (5, 0), True),
    ],
)
def test_architectures_run_on_later_ones_of_their_generation(
    archs: tuple[str, ...], capability: tuple[int, int], runs: bool
) -> None:
    machine = replace(WELL, torch_archs=archs, gpus=(replace(H200, capability=capability),))
    assert (8 not in [finding.cause for finding in diagnose(machine).findings]) == runs


@pytest.mark.parametrize(
    ("machine", "what", "do"),
    [
        (replace(BARE, cpu_library="not built"), "CPU kernels", "install a C++ compiler"),
        (replace(BARE, usable_cpus=2, n_threads=16), "threads", "OMP_NUM_THREADS=2"),
        (replace(BARE, free_memory=1 << 30), "memory", "--size tiny"),
        (replace(BARE, disk=(("/data", 1 << 30),)), "disk", "make room"),
        (replace(WELL, triton=None), "Triton", "pip install triton"),
    ],
)
def test_what_is_short_is_a_problem(machine: Machine, what: str, do: str) -> None:
    report = diagnose(machine)
    problems = [finding for finding in report.findings if finding.level == "problem"]
    assert [finding.what for finding in problems] == [what]
    assert do in problems[0].do
    assert report.verdict.endswith("1 problem to mend.")


def test_a_processor_is_known_by_its_best_products() -> None:
    def products(*features: str) -> str:
        findings = diagnose(replace(BARE, features=frozenset(features))).findings
        return next(finding.says for finding in findings if finding.what == "processor")

    assert "AMX" in products("amx_bf16", "avx512_bf16", "avx512f", "avx2")
    assert "AVX512-BF16" in products("avx512_bf16", "avx512f", "avx2")
    assert "float32 (AVX-512)" in products("avx512f", "avx2")
    assert "float32 (AVX2)" in products("avx2")
    assert "several times slower" in products()


def test_a_throttled_gpu_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    report = diagnose(replace(WELL, gpus=(replace(H200, throttled="heat"),)))
    assert any("runs slower than it could: heat" in finding.says for finding in report.findings)
    # What nvidia-smi prints of a hot GPU that another program uses.
    answers = {
        "--query-gpu": [
            ["57", *("Active" if r == "heat" else "Not Active" for r in SLOWDOWNS.values())]
        ],
        "--query-compute-apps": [["123456789", "python3"]],
    }
    monkeypatch.setattr(gpu_probe.shutil, "which", lambda name: name)
    monkeypatch.setattr(
        gpu_probe, "_query", lambda command: next(v for k, v in answers.items() if k in command[3])
    )

    class Properties:
        uuid = "1234"

    assert gpu_probe._smi(Properties()) == (57, ("python3",), "heat")


def test_this_machine_is_described(tmp_path: Path) -> None:
    machine = probe((tmp_path / "not" / "there",))
    assert machine.usable_cpus <= machine.n_cpus
    assert 0 < machine.free_memory <= machine.total_memory
    assert machine.disk[0][1] > 0
    assert diagnose(machine).verdict.endswith(".")


def test_command_prints_a_verdict_and_facts_for_a_report() -> None:
    ran = run("doctor")
    lines = ran.stdout.splitlines()
    assert lines[0].startswith(("The GPU is used: ", "There is no GPU to use "))
    assert any(line.startswith("  - torch: ") for line in lines)
    found = json_of(run("doctor", "--json"))
    assert found["verdict"] == lines[0]
    assert ran.exit_code == (0 if found["is_well"] else 3)
