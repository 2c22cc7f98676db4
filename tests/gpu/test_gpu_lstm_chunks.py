"""The LSTM over chunks of documents on a GPU: as exact as PyTorch, and without waiting."""

from __future__ import annotations

from dataclasses import replace

import lstm_calls
import lstm_chunk_calls
import pytest
import torch
from conftest import no_waiting
from lstm_calls import Call
from lstm_chunk_calls import ChunkCase, assert_chunks_no_worse, chunk_case, draw_chunks, run_chunks

from ulmfit_fast import functional

pytestmark = pytest.mark.gpu
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
CASES = [
    *(chunk_case((1, 2, 5), (4, 9, 33), dtype) for dtype in DTYPES),
    *(chunk_case((2, 2, 30), (6, 40, 96), dtype, drop_p=0.0, bias=False) for dtype in DTYPES[:2]),
    chunk_case((1, 1, 8, 32), (72, 1152, 1152), torch.bfloat16),
]


def on_gpu(call: Call, device: torch.device) -> Call:
    """Move the tensors of a call."""
    tensors, cotangents = (
        {name: t.to(device) for name, t in named.items()}
        for named in (call.tensors, call.cotangents)
    )
    return replace(call, tensors=tensors, cotangents=cotangents)


@pytest.fixture(autouse=True)
def _calls_on_gpu(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = lstm_chunk_calls.draw_chunks
    monkeypatch.setattr(lstm_calls, "SEED", lstm_calls.SEED.to(device))
    monkeypatch.setattr(
        lstm_chunk_calls, "draw_chunks", lambda *arguments: on_gpu(drawn(*arguments), device)
    )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gpu_chunks_are_as_accurate_as_pytorch(case: ChunkCase) -> None:
    assert_chunks_no_worse(functional.lstm_chunks, case, n_draws=1 if case.case.shape[0] > 9 else 3)


def test_gpu_chunks_wait_for_nothing(device: torch.device) -> None:
    rows = (1, 2, 5)
    call = on_gpu(draw_chunks(chunk_case(rows, (4, 9, 32), torch.bfloat16)), device)
    run_chunks(functional.lstm_chunks, call, rows)  # compiles
    with no_waiting():
        run_chunks(functional.lstm_chunks, call, rows)
