"""The sanitizers of make sanitize notice what they are for; other builds leave this out."""

import subprocess
import sys

import pytest
import torch

from ulmfit_fast import _native  # loads the compiled library

LIBRARY = torch.ops.ulmfit_fast_cpu


@pytest.mark.parametrize(
    ("fault", "report"),
    [("read_behind_scratch", "use-after-poison"), ("race", "data race")],
)
def test_a_planted_fault_is_found(fault: str, report: str) -> None:
    assert ("lstm_forward", "cpu") in _native.kernels
    if not hasattr(LIBRARY, fault):
        pytest.skip("not this sanitizer's build")
    code = (
        "import torch; torch.set_num_threads(3); import ulmfit_fast._native; "
        f"torch.ops.ulmfit_fast_cpu.{fault}()"
    )
    run = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert run.returncode != 0
    assert report in run.stderr
