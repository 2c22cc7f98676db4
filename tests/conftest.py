"""The whole suite: no network, poisoned memory, the device, the shared data, the GPU guard."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import pytest
import torch
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]
# More than this processor has is asked for: what it does not know is the last that it does.
MOST_INSTRUCTION_SETS = 5
# The tensors here are small: a second thread would mostly wait for the first.
torch.set_num_threads(int(os.environ.get("TEST_THREADS", "1")))
# A pytest that a test starts, as the benchmarks do, is no worker of the one that started it.
for name in [name for name in os.environ if name.startswith("PYTEST_XDIST")]:
    del os.environ[name]
# No test needs the network, and none gets it; nor does a Python that a test starts.
NO_NETWORK = ROOT / "tests" / "no_network"
sys.path.insert(0, str(NO_NETWORK))
sys.modules.pop("sitecustomize", None)
import_module("sitecustomize")
sys.path.remove(str(NO_NETWORK))
others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
if str(NO_NETWORK) not in others:
    os.environ["PYTHONPATH"] = os.pathsep.join([str(NO_NETWORK), *others])
# The same examples every time, so that a change is judged by what it changes. Others, drawn anew:
# pytest --hypothesis-profile=default.
settings.register_profile("same", derandomize=True, database=None)
settings.load_profile("same")
# Triton decides between compiler and interpreter when it is imported, as torch._dynamo does.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-gpu",
        action="store_true",
        help="a GPU must be there: a test marked gpu that would be skipped fails instead",
    )


@pytest.fixture(autouse=True)
def _poisoned_memory() -> Iterator[None]:
    """Fill every torch.empty with NaN, so that a kernel that leaves an element unwritten fails."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real text beside the repository; never committed."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no real text beside the repository: ../shared/data is missing")
    return folder


@pytest.fixture
def device(request: pytest.FixtureRequest) -> torch.device:
    """CUDA for tests marked gpu, else the CPU."""
    if request.node.get_closest_marker("gpu") is None:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    return torch.device("cuda")


@contextmanager
def no_waiting() -> Iterator[None]:
    """Turn every operation that waits for the GPU into an error."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture(params=range(MOST_INSTRUCTION_SETS), ids=lambda n: f"instruction_set{n}")
def _instruction_set(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run a test on the compiled CPU kernels of every instruction set that the processor knows."""
    library = torch.ops.ulmfit_fast_cpu
    if not hasattr(library, "use_instruction_set"):
        pytest.skip("no compiled CPU kernels")
    known = library.use_instruction_set(request.param)
    if request.param >= known:
        library.use_instruction_set(0)
        pytest.skip(f"this processor knows {known} instruction sets")
    yield
    library.use_instruction_set(0)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    wanted = item.config.getoption("--require-gpu") and item.get_closest_marker("gpu") is not None
    if wanted and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped under --require-gpu: {report.longrepr}"
    return report
