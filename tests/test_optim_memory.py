"""What LayerwiseAdamW holds in memory, and where."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from ulmfit_fast import LayerwiseAdamW, _native

SMAPS = Path("/proc/self/smaps")


def flags_at(address: int) -> set[str]:
    """Return the flags of the mapping that holds an address, as Linux tells them."""
    inside = False
    for line in SMAPS.read_text().splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(found[1], 16) <= address < int(found[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return set(line.split()[1:])
    return set()


@pytest.mark.skipif(not SMAPS.exists(), reason="this system has no /proc/self/smaps")
@pytest.mark.skipif(
    _native.why_missing("layerwise_adamw_", "cpu") is not None, reason="no compiled CPU kernels"
)
def test_large_moments_are_advised_to_lie_in_huge_pages() -> None:
    if not Path("/sys/kernel/mm/transparent_hugepage").exists():
        pytest.skip("this kernel has no transparent huge pages")
    p = nn.Parameter(torch.zeros(4 << 20))
    p.grad = torch.ones_like(p)
    optimizer = LayerwiseAdamW([p])
    optimizer.step()
    moment = optimizer.state[p]["exp_avg"]
    middle = moment.data_ptr() + moment.nbytes // 2
    assert "hg" in flags_at(middle)


@pytest.mark.parametrize("n", [1, 1 << 20])
def test_state_is_two_moments_and_a_count(n: int) -> None:
    p = nn.Parameter(torch.zeros(n))
    p.grad = torch.ones_like(p)
    optimizer = LayerwiseAdamW([p], max_grad_norm=1.0)
    optimizer.step()
    state = optimizer.state[p]
    assert {name: value.numel() for name, value in state.items()} == {
        "step": 1,
        "exp_avg": n,
        "exp_avg_sq": n,
    }
