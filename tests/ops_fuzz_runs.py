"""Calls of the ops with arguments of every kind, good and bad; run in a process of its own.

    python tests/ops_fuzz_runs.py --examples 5000 --ops lstm_forward concat_pool

A call must give what plain PyTorch gives, or raise a Python exception. A crash ends the process:
the call stands in the file that --last names, so that it can be made again.
"""

from __future__ import annotations

import argparse
import collections
import faulthandler
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ops_fuzz_arguments import GOOD, ODD_SCALARS, Arguments, changed_tensor, is_finite
from torch import Tensor

from ulmfit_fast import _native, _ops

#: What an op may raise: those of the arguments, and PyTorch's own.
REFUSALS = (ValueError, TypeError, RuntimeError, IndexError, OverflowError)
#: Arguments of backward ops that may be anything; the others belong together.
FREE = {
    "lstm_backward": {"dy", "dh_n", "dc_n", "need_dx", "need_dw"},
    "concat_pool_backward": {"grad"},
}
#: Share of an output's largest number that its elements may be off, after many steps of
#: weights that drop_p has made ten times larger; how exact the ops are, other tests ask.
TOLERANCE = {
    torch.float64: 1e-9, torch.float32: 2e-4, torch.bfloat16: 0.2, torch.float16: 5e-2,
}  # fmt: skip


@st.composite
def calls(draw: Any, op: str) -> tuple[Arguments, set[str]]:
    """Draw the arguments of an op, and the names of none to two that are something odd."""
    rng = random.Random(draw(st.integers(0, 2**32)))  # one draw: what hypothesis shrinks is small
    arguments = GOOD[op](rng)
    changed = set()
    for _ in range(draw(st.integers(0, 2))):
        name = rng.choice(list(arguments))
        changed.add(name)
        arguments[name] = odd(arguments[name], rng)
    return arguments, changed


def odd(value: Any, rng: random.Random) -> Any:
    """Return something else in the place of an argument."""
    if isinstance(value, Tensor):
        return changed_tensor(value, rng)
    if isinstance(value, list) and value:
        what = rng.randrange(4)
        if what == 0:
            return value[:-1]
        if what == 1:
            return [*value, copied(value[0])]  # else two steps would move one tensor
        k = rng.randrange(len(value))
        return [*value[:k], odd(value[k], rng), *value[k + 1 :]]
    return rng.choice(ODD_SCALARS)


def tensors_of(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return (
        [t for each in value for t in tensors_of(each)] if isinstance(value, (list, tuple)) else []
    )


def copied(value: Any) -> Any:
    """Return an argument of its own memory, with the same strides as far as these are its own."""
    if isinstance(value, list):
        return [copied(each) for each in value]
    return value.detach().clone() if isinstance(value, Tensor) else value


def outcome(function: Any, arguments: Arguments) -> tuple[list[Any] | None, Exception | None]:
    try:
        result = function(*arguments.values())
    except REFUSALS as error:
        return None, error
    return ([result] if isinstance(result, Tensor) else list(result or ())), None


def check(
    op: str, arguments: Arguments, changed: set[str], counts: collections.Counter[str]
) -> None:
    """Make a call of the op and of its reference; raise AssertionError where they differ."""
    before = {name: copied(value) for name, value in arguments.items()}
    function = getattr(torch.ops.ulmfit_fast, op)
    found, error = outcome(function, arguments)
    if error is not None:
        assert str(error).strip(), f"{type(error).__name__} without a message"
        counts["refused"] += 1
        return
    assert found is not None
    devices = {t.device.type for value in arguments.values() for t in tensors_of(value)}
    if "meta" in devices:
        assert devices == {"meta"} or op == "layerwise_adamw_", f"{devices} mixed"
        counts["meta"] += 1
        return
    given_tensors = {n: tensors_of(v) for n, v in arguments.items()}
    try:
        expected, why = outcome(_native.REFERENCE_KERNELS[op], before)
    except ZeroDivisionError:  # the mean over nothing, of which Python has none
        assert not any(t.numel() for t in found), "numbers made of nothing"
        counts["empty"] += 1
        return
    if expected is None and op.startswith("linear_cross_entropy") and "index" in str(why):
        counts["NaN"] += 1  # of a target that is no class: functional refuses it, the op says NaN
        assert any(bool(t.isnan().any()) for t in found if t.numel()) or not any(
            map(len, found[2:])
        )
        return
    if expected is None and not any(t.numel() for t in found):
        counts["empty"] += 1  # the reference has no maximum of nothing, whose result is nothing
        return
    if expected is None:
        raise AssertionError(f"accepted what the reference refuses: {why}")
    counts["equal"] += 1
    every = [t for tensors in given_tensors.values() for t in tensors]
    numbers = [v for v in arguments.values() if isinstance(v, (int, float))]
    limit = max(TOLERANCE.get(t.dtype, 0.0) for t in every)
    if not all(map(is_finite, every)) or not all(abs(v) < 1e4 for v in numbers):
        limit = None  # overflows in another place
    if changed - FREE.get(op, changed):
        limit = None  # not what a forward pass would have left
    if op == "layerwise_adamw_":
        found = [t for tensors in given_tensors.values() for t in tensors]
        expected = [t for value in before.values() for t in tensors_of(value)]
    assert len(found) == len(expected)
    for k, (mine, plain) in enumerate(zip(found, expected, strict=True)):
        compare(f"result {k}", mine, plain, limit)


def compare(name: str, mine: Tensor, plain: Tensor, limit: float | None) -> None:
    """Raise AssertionError unless two results are alike; their numbers where there is a limit."""
    assert (mine.shape, mine.dtype) == (plain.shape, plain.dtype), (
        f"{name}: {mine.dtype} {list(mine.shape)}, expected {plain.dtype} {list(plain.shape)}"
    )
    if limit is None or mine.numel() == 0:
        return
    if not mine.is_floating_point():
        assert torch.equal(mine, plain), f"{name} differs"
        return
    mine, plain = mine.detach().double(), plain.detach().double()
    assert torch.equal(mine.isnan(), plain.isnan()), f"{name}: NaN in other places"
    known = plain.isfinite() & mine.isfinite()
    assert torch.equal(mine[~known].nan_to_num(), plain[~known].nan_to_num()), f"{name}: infinities"
    if known.any():
        scale = float(plain[known].abs().max()) + 1.0  # of arguments about 1
        worst = float((mine[known] - plain[known]).abs().max())
        assert worst <= limit * scale, f"{name}: off by {worst} of {scale}"


def run(op: str, n_examples: int, last: Path | None, database: bool = False) -> dict[str, Any]:
    """Make so many calls of an op; return how they ended."""
    counts: collections.Counter[str] = collections.Counter()
    derandomize = not database

    @settings(
        max_examples=n_examples, deadline=None, derandomize=derandomize, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(calls(op))
    def go(call: tuple[Arguments, set[str]]) -> None:
        arguments, changed = call
        if last is not None:
            last.write_text(f"{op}({', '.join(f'{n}={shown(v)}' for n, v in arguments.items())})")
        counts["calls"] += 1
        check(op, arguments, changed, counts)

    began = time.perf_counter()
    go()
    return {"op": op, **counts, "seconds": round(time.perf_counter() - began, 1)}


def shown(value: Any) -> str:
    """Return an argument as text: of a tensor what it is like."""
    if isinstance(value, list):
        return f"[{', '.join(map(shown, value))}]"
    if not isinstance(value, Tensor):
        return repr(value)
    stride = list(value.stride()) if value.layout == torch.strided else value.layout
    return f"<{value.dtype} {list(value.shape)} {stride} {value.device}>"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=5000)
    parser.add_argument("--ops", nargs="*", default=sorted(_ops.SCHEMAS))
    parser.add_argument("--last", type=Path, help="file for the call that is being made")
    parser.add_argument("--anew", action="store_true", help="other examples than the last time")
    options = parser.parse_args()
    faulthandler.enable()
    torch.set_num_threads(1)
    # What no kernel wrote is NaN.
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    for op in options.ops:
        print(json.dumps(run(op, options.examples, options.last, options.anew)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
