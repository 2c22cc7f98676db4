"""Memory that the compiled CPU kernels keep from call to call."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from lstm_calls import Call, Case, draw, run
from torch import Tensor

from ulmfit_fast import _native, functional

pytestmark = pytest.mark.skipif(
    _native.why_missing("lstm_forward", "cpu") is not None,
    reason=f"no compiled CPU kernels: {_native.why_missing('lstm_forward', 'cpu')}",
)
NOT_A_NUMBER = 0xFF  # in every byte, of every dtype
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Say whether two runs gave the same bits."""
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(params=range(2), ids=["our_steps", "steps_by_torch"], autouse=True)
def _instruction_set(request: pytest.FixtureRequest) -> Iterator[None]:
    known = torch.ops.ulmfit_fast_cpu.use_instruction_set(request.param)
    if request.param >= known:
        torch.ops.ulmfit_fast_cpu.use_instruction_set(0)
        pytest.skip(f"this processor knows {known} instruction sets")
    yield
    torch.ops.ulmfit_fast_cpu.use_instruction_set(0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("lengths", [None, "some"])
def test_what_an_earlier_call_left_is_not_read(dtype: torch.dtype, lengths: str | None) -> None:
    larger = draw(Case((9, 10, 40, 70), dtype))
    call = draw(Case((5, 7, 9, 33), dtype, lengths=lengths))
    fresh = run(functional.lstm, call)
    run(functional.lstm, larger)
    assert torch.ops.ulmfit_fast_cpu.fill_scratch(NOT_A_NUMBER) > 0
    assert same(run(functional.lstm, call), fresh)


def test_an_evaluation_does_not_read_it_either() -> None:
    call = draw(Case((5, 7, 9, 33)))
    with torch.no_grad():
        fresh = functional.lstm(*call.arguments())[0]
        torch.ops.ulmfit_fast_cpu.fill_scratch(NOT_A_NUMBER)
        assert torch.equal(functional.lstm(*call.arguments())[0], fresh)


def test_calls_at_the_same_time_have_memory_of_their_own() -> None:
    calls = [draw(Case((12, 16, 24, 48 + n))) for n in range(4)]
    alone = [run(functional.lstm, call) for call in calls]

    def agrees(turn: int) -> bool:
        return same(run(functional.lstm, calls[turn % 4]), alone[turn % 4])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(agrees, range(64)))


def test_it_can_be_given_back() -> None:
    call: Call = draw(Case((5, 7, 9, 33)))
    before = run(functional.lstm, call)
    assert torch.ops.ulmfit_fast_cpu.release_scratch() > 0
    assert torch.ops.ulmfit_fast_cpu.release_scratch() == 0
    assert same(run(functional.lstm, call), before)
