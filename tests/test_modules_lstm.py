"""WeightDroppedLSTM gives what nn.LSTM gives: results, gradients, parameters, dtypes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from numerics import assert_no_worse
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from ulmfit_fast import functional, reference
from ulmfit_fast.modules import WeightDroppedLSTM

T, B, I, H = 6, 4, 5, 7
LENGTHS = {"sorted": torch.tensor([6, 4, 4, 1]), "unsorted": torch.tensor([2, 6, 1, 5])}
KINDS: dict[str, dict[str, Any]] = {
    "one": {},
    "no bias": {"bias": False},
    "both ways": {"bidirectional": True},
    "two": {"num_layers": 2},
    "three both ways": {"num_layers": 3, "bidirectional": True},
    "two both ways no bias": {"num_layers": 2, "bidirectional": True, "bias": False},
}
every_kind = pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)

Results = dict[str, Tensor]
Form = Callable[[nn.Module, Tensor, Tensor, Tensor], Results]


def pair(**options: Any) -> tuple[WeightDroppedLSTM, nn.LSTM]:
    """Return our layers and nn.LSTM's with the same weights."""
    ours, theirs = WeightDroppedLSTM(I, H, **options), nn.LSTM(I, H, **options)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return ours, theirs


def name(output: Tensor, state: tuple[Tensor, Tensor]) -> Results:
    return {"output": output, "h_n": state[0], "c_n": state[1]}


def run_batch(lstm: nn.Module, x: Tensor, h: Tensor, c: Tensor) -> Results:
    return name(*lstm(x.transpose(0, 1) if lstm.batch_first else x, (h, c)))


def run_without_state(lstm: nn.Module, x: Tensor, h: Tensor, c: Tensor) -> Results:
    return name(*lstm(x))


def run_one_sequence(lstm: nn.Module, x: Tensor, h: Tensor, c: Tensor) -> Results:
    return name(*lstm(x[:, 1], (h[:, 1], c[:, 1])))


def run_one_without_state(lstm: nn.Module, x: Tensor, h: Tensor, c: Tensor) -> Results:
    return name(*lstm(x[:, 1]))


def pack(x: Tensor, order: str) -> PackedSequence:
    return pack_padded_sequence(x, LENGTHS[order], enforce_sorted=order == "sorted")


def run_packed(order: str, with_state: bool) -> Form:
    def run(lstm: nn.Module, x: Tensor, h: Tensor, c: Tensor) -> Results:
        packed = pack(x, order)
        output, state = lstm(packed, (h, c)) if with_state else lstm(packed)
        assert isinstance(output, PackedSequence)
        for found, given in zip(output[1:], packed[1:], strict=True):
            assert found is given or torch.equal(found, given)
        return {**name(output.data, state), "padded": pad_packed_sequence(output)[0]}

    return run


FORMS: dict[str, Form] = {
    "batch": run_batch,
    "no state": run_without_state,
    "one sequence": run_one_sequence,
    "one without state": run_one_without_state,
    "packed sorted": run_packed("sorted", with_state=True),
    "packed unsorted": run_packed("unsorted", with_state=True),
    "packed without state": run_packed("unsorted", with_state=False),
}


def with_gradients(form: Form, lstm: nn.Module, inputs: list[Tensor]) -> Results:
    """Return a form's results, and the gradients of x, the state and every parameter."""
    leaves = [leaf.detach().requires_grad_() for leaf in inputs]
    found = form(lstm, *leaves)
    generator = torch.Generator().manual_seed(2)
    upstream = [torch.randn(v.shape, generator=generator).to(v.dtype) for v in found.values()]
    sought = {**dict(zip("xhc", leaves, strict=True)), **dict(lstm.named_parameters())}
    grads = torch.autograd.grad(
        list(found.values()), list(sought.values()), upstream, allow_unused=True
    )
    gradients = zip(sought, grads, strict=True)
    return found | {f"d{name}": grad for name, grad in gradients if grad is not None}


def draw_inputs(options: dict[str, Any]) -> list[Tensor]:
    n_states = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    return [torch.randn(T, B, I), torch.randn(n_states, B, H), torch.randn(n_states, B, H)]


def assert_as_accurate(found: Results, plain: Results, exact: Results, dtype: torch.dtype) -> None:
    assert list(found) == list(plain) == list(exact)
    for key in exact:
        assert_no_worse(key, found[key], plain[key], exact[key], dtype)


@pytest.mark.parametrize("batch_first", [False, True], ids=["time first", "batch first"])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@every_kind
def test_results_and_gradients_are_those_of_nn_lstm(
    options: dict[str, Any], form: Form, batch_first: bool
) -> None:
    torch.manual_seed(0)
    ours, theirs = pair(**options, batch_first=batch_first)
    inputs = draw_inputs(options)
    plain = with_gradients(form, theirs, inputs)
    exact = with_gradients(form, copy.deepcopy(theirs).double(), [x.double() for x in inputs])
    assert_as_accurate(with_gradients(form, ours, inputs), plain, exact, torch.float32)


@pytest.mark.parametrize("batch_first", [False, True], ids=["time first", "batch first"])
@every_kind
def test_lengths_of_a_padded_batch_equal_packing(
    options: dict[str, Any], batch_first: bool
) -> None:
    torch.manual_seed(0)
    ours, theirs = pair(**options, batch_first=batch_first)
    lengths = LENGTHS["unsorted"]

    def padded(lstm: nn.Module, x: Tensor, h: Tensor, c: Tensor) -> Results:
        y, state = lstm(x.transpose(0, 1) if batch_first else x, (h, c), lengths=lengths)
        return name(y.transpose(0, 1) if batch_first else y, state)

    def packed(lstm: nn.Module, x: Tensor, h: Tensor, c: Tensor) -> Results:
        y, state = lstm(pack(x, "unsorted"), (h, c))
        return name(pad_packed_sequence(y)[0], state)

    inputs = draw_inputs(options)
    plain = with_gradients(packed, theirs, inputs)
    exact = with_gradients(packed, copy.deepcopy(theirs).double(), [x.double() for x in inputs])
    assert_as_accurate(with_gradients(padded, ours, inputs), plain, exact, torch.float32)


@pytest.mark.parametrize("p", [0.4, 1.0])
def test_dropout_between_layers_drops_what_nn_lstm_drops(p: float) -> None:
    options = {"num_layers": 3, "bidirectional": True, "dropout": p}
    ours, theirs = pair(**options)
    inputs = draw_inputs(options)
    found = []
    for lstm in (ours, theirs, copy.deepcopy(theirs).double()):
        torch.manual_seed(5)
        dtype = next(lstm.parameters()).dtype
        found.append(with_gradients(run_batch, lstm, [x.to(dtype) for x in inputs]))
    # The draws do not depend on the dtype, so float64 is exact for the same dropped elements.
    assert_as_accurate(*found, torch.float32)
    dropped = ours(inputs[0])[0]
    assert torch.equal(dropped, ours(inputs[0])[0]) == (p == 1.0)
    assert torch.equal(ours.eval()(inputs[0])[0], ours(inputs[0])[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@every_kind
def test_parameters_are_those_of_nn_lstm_to_the_bit(
    options: dict[str, Any], dtype: torch.dtype
) -> None:
    options = {**options, "dtype": dtype}
    torch.manual_seed(3)
    ours = WeightDroppedLSTM(I, H, **options)
    torch.manual_seed(3)
    theirs = nn.LSTM(I, H, **options)
    expected = dict(theirs.named_parameters())
    assert [key for key, _ in ours.named_parameters()] == list(expected)
    assert all(torch.equal(value, expected[key]) for key, value in ours.named_parameters())
    assert [[w.shape for w in layer] for layer in ours.all_weights] == [
        [w.shape for w in layer] for layer in theirs.all_weights
    ]
    other = nn.LSTM(I, H, **options)
    ours.load_state_dict(other.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert list(ours.state_dict()) == list(other.state_dict())
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in theirs.state_dict().items())
    for lstm in (ours, theirs):
        torch.manual_seed(4)
        lstm.reset_parameters()
    assert all(torch.equal(value, expected[key]) for key, value in ours.named_parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_layers_move_to_another_dtype(dtype: torch.dtype) -> None:
    lstm = WeightDroppedLSTM(I, H, 2, drop_p=0.3).to(dtype)
    y, (h, c) = lstm(torch.randn(T, B, I, dtype=dtype))
    assert {y.dtype, h.dtype, c.dtype} == {dtype}
    y.sum().backward()
    assert {p.grad.dtype for p in lstm.parameters()} == {dtype}
    made = WeightDroppedLSTM(I, H, device="meta", dtype=dtype)
    assert {(p.device.type, p.dtype) for p in made.parameters()} == {("meta", dtype)}
    c_0 = torch.zeros(2, B, H)
    assert lstm(torch.randn(T, B, I, dtype=dtype), (h, c_0.to(c)))[1][1].dtype == dtype


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_autocast_runs_in_bfloat16_with_a_cell_state_in_float32(form: Form) -> None:
    torch.manual_seed(0)
    options = {"num_layers": 2, "bidirectional": True}
    ours, theirs = pair(**options)
    inputs = draw_inputs(options)
    exact = with_gradients(form, copy.deepcopy(theirs).double(), [x.double() for x in inputs])
    # nn.LSTM on the CPU casts no packed input: what it is measured by is nn.LSTM in bfloat16.
    low = copy.deepcopy(theirs).bfloat16()
    plain = with_gradients(form, low, [x.bfloat16() for x in inputs])
    with torch.autocast("cpu", torch.bfloat16):
        found = form(ours, *inputs)
        expected = form(theirs, *inputs)
        found = with_gradients(form, ours, inputs)
    assert found["c_n"].dtype == torch.float32
    assert found["h_n"].dtype == found["output"].dtype == torch.bfloat16
    if "padded" not in found:
        assert expected["output"].dtype == expected["h_n"].dtype == torch.bfloat16
    assert all(found[key].dtype == torch.float32 for key in found if key.startswith("d"))
    assert_as_accurate(found, plain, exact, torch.bfloat16)


def test_autocast_leaves_float64_alone() -> None:
    lstm, x = WeightDroppedLSTM(I, H).double(), torch.randn(T, B, I, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(lstm(x)[0], lstm(x)[0])
        assert lstm(x)[0].dtype == nn.LSTM(I, H).double()(x)[0].dtype == torch.float64


def test_autocast_ends_where_the_kernels_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def record(x: Tensor, *arguments: Any, **flags: Any) -> Any:
        seen.append((torch.is_autocast_enabled("cpu"), x.dtype))
        return reference.lstm(x, *arguments, **flags)

    monkeypatch.setattr(functional, "lstm", record)
    with torch.autocast("cpu", torch.bfloat16):
        WeightDroppedLSTM(I, H, 2)(torch.randn(T, B, I))
    assert seen == [(False, torch.bfloat16)] * 2
