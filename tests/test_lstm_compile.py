"""functional.lstm under torch.compile: one graph, eager's bits, no compilation per size."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from lstm_calls import SEED, Case, draw, run
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from ulmfit_fast import functional


@pytest.fixture(autouse=True)
def _nothing_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize(
    "case",
    [
        Case((4, 3, 6, 5)),
        Case((4, 3, 6, 5), lengths="some", reverse=True),
        Case((4, 3, 6, 5), torch.bfloat16, bias=False, wide_c0=True, layout="transposed"),
        Case((4, 3, 6, 5), drop_p=0.0, through=("c_n",)),
    ],
    ids=str,
)
def test_lstm_compiles_into_one_graph_and_gives_the_bits_of_eager(case: Case) -> None:
    call = draw(case)
    compiled = torch.compile(functional.lstm, fullgraph=True, backend="aot_eager")
    expected = run(functional.lstm, call)
    for name, found in run(compiled, call).items():
        assert torch.equal(found, expected[name]), name


def test_lstm_compiles_without_gradients_and_without_a_state() -> None:
    x, _, weights, drop_p, seed, lengths, _ = draw(Case((4, 3, 6, 5), lengths="some")).arguments()
    compiled = torch.compile(functional.lstm, fullgraph=True, backend="aot_eager")
    found, _ = compiled(x, None, weights, drop_p, seed, lengths)
    assert torch.equal(found, functional.lstm(x, None, weights, drop_p, seed, lengths)[0])


@pytest.mark.parametrize("lengths", [None, "some"], ids=["whole", "lengths"])
def test_compiled_lstm_serves_every_batch_size_and_length(lengths: str | None) -> None:
    backend = CompileCounterWithBackend("aot_eager")

    def layer(x: Tensor, state: tuple[Tensor, Tensor], *rest: object) -> Tensor:
        y, (h_n, c_n) = functional.lstm(x, state, *rest)
        return y.sum() + h_n.sum() + c_n.sum()

    compiled = torch.compile(layer, fullgraph=True, backend=backend, dynamic=True)
    weights = draw(Case((1, 1, 6, 5))).leaves()
    n_compiled = []
    for T in (4, 7):
        for B in (2, 3, 5):
            call = draw(Case((T, B, 6, 5), lengths=lengths))
            leaves = {**call.leaves(), **{n: w for n, w in weights.items() if n[0] in "wb"}}
            loss = compiled(*call.arguments(leaves))
            (dx,) = torch.autograd.grad(loss, leaves["x"])
            expected = layer(*call.arguments(leaves))
            assert torch.equal(loss, expected)
            assert torch.equal(dx, torch.autograd.grad(expected, leaves["x"])[0])
            n_compiled.append(backend.frame_count)
    # The first call may count twice: dynamo starts again once it has seen that drop_p is no tensor.
    assert n_compiled == [n_compiled[0]] * 6


def test_compiled_lstm_draws_another_mask_for_another_seed_without_compiling() -> None:
    backend = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(functional.lstm, fullgraph=True, backend=backend)
    x, state, weights, drop_p, *_ = draw(Case((4, 3, 6, 5))).arguments()
    for seed in (SEED, SEED + 1):
        found, _ = compiled(x, state, weights, drop_p, seed)
        assert torch.equal(found, functional.lstm(x, state, weights, drop_p, seed)[0])
    assert backend.frame_count == 1
