"""The LSTM says which argument is wrong, what was found and what to do; its ops never crash."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lstm_calls import SEED, Case, draw
from torch import Tensor

from ulmfit_fast import _native, _ops, functional

T, B, I, H = 4, 3, 6, 5
CASE = Case((T, B, I, H))
F64, BF16 = torch.float64, torch.bfloat16


def call_lstm(dtype: torch.dtype = torch.float32, **changes: Any) -> None:
    """Call functional.lstm with some arguments replaced, given as functions of the right ones."""
    a = {**draw(CASE).to(dtype).tensors, "drop_p": 0.5, "seed": SEED, "lengths": None}
    a |= {k: change(a[k]) if callable(change) else change for k, change in changes.items()}
    weights = (a["w_ih"], a["w_hh"], a["b_ih"], a["b_hh"])
    state = (a["h0"], a["c0"])
    functional.lstm(a["x"], state, weights, a["drop_p"], a["seed"], a["lengths"])


def to_meta(tensor: Tensor) -> Tensor:
    return tensor.to("meta")


def cut(tensor: Tensor) -> Tensor:
    return tensor[..., :-1]


def cut_rows(tensor: Tensor) -> Tensor:
    return tensor[:-1]


SHAPES = {"w_ih": [4 * H, I], "w_hh": [4 * H, H], "b_ih": [4 * H], "b_hh": [4 * H]}
SHAPES |= {"h0": [B, H], "c0": [B, H]}
# What is said -> what is given instead of right arguments.
BAD_VALUES: dict[str, dict[str, Any]] = {
    "drop_p: expected a chance in [0, 1), found 1.0": {"drop_p": 1.0},
    "drop_p: expected a chance in [0, 1), found -0.5": {"drop_p": -0.5},
    "drop_p: expected a chance in [0, 1), found nan": {"drop_p": float("nan")},
    "drop_p: expected a chance in [0, 1), found inf": {"drop_p": float("inf")},
    "x: expected shape [T, B, I] with T, B >= 1, found [4, 3]": {"x": lambda x: x[..., 0]},
    "x: expected shape [T, B, I] with T, B >= 1, found [1, 4, 3, 6]": {"x": lambda x: x[None]},
    "x: expected shape [T, B, I] with T, B >= 1, found [0, 3, 6]": {"x": lambda x: x[:0]},
    "x: expected shape [T, B, I] with T, B >= 1, found [4, 0, 6]": {"x": lambda x: x[:, :0]},
    "w_ih: expected shape [20, 5], found [20, 6]": {"x": cut},
    "h0: expected shape [2, 5], found [3, 5]": {"x": lambda x: x[:, :2]},
    "w_ih: expected shape [16, 6], found [20, 6]": {"w_hh": cut},
    "w_ih: expected shape [20, 6], found [120]": {"w_ih": torch.flatten},
    "b_ih: expected both biases or neither, found None": {"b_ih": None},
    "b_hh: expected both biases or neither, found None": {"b_hh": None},
    "seed: a tensor is needed where drop_p is 0.5": {"seed": None},
    "seed: expected an int64 tensor with one element, found int; torch.tensor(7) makes one": {
        "seed": 7
    },
    "seed: expected an int64 tensor with one element, found torch.int32 [1]": {"seed": Tensor.int},
    "seed: expected an int64 tensor with one element, found torch.int64 [2]": {
        "seed": lambda seed: seed.repeat(2)
    },
    "seed: expected an int64 tensor with one element, found torch.int64 [0]": {
        "seed": lambda seed: seed[:0]
    },
    "seed: expected on cpu beside x, found on meta": {"seed": to_meta},
    "lengths: expected an int64 tensor of shape [3], found torch.int64 [2]": {
        "lengths": torch.tensor([1, 2])
    },
    "lengths: expected an int64 tensor of shape [3], found torch.int64 [3, 1]": {
        "lengths": torch.ones(3, 1, dtype=torch.int64)
    },
    "lengths: expected an int64 tensor of shape [3], found torch.int32 [3]": {
        "lengths": torch.tensor([1, 2, 3], dtype=torch.int32)
    },
    "lengths: expected an int64 tensor of shape [3], found torch.float32 [3]": {
        "lengths": torch.ones(3)
    },
    "lengths: expected on the CPU or cpu, found on meta": {
        "lengths": torch.ones(3, dtype=torch.int64, device="meta")
    },
    "lengths: expected values in 1..4, found 0..4": {"lengths": torch.tensor([4, 0, 2])},
    "lengths: expected values in 1..4, found 1..5": {"lengths": torch.tensor([4, 5, 1])},
    "lengths: expected values in 1..4, found -2..3": {"lengths": torch.tensor([-2, 3, 1])},
    "x: expected a dense tensor, found torch.sparse_coo; call x.to_dense()": {
        "x": Tensor.to_sparse
    },
    "w_hh: expected shape [4H, H] with H >= 1, found []": {"w_hh": lambda w: w[0, 0]},
    "w_hh: expected shape [4H, H] with H >= 1, found [0, 0]": {
        "w_ih": lambda w: w[:0],
        "w_hh": lambda w: w[:0, :0],
        "h0": lambda h: h[:, :0],
        "c0": lambda c: c[:, :0],
        "b_ih": lambda b: b[:0],
        "b_hh": lambda b: b[:0],
    },
}


@pytest.mark.parametrize("message", BAD_VALUES)
def test_lstm_names_the_wrong_argument(message: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        call_lstm(**BAD_VALUES[message])


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("change", [cut, cut_rows, lambda t: t.unsqueeze(0), lambda t: t[..., :0]])
def test_lstm_names_the_argument_of_the_wrong_shape(
    name: str, change: Callable[[Tensor], Tensor]
) -> None:
    wrong = change(draw(CASE).tensors[name])
    # H is read from w_hh: where only its last size is wrong, w_ih is the first that does not fit.
    misread = name == "w_hh" and wrong.dim() == 2 and wrong.shape[-1] not in (0, H)
    named = "w_ih" if misread else name
    found = f"found {list(wrong.shape) if named == name else SHAPES[named]}"
    with pytest.raises(ValueError, match=f"^{named}: expected shape .*, {re.escape(found)}"):
        call_lstm(**{name: wrong})


@pytest.mark.parametrize("name", SHAPES)
def test_lstm_names_the_argument_on_another_device(name: str) -> None:
    message = f"{name}: expected on cpu beside x, found on meta"
    with pytest.raises(ValueError, match=f"^{message}"):
        call_lstm(**{name: to_meta})


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(
    ("dtype", "other"),
    [(torch.float32, F64), (torch.float32, BF16), (BF16, F64), (F64, torch.float32)],
    ids=str,
)
def test_lstm_names_the_argument_of_another_dtype(
    name: str, dtype: torch.dtype, other: torch.dtype
) -> None:
    beside = "x" if name in ("w_ih", "h0", "c0") else "w_ih"
    message = f"{name}: expected {dtype} like {beside}, found {other}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        call_lstm(dtype, **{name: lambda t: t.to(other)})


def test_lstm_takes_no_state_but_the_cell_state_in_float32_beside_16_bits() -> None:
    call_lstm(BF16, c0=Tensor.float)
    with pytest.raises(ValueError, match=r"^h0: expected torch\.bfloat16 like x"):
        call_lstm(BF16, h0=Tensor.float)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64], ids=str)
def test_lstm_names_the_dtypes_that_it_knows(dtype: torch.dtype) -> None:
    found = str(dtype).replace(".", r"\.")
    known = "the LSTM kernels know float32, bfloat16, float16, float64"
    with pytest.raises(NotImplementedError, match=f"^x: {known}, found {found}; convert it"):
        call_lstm(x=lambda x: x.to(dtype))


def test_lstm_on_a_device_without_kernels_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(_native.kernels, ("lstm_forward", "cpu"))
    with pytest.raises(RuntimeError, match=r"^lstm_forward has no CPU kernel here: .+\. .+\.$"):
        call_lstm()


@pytest.mark.parametrize("drop_p", [0.0, 0.5])
def test_lstm_of_tensors_without_data_has_the_right_shapes(drop_p: float) -> None:
    x, state, weights, *_ = draw(Case((T, B, I, H), BF16, wide_c0=True)).arguments()
    x, w_ih, w_hh, b_ih, b_hh, h0, c0, seed = map(to_meta, (x, *weights, *state, SEED))
    y, (h_n, c_n) = functional.lstm(x, (h0, c0), (w_ih, w_hh, b_ih, b_hh), drop_p, seed)
    assert [list(t.shape) for t in (y, h_n, c_n)] == [[T, B, H], [B, H], [B, H]]
    assert [t.dtype for t in (y, h_n, c_n)] == [BF16, BF16, torch.float32]


FORWARD = ("x", "w_ih", "w_hh", "bias", "h0", "c0", "lengths", "seed", "drop_p", "reverse", "save")
BACKWARD = ("dy", "dh_n", "dc_n", "x", "w_ih", "w_hh", "h0", "c0", "y", "c", "gates")
BACKWARD += ("lengths", "seed", "drop_p", "reverse", "need_dx", "need_dw")
OPTIONAL = ("bias", "lengths")


def raw_arguments(op: str) -> dict[str, Any]:
    """Return right arguments of an op by name; every optional one is given."""
    call = draw(Case((T, B, I, H), lengths=(4, 1, 2)))
    if op == "lstm_forward":
        return dict(zip(FORWARD, call.forward_arguments(), strict=True))
    return dict(zip(BACKWARD, call.backward_arguments(), strict=True))


def wrong_tensors(name: str, right: Tensor) -> dict[str, Any]:
    """Return what no op can take for an argument: too small to read, another type or place."""
    wrong = {
        "a rank too few": right[0],
        "a rank too many": right.unsqueeze(-1),
        "no data": to_meta(right),
        "nothing": right.new_empty(0),
        "complex": right.to(torch.complex64),
    }
    if right.is_floating_point():
        wrong |= {"integers": right.long(), "bytes": right.to(torch.uint8)}
        wrong |= {"float16": right.half(), "cut": cut(right), "cut rows": cut_rows(right)}
    else:
        wrong |= {"int32": right.int(), "float": right.float()}
    if name not in OPTIONAL:
        wrong["None"] = None
    return wrong


# A seed is one element of any rank; x itself says how many steps there are.
RIGHT_AFTER_ALL = {
    *((op, "seed", f"a rank too {n}") for op in _ops.SCHEMAS for n in ("few", "many")),
    ("lstm_forward", "x", "cut rows"),
}


@pytest.fixture(scope="module")
def compiled() -> None:
    reason = _native.why_missing("lstm_forward", "cpu")
    if reason is not None:
        pytest.skip(f"no compiled LSTM for the CPU: {reason}")


def wrong_calls() -> list[tuple[str, str, str]]:
    """Return (op, name, what is wrong with it) of every tensor that an op takes."""
    rights = {op: raw_arguments(op) for op in ("lstm_forward", "lstm_backward")}
    calls = [
        (op, name, what)
        for op, right in rights.items()
        for name, value in right.items()
        if isinstance(value, Tensor)
        for what in wrong_tensors(name, value)
    ]
    return [call for call in calls if call not in RIGHT_AFTER_ALL]


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize(("op", "name", "what"), wrong_calls())
def test_compiled_op_refuses_what_would_read_foreign_memory(op: str, name: str, what: str) -> None:
    right = raw_arguments(op)
    raw = getattr(torch.ops.ulmfit_fast_cpu, op)
    raw(**right)
    with pytest.raises(RuntimeError):
        raw(**{**right, name: wrong_tensors(name, right[name])[what]})


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("op", ["lstm_forward", "lstm_backward"])
@pytest.mark.parametrize("drop_p", [1.0, -0.1, float("nan")])
def test_compiled_op_refuses_a_chance_outside_its_range(op: str, drop_p: float) -> None:
    with pytest.raises(RuntimeError, match="drop_p"):
        getattr(torch.ops.ulmfit_fast_cpu, op)(**{**raw_arguments(op), "drop_p": drop_p})


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("op", ["lstm_forward", "lstm_backward"])
def test_compiled_op_refuses_dropping_without_a_seed(op: str) -> None:
    with pytest.raises(RuntimeError, match="seed"):
        getattr(torch.ops.ulmfit_fast_cpu, op)(**{**raw_arguments(op), "seed": None})


@pytest.mark.usefixtures("compiled")
def test_compiled_backward_refuses_what_a_call_without_save_gives() -> None:
    right = raw_arguments("lstm_backward")
    empty = {"c": right["c"].new_empty(0), "gates": right["gates"].new_empty(0)}
    with pytest.raises(RuntimeError, match=r"\b(c|gates): "):
        torch.ops.ulmfit_fast_cpu.lstm_backward(**{**right, **empty})


@pytest.mark.parametrize("n", [0, 1, 3, 5])
def test_lstm_counts_its_weights_and_states(n: int) -> None:
    call = draw(CASE)
    x, state, weights, *_ = call.arguments()
    with pytest.raises(ValueError, match=rf"^weights: expected .w_ih, w_hh, .* found {n}$"):
        functional.lstm(x, state, (*weights, x)[:n])
    with pytest.raises(ValueError, match=rf"^state: expected .h0, c0. or None, found {n}$"):
        functional.lstm(x, (*state, x, x, x)[:n], weights)
