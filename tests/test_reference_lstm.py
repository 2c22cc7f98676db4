"""The specification of the LSTM, held against torch.nn.LSTM, autograd and gradcheck, in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from lstm_calls import OUTPUTS, SEED, Call, Case, draw, run, run_by_hand
from numerics import relative_error
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ulmfit_fast import reference
from ulmfit_fast.reference.lstm import dropped_weight

F64 = torch.float64
SHAPES = [(1, 1, 1, 1), (3, 2, 5, 7), (17, 5, 12, 16)]
DIRECTIONS = pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
LENGTHS = pytest.mark.parametrize("lengths", [None, "some"], ids=["whole", "lengths"])


def torch_lstm(
    x: Tensor,
    state: tuple[Tensor, Tensor],
    weights: tuple[Tensor | None, ...],
    drop_p: float,
    seed: Tensor | None,
    lengths: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Return what torch.nn.LSTM gives; in reverse the second half of a bidirectional one."""
    T, H = len(x), weights[1].shape[1]
    lstm = nn.LSTM(x.shape[2], H, bias=weights[2] is not None, bidirectional=reverse, dtype=F64)
    dropped = (weights[0], dropped_weight(weights[1], drop_p, seed), *weights[2:])
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    suffix = "_reverse" if reverse else ""
    parameters = {f"{n}{suffix}": w for n, w in zip(names, dropped, strict=True) if w is not None}
    states = tuple(torch.stack([torch.ones_like(s), s] if reverse else [s]) for s in state)
    if lengths is not None:
        x = pack_padded_sequence(x, lengths, enforce_sorted=False)
    y, (h_n, c_n) = torch.func.functional_call(lstm, parameters, (x, states))
    if lengths is not None:
        y, _ = pad_packed_sequence(y, total_length=T)
    return y[..., -H:], (h_n[-1], c_n[-1])


def assert_equal_results(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, exact in expected.items():
        assert relative_error(found[name], exact) < 1e-12, name


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@DIRECTIONS
@LENGTHS
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_lstm_equals_torch_lstm_with_dropped_weights(
    shape: tuple[int, ...], lengths: str | None, reverse: bool, bias: bool
) -> None:
    call = draw(Case(shape, F64, lengths=lengths, reverse=reverse, bias=bias))
    assert_equal_results(run(reference.lstm, call), run(torch_lstm, call))


@pytest.mark.parametrize("drop_p", [0.0, 0.5])
@DIRECTIONS
@pytest.mark.parametrize("lengths", [None, "some", (0, 0)], ids=["whole", "lengths", "no steps"])
@pytest.mark.parametrize("shape", [(1, 2, 1, 1), (6, 2, 4, 7), (9, 2, 3, 16)], ids=str)
def test_handwritten_backward_equals_autograd(
    shape: tuple[int, ...], lengths: str | tuple[int, ...] | None, reverse: bool, drop_p: float
) -> None:
    call = draw(Case(shape, F64, lengths=lengths, reverse=reverse, drop_p=drop_p))
    assert_equal_results(run_by_hand(call), run(reference.lstm, call))


@pytest.mark.parametrize("output", OUTPUTS)
@DIRECTIONS
@LENGTHS
def test_handwritten_backward_of_each_output_equals_autograd(
    output: str, lengths: str | None, reverse: bool
) -> None:
    case = Case((6, 3, 4, 7), F64, lengths=lengths, reverse=reverse, through=(output,))
    call = draw(case)
    assert_equal_results(run_by_hand(call), run(reference.lstm, call))


@pytest.mark.parametrize("need_dx", [False, True])
@pytest.mark.parametrize("need_dw", [False, True])
def test_handwritten_backward_gives_what_is_wanted(need_dx: bool, need_dw: bool) -> None:
    call = draw(Case((4, 3, 5, 7), lengths="some"))
    found = reference.lstm_backward(*call.backward_arguments(need_dx, need_dw))
    everything = reference.lstm_backward(*call.backward_arguments())
    wanted = (need_dx, need_dw, need_dw, need_dw, True, True)
    for result, expected, is_wanted in zip(found, everything, wanted, strict=True):
        assert torch.equal(result, expected) if is_wanted else list(result.shape) == [0]


@DIRECTIONS
@LENGTHS
def test_lstm_passes_gradcheck(lengths: str | None, reverse: bool) -> None:
    call = draw(Case((3, 2, 2, 2), F64, lengths=lengths, reverse=reverse, drop_p=0.4))
    leaves = call.leaves()

    def outputs(*tensors: Tensor) -> tuple[Tensor, ...]:
        y, state = reference.lstm(*call.arguments(dict(zip(leaves, tensors, strict=True))))
        return y, *state

    assert torch.autograd.gradcheck(outputs, tuple(leaves.values()))
    assert torch.autograd.gradgradcheck(outputs, tuple(leaves.values()))


@DIRECTIONS
def test_rows_do_not_see_each_other_nor_the_steps_beyond_their_length(reverse: bool) -> None:
    call = draw(Case((7, 4, 3, 5), F64, lengths=(7, 1, 4, 6), reverse=reverse))
    y, (h_n, c_n) = reference.lstm(*call.arguments())
    for row, length in enumerate(call.lengths.tolist()):
        t = call.tensors
        short = t["x"][:length, row : row + 1]
        alone = {**t, "x": short, "h0": t["h0"][row : row + 1], "c0": t["c0"][row : row + 1]}
        one = Call(alone, {}, None, call.drop_p, reverse)
        expected_y, (expected_h, expected_c) = reference.lstm(*one.arguments())
        assert relative_error(y[:length, row], expected_y[:, 0]) < 1e-14
        assert y[length:, row].count_nonzero() == 0
        assert relative_error(h_n[row], expected_h[0]) < 1e-14
        assert relative_error(c_n[row], expected_c[0]) < 1e-14


@DIRECTIONS
def test_lstm_forward_saves_the_cell_state_of_each_step(reverse: bool) -> None:
    call = draw(Case((5, 2, 3, 4), F64, lengths=(5, 2), reverse=reverse))
    y, h_n, c_n, c, gates = reference.lstm_forward(*call.forward_arguments())
    _, _, _, o = gates.chunk(4, dim=2)
    assert relative_error(y, o * c.tanh()) < 1e-14
    assert gates[2:, 1].count_nonzero() == 0
    c0 = call.tensors["c0"]
    if reverse:  # the second row begins late and ends at step 0
        assert torch.equal(c[2:, 1], c0[1].expand(3, 4))
        assert torch.equal(c[0], c_n)
    else:  # it ends early, and stands still
        assert torch.equal(c[2:, 1], c[1, 1].expand(3, 4))
        assert torch.equal(c[-1], c_n)
    assert torch.equal(h_n[0], y[0 if reverse else -1, 0])


def test_lstm_in_bfloat16_keeps_its_cell_state_in_float32() -> None:
    call = draw(Case((40, 2, 8, 16), torch.bfloat16, wide_c0=True))
    y, h_n, c_n, c, gates = reference.lstm_forward(*call.forward_arguments())
    assert [t.dtype for t in (y, h_n, gates)] == [torch.bfloat16] * 3
    assert [t.dtype for t in (c_n, c)] == [torch.float32] * 2
    assert torch.equal(c[-1], c_n)
    assert not torch.equal(c_n, c_n.bfloat16().float())
    exact_y, _ = reference.lstm(*call.to(F64).arguments())
    assert relative_error(y, exact_y) < 5e-3  # nn.LSTM in bfloat16: 4e-3 to 5e-3


def test_missing_seed_of_dropped_weights_is_named() -> None:
    x, state, weights, *_ = draw(Case((2, 2, 3, 4))).arguments()
    with pytest.raises(ValueError, match=r"seed: a tensor is needed where drop_p is 0\.5"):
        reference.lstm(x, state, weights, 0.5, None)


def test_dropped_weights_have_the_mask_of_drop_connect() -> None:
    call = draw(Case((4, 3, 5, 7), F64))
    dropped = reference.drop_connect(call.tensors["w_hh"], 0.5, SEED)
    plain = replace(call, tensors={**call.tensors, "w_hh": dropped}, drop_p=0.0)
    found, expected = run(reference.lstm, call), run(reference.lstm, plain)
    assert torch.equal(found["y"], expected["y"])
    # The chain rule: the gradient of the undropped weight is that of the dropped one, dropped.
    masked = reference.drop_connect(expected["dw_hh"], 0.5, SEED)
    assert relative_error(found["dw_hh"], masked) < 1e-14
