"""examples/fastai_one_changed_import.py runs as it stands."""

from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import ROOT

pytest.importorskip("fastai")


@pytest.mark.peer
def test_the_script_learns_to_tell_reviews_apart() -> None:
    command = [sys.executable, "-W", "ignore", str(ROOT / "examples/fastai_one_changed_import.py")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    last = ran.stdout.strip().splitlines()[-1]
    accuracy = float(last.partition("accuracy ")[2].partition(";")[0])
    assert accuracy > 0.9
    assert "a warm review is good" in last
