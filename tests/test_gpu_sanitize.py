"""`make gpu-sanitize` runs what it says under every tool, and says what it leaves out."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
#: Ops of CUDA kernels, by the part of a test's name that tells them.
KERNELS = ("drop_connect", "layer", "loss", "lstm", "step")
#: Stands in for the tool: notes how it was called, and lists the tests in place of running them.
FAKE = """#!/bin/sh
echo "$1 $2 $3 $4" >> "$OUT/calls"
shift 4
case "$FAKE" in
    list) exec "$@" --collect-only -o addopts= ;;
    *) exit "$FAKE" ;;
esac
"""


def sanitize(folder: Path, fake: str | None, *variables: str) -> subprocess.CompletedProcess[str]:
    """Run the target; fake is what the tool does, None that there is none."""
    tools = folder / "tools"
    tools.mkdir()
    for name in ("bash", "sh", "make", "mkdir", "tail", "echo", "cat"):
        (tools / name).symlink_to(shutil.which(name) or name)
    if fake is not None:
        (tools / "compute-sanitizer").write_text(FAKE)
        (tools / "compute-sanitizer").chmod(0o755)
    environment = os.environ | {"PATH": str(tools), "OUT": str(folder), "FAKE": fake or ""}
    command = ["make", "--no-print-directory", "gpu-sanitize", f"PYTHON={sys.executable}"]
    return subprocess.run(
        [*command, *variables],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="no make")


def test_the_selection_has_a_test_of_every_kernel(tmp_path: Path) -> None:
    ran = sanitize(tmp_path, "list", "SANITIZER_TOOLS=memcheck")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    listed = (tmp_path / "compute-sanitizer" / "memcheck.log").read_text()
    names = re.findall(r"::test_gpu_(\w+)", listed)
    assert 8 <= len(names) <= 60, listed
    for kernel in KERNELS:
        assert any(name.startswith(kernel) for name in names), f"{kernel}: not in\n{listed}"


def test_every_tool_runs_and_one_that_finds_something_fails(tmp_path: Path) -> None:
    for fake, status in (("0", 0), ("1", 2)):
        folder = tmp_path / fake
        folder.mkdir()
        ran = sanitize(folder, fake)
        assert ran.returncode == status, ran.stderr
        calls = (folder / "calls").read_text().splitlines()
        assert calls == [f"--tool {tool} --error-exitcode 1" for tool in TOOLS]
        verdict = "failed" if status else "clean"
        assert [f"compute-sanitizer {tool}: {verdict}" for tool in TOOLS] == [
            line for line in ran.stdout.splitlines() if line.startswith("compute-sanitizer")
        ]


def test_a_missing_tool_is_said(tmp_path: Path) -> None:
    ran = sanitize(tmp_path, None)
    assert ran.returncode == 0
    assert ran.stdout == "left out: CUDA kernels under compute-sanitizer (not in PATH)\n"
