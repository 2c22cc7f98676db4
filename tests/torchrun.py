"""Programs under torchrun, two processes each."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from cli_runs import CACHE
from conftest import ROOT
from ranked_runs import N_RANKS

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
    "GLOO_SOCKET_IFNAME": "lo",
    "OMP_NUM_THREADS": "1",
    "XDG_CACHE_HOME": CACHE.name,
}


def launch(*arguments: object, **more: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*TORCHRUN, f"--nproc-per-node={N_RANKS}", *map(str, arguments)],
        env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more,
    )  # fmt: skip
