"""LayerwiseAdamW under DistributedDataParallel: every rank keeps the same bits.

This file is also the program of each rank.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import torch
from conftest import ROOT
from torch import Tensor, nn

from ulmfit_fast import LayerwiseAdamW

N_RANKS, N_STEPS, N_ROWS = 2, 5, 8


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(33, 65), nn.Tanh(), nn.Linear(65, 3))


def make_optimizer(model: nn.Module) -> LayerwiseAdamW:
    first, _, last = model
    groups = [
        {"params": list(first.parameters()), "lr": 1e-3},
        {"params": list(last.parameters()), "lr": 1e-2},
    ]
    return LayerwiseAdamW(groups, max_grad_norm=0.1, bf16_shadow=True)


def batch(step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(N_RANKS * N_ROWS, 33, generator=generator)


def train(model: nn.Module, optimizer: LayerwiseAdamW, rows: slice) -> list[Tensor]:
    """Return the parameters after some steps, and the norm of the last gradient."""
    for step in range(N_STEPS):
        optimizer.zero_grad()
        model(batch(step)[rows]).square().mean().backward()
        optimizer.step()
    return [*(p.detach().clone() for p in model.parameters()), optimizer.last_grad_norm]


def run_rank(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'store'}",
        rank=rank,
        world_size=N_RANKS,
        timeout=timedelta(seconds=60),
    )
    found = train_wrapped(slice(rank * N_ROWS, (rank + 1) * N_ROWS))
    torch.save(found, folder / f"rank{rank}.pt")
    gc.collect()  # DDP holds on to the group, whose threads must have ended before the process does
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def train_wrapped(rows: slice) -> list[Tensor]:
    model = make_model()
    optimizer = make_optimizer(model)
    wrapped = nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
    return train(wrapped, optimizer, rows)


def test_ranks_keep_the_same_bits_and_train_as_one_process(tmp_path: Path) -> None:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(tmp_path)],
            env={**os.environ, "PYTHONPATH": path, "GLOO_SOCKET_IFNAME": "lo"},
        )
        for rank in range(N_RANKS)
    ]
    assert [rank.wait(timeout=120) for rank in ranks] == [0] * N_RANKS
    found = [torch.load(tmp_path / f"rank{r}.pt", weights_only=True) for r in range(N_RANKS)]
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    model = make_model()
    alone = train(model, make_optimizer(model), slice(None))
    for a, b in zip(found[0], alone, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)


if __name__ == "__main__":
    run_rank(int(sys.argv[1]), Path(sys.argv[2]))
