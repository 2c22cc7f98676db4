"""Ops and functions with arguments of every kind: what plain PyTorch gives, or a clear refusal."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ops_fuzz_arguments import GOOD, Arguments
from ops_fuzz_runs import odd
from torch import Tensor

from ulmfit_fast import _ops, functional
from ulmfit_fast._ops.schemas import names_of

N_EXAMPLES = 60
META = torch.device("meta")
#: Elements of a tensor that no index of 32 bits reaches.
MANY = 2**33


def test_every_op_has_a_strategy() -> None:
    assert sorted(GOOD) == sorted(_ops.SCHEMAS)
    for op, make in GOOD.items():
        for seed in range(20):
            assert list(make(random.Random(seed))) == names_of(op)


def test_ops_equal_plain_pytorch_or_refuse(tmp_path: Path) -> None:
    """In a process of its own, so that a crash is a failure here, and the call is known."""
    last = tmp_path / "last"
    script = Path(__file__).with_name("ops_fuzz_runs.py")
    ran = subprocess.run(
        [sys.executable, script, "--examples", str(N_EXAMPLES), "--last", last],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    call = last.read_text() if last.exists() else "none"
    assert ran.returncode == 0, f"status {ran.returncode} in {call}\n{ran.stderr[-3000:]}"
    assert ran.stdout.count(f'"calls": {N_EXAMPLES}') == len(GOOD)


def _lstm(made: Arguments) -> Arguments:
    bias = made["bias"]
    half = None if bias is None else bias / 2
    rest = {n: made[n] for n in ("drop_p", "seed", "lengths", "reverse", "rows") if n in made}
    return {
        "x": made["x"],
        "state": (made["h0"], made["c0"]),
        "weights": (made["w_ih"], made["w_hh"], half, half),
        **rest,
    }


FUNCTIONS: dict[str, tuple[str, Callable[[Arguments], Arguments]]] = {
    "drop_connect": ("drop_connect", dict),
    "variational_dropout": ("variational_dropout", dict),
    "activation_regularization": ("activation_regularization", dict),
    "concat_pool": ("concat_pool", dict),
    "embedding_dropout": ("embedding_dropout", dict),
    "linear_cross_entropy": (
        "linear_cross_entropy_forward",
        lambda made: {n: v for n, v in made.items() if not n.startswith("need_")},
    ),
    "lstm": ("lstm_forward", _lstm),
    "lstm_chunks": ("lstm_chunks_forward", _lstm),
}
#: Names that a message may have instead of the argument's: its parts.
PARTS = ("h0", "c0", "w_ih", "w_hh", "b_ih", "b_hh")


def changed(value: Any, rng: random.Random) -> Any:
    if isinstance(value, tuple):
        k = rng.randrange(len(value))
        return rng.choice([None, value[:-1], (*value[:k], odd(value[k], rng), *value[k + 1 :])])
    return odd(value, rng)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_name_the_argument_that_they_refuse(name: str) -> None:
    op, of = FUNCTIONS[name]
    n_refused = 0

    @settings(max_examples=N_EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.integers(0, 2**32), st.integers(0, 2))
    def go(seed: int, n_changes: int) -> None:
        nonlocal n_refused
        rng = random.Random(seed)
        arguments = of(GOOD[op](rng))
        for _ in range(n_changes):
            key = rng.choice(list(arguments))
            arguments[key] = changed(arguments[key], rng)
        try:
            getattr(functional, name)(**arguments)
        except (ValueError, NotImplementedError, RuntimeError) as error:
            n_refused += 1
            words = set(re.findall(r"\w+", str(error)))
            if not words & {*arguments, *PARTS}:
                raise AssertionError(f"{type(error).__name__} names nothing: {error}") from error

    go()
    assert 0 < n_refused < N_EXAMPLES


SEED = torch.zeros(1, dtype=torch.int64, device=META)


def huge(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=META)


def test_sizes_beyond_32_bits_keep_their_shapes() -> None:
    """The arithmetic of sizes and strides, on tensors without memory."""
    side = 100_000
    x = huge(side, side // 5, 5)
    assert x.numel() > 2**31
    assert functional.drop_connect(huge(MANY), 0.5, SEED).shape == (MANY,)
    assert functional.variational_dropout(x, 0.5, SEED).shape == x.shape
    dropped, penalty = functional.activation_regularization(x, 2.0, 1.0, 0.5, SEED)
    assert (dropped.shape, penalty.shape) == (x.shape, ())
    places = huge(side, dtype=torch.int64)
    assert functional.concat_pool(huge(side, 7, side), places, places).shape == (side, 3 * side)
    ids = huge(MANY, dtype=torch.int64)
    assert functional.embedding_dropout(ids, huge(60_000, 400), 0.5, SEED).shape == (MANY, 400)
    loss = functional.linear_cross_entropy(
        huge(MANY, 400), huge(60_000, 400), None, huge(MANY, dtype=torch.int64), reduction="none"
    )
    assert loss.shape == (MANY,)
    weights = (huge(4 * 1152, 400), huge(4 * 1152, 1152), None, None)
    y, (h_n, c_n) = functional.lstm(huge(70, MANY, 400), None, weights, 0.5, SEED)
    assert (y.shape, h_n.shape, c_n.shape) == ((70, MANY, 1152), (MANY, 1152), (MANY, 1152))


def test_gradients_beyond_32_bits_keep_their_shapes() -> None:
    hidden, weight = huge(MANY, 4).requires_grad_(), huge(5, 4).requires_grad_()
    loss = functional.linear_cross_entropy(hidden, weight, None, huge(MANY, dtype=torch.int64))
    grads = torch.autograd.grad(loss, (hidden, weight))
    assert [g.shape for g in grads] == [hidden.shape, weight.shape]
    table = huge(MANY, 4).requires_grad_()
    embedded = functional.embedding_dropout(huge(3, dtype=torch.int64), table, 0.0, None)
    assert torch.autograd.grad(embedded.sum(), table)[0].shape == table.shape


def test_more_positions_than_kernels_count_are_refused() -> None:
    start, end = torch.tensor([0]), torch.tensor([2])
    wide = torch.ones(1, 1, 1).expand(1, 2**31, 1)
    with pytest.raises(ValueError, match=r"output: expected at most 2147483647 positions"):
        functional.concat_pool(wide, start, end)
    with pytest.raises(RuntimeError, match=r"output: expected from 0 to 2\^31 - 1 positions"):
        torch.ops.ulmfit_fast.concat_pool(wide, start, end)


def test_a_view_of_more_elements_than_32_bits_count_is_read_right() -> None:
    """Rows of one element, far apart: offsets beyond 2^31 elements in 8 GB that nobody touches."""
    far = 2**31 + 2**20
    memory = torch.empty(0, dtype=torch.float16).set_(
        torch.UntypedStorage(2 * (far + 2)), 0, (far + 2,), (1,)
    )
    memory[0], memory[far] = 1.0, 2.0
    table = torch.as_strided(memory, (2, 1), (far, 1))
    embedded = functional.embedding_dropout(torch.tensor([1, 0, 1]), table, 0.0, None)
    assert embedded.flatten().tolist() == [2.0, 1.0, 2.0]
    output = torch.as_strided(memory, (1, 2, 1), (1, far, 1))
    pooled = functional.concat_pool(output, torch.tensor([0]), torch.tensor([2]))
    assert pooled.flatten().tolist() == [2.0, 2.0, 1.5]
    rows = torch.as_strided(memory, (2, 1), (far, 1))
    found = functional.drop_connect(rows, 0.0, torch.tensor(1))
    assert found.flatten().tolist() == [1.0, 2.0]


@pytest.mark.parametrize("op", GOOD)
def test_a_meta_tensor_beside_others_is_refused(op: str) -> None:
    """PyTorch runs the fake then: it would give memory that nobody wrote."""
    arguments = GOOD[op](random.Random(5))
    name = next(n for n, v in arguments.items() if isinstance(v, Tensor | list))
    value = arguments[name]
    there = [value[0].to("meta"), *value[1:]] if isinstance(value, list) else value.to("meta")
    with pytest.raises(RuntimeError, match="move all tensors to one device"):
        getattr(torch.ops.ulmfit_fast, op)(*{**arguments, name: there}.values())


def test_a_backward_pass_of_which_nothing_is_wanted_gives_nothing() -> None:
    made = {**GOOD["linear_cross_entropy_backward"](random.Random(1))}
    made |= {"need_dx": False, "need_dw": False}
    found = torch.ops.ulmfit_fast.linear_cross_entropy_backward(*made.values())
    assert [t.numel() for t in found] == [0, 0, 0]


BAD = {
    "argmax: expected 0..": lambda a: {**a, "argmax": a["argmax"] - 100},
    "n_rows: expected a number of rows": lambda a: {**a, "n_rows": -1},
    "padding_idx: expected a row of the table": lambda a: {**a, "padding_idx": 10**6},
}


@pytest.mark.parametrize("message", BAD)
def test_ops_refuse_what_has_no_place(message: str) -> None:
    op = "concat_pool_backward" if message.startswith("argmax") else "embedding_dropout_backward"
    seeds = (random.Random(k) for k in range(100))
    made = next(
        a
        for a in map(GOOD[op], seeds)
        if all(v.numel() for v in a.values() if isinstance(v, Tensor))
    )
    with pytest.raises(RuntimeError, match=re.escape(message)):
        getattr(torch.ops.ulmfit_fast, op)(*BAD[message](made).values())


def test_a_share_of_smoothing_that_is_none_is_refused() -> None:
    made = {**GOOD["linear_cross_entropy_forward"](random.Random(1)), "label_smoothing": -0.1}
    with pytest.raises(RuntimeError, match=r"label_smoothing: expected a share in \[0, 1\]"):
        torch.ops.ulmfit_fast.linear_cross_entropy_forward(*made.values())


def test_an_average_of_a_negative_share_is_refused() -> None:
    made = {**GOOD["layerwise_adamw_"](random.Random(1)), "average_weight": -0.1}
    with pytest.raises(RuntimeError, match=r"average_weight: expected a share in \[0, 1\]"):
        torch.ops.ulmfit_fast.layerwise_adamw_(*made.values())


def test_none_in_the_place_of_a_tensor_is_refused_beside_meta_tensors() -> None:
    with pytest.raises(TypeError, match="drop_connect: weight: expected a tensor, found None"):
        torch.ops.ulmfit_fast.drop_connect(None, 0.3, SEED)
