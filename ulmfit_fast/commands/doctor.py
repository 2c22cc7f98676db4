"""`ulmfit-fast doctor`: is the GPU used, and if not, why, and what to do."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from ulmfit_fast import __version__
from ulmfit_fast.commands.cache import cache_folder
from ulmfit_fast.commands.terminal import Terminal
from ulmfit_fast.doctor import Machine, Report, diagnose, probe

MARKS = {"ok": "ok  ", "note": "note", "problem": "MEND"}


def say_diagnosis(terminal: Terminal) -> bool:
    """Print the verdict and every finding; return whether nothing is to be mended."""
    cache = cache_folder(None)
    machine = probe((Path.cwd(), *([] if cache is None else [cache])))
    report = diagnose(machine)
    terminal.say(report.verdict)
    terminal.say()
    for finding in report.findings:
        terminal.say(f"  {MARKS[finding.level]}  {finding.what}: {finding.says}")
        if finding.do:
            terminal.say(f"        -> {finding.do}")
    terminal.say()
    terminal.say("For a report of a problem:")
    for line in facts(machine, report):
        terminal.say(f"  {line}")
    terminal.result(
        {
            "verdict": report.verdict,
            "is_well": report.is_well,
            "findings": [asdict(finding) for finding in report.findings],
            "machine": {**asdict(machine), "features": sorted(machine.features)},
        }
    )
    return report.is_well


def facts(machine: Machine, report: Report) -> list[str]:
    """Return a few lines of Markdown that say what was found on what."""
    gpus = "; ".join(gpu.name for gpu in machine.gpus) or "none"
    causes = [f"{f.cause}" for f in report.findings if f.cause is not None]
    driver_cuda = machine.driver_cuda and "{}.{}".format(*machine.driver_cuda)
    libraries = machine.cpu_library or "built", machine.cuda_library or "built"
    rows = {
        "verdict": report.verdict,
        "causes": ", ".join(causes) or "none",
        "ulmfit_fast": __version__,
        "torch": f"{machine.torch}, CUDA {machine.torch_cuda or 'none'}",
        "driver": f"{machine.driver or 'none'}, CUDA {driver_cuda or 'none'}",
        "GPUs": gpus,
        "libraries": "CPU {}; CUDA {}".format(*libraries),
        "triton": machine.triton or "none",
        "processor": f"{machine.processor}, {machine.usable_cpus:g} of {machine.n_cpus} processors",
        "system": f"{machine.system}, Python {machine.python}",
    }
    return [f"- {name}: {value}" for name, value in rows.items()]
