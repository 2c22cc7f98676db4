"""The optimizer's CUDA kernels, run on a CPU: right on every grid, and mutants are caught."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path

import cuda_host_runs as host
import pytest
import torch
from adamw_calls import COUNTS, MOVED, Arguments, Case, after, assert_right, draw, laid_out
from cuda_host_adamw_runs import CASES, MANY, SIZES, HostStep, of
from torch import Tensor

#: What `make cuda-host` adds: every combination.
ALL = [
    Case(
        of(*SIZES, 33),
        first_step=2,
        max_grad_norm=limit,
        skip_nonfinite=skip,
        grad_scale=scale,
        found_inf=0.0,
        shadow=shadow,
        average=average,
        layout=layout,
    )
    for limit, skip, scale, shadow, average, layout in product(
        (None, 1e-3, 1e9), (False, True), (None, 1024.0), (False, True), (None, 0.0, 0.1),
        ("contiguous", "unaligned"),
    )
]  # fmt: skip
#: Everything at once, on three blocks.
RICH = Case(
    of(1, 127, 2049, 5000, 20_000),
    first_step=3,
    max_grad_norm=1e-3,
    grad_scale=1024.0,
    shadow=True,
    average=0.1,
)

#: Name: what stands in layerwise_adamw.cu, and what a mistake would have put there.
MUTANTS = {
    "ticket not reset": ("    if (last) store_release(ticket, 0);\n", ""),
    "ticket before the block's sums": (
        "  block_sync();\n  if (thread_index() == 0) {\n    const bool last",
        "  if (thread_index() == 0) {\n    const bool last",
    ),
    "last block not told": (
        "    *shared_flag = last ? 1 : 0;\n  }\n  block_sync();",
        "    *shared_flag = last ? 1 : 0;\n  }",
    ),
    "steps counted by every block": (
        "  if (!is_last_block(table.ticket, &shared.last)) return;\n  const int i",
        "  is_last_block(table.ticket, &shared.last);\n  const int i",
    ),
    "steps counted before others read them": (
        "  if (!is_last_block(table.ticket, &shared.last)) return;\n  const int i",
        "  is_last_block(table.ticket, &shared.last);\n  if (block_index() != 0) return;\n"
        "  const int i",
    ),
    "sums read by the first block": (
        "add_acquire_release(ticket, 1) + 1 == static_cast<uint32_t>(grid_size())",
        "add_acquire_release(ticket, 1) == 0",
    ),
    "sums read before the ticket": (
        "  if (!is_last_block(table.ticket, &shared.last) || !table.is_last) return;\n"
        "  double sum = 0;\n"
        "  for (int64_t i = thread_index(); i < table.n_all_tiles; i += kThreads) {\n"
        "    sum += load_from_others(table.sums + i);\n  }\n",
        "  double sum = 0;\n"
        "  for (int64_t i = thread_index(); i < table.n_all_tiles; i += kThreads) {\n"
        "    sum += load_from_others(table.sums + i);\n  }\n"
        "  if (!is_last_block(table.ticket, &shared.last) || !table.is_last) return;\n",
    ),
    "sums of the first 256 tiles only": (
        "i < table.n_all_tiles;",
        "i < table.n_all_tiles && i < kThreads;",
    ),
    "sums of a warp from lane 8": ("mask = kWarpThreads / 2", "mask = kWarpThreads / 4"),
    "sums of launches in one place": ("table.sums + table.before + tile", "table.sums + tile"),
    "sum of seven warps": ("warp < kWarps; ++warp", "warp < kWarps - 1; ++warp"),
    "squares in float32": ("const double g = static_cast<double>(", "const float g = ("),
    "tiles from the end, off by one": (
        "n_pieces - 1 - turn;",
        "std::max<int64_t>(n_pieces - 2 - turn, 0);",
    ),
    "every block takes all tiles": ("turn = global_warp();", "turn = global_warp() % kWarps;"),
    "factors of another tensor": ("shared.factors[index]", "shared.factors[index / 2]"),
    "device's layers by tensor": ("device_layers[tensor.layer]", "device_layers[i % 2]"),
    "limit before grad_scale": ("table.n_all_tiles]) * inverse", "table.n_all_tiles])"),
    "norm before grad_scale": (
        "std::sqrt(sum) * inverse",
        "std::sqrt(sum) * std::max(inverse, 1.0)",
    ),
    "gradients not unscaled": ("norm, inverse)", "norm, 1.0)"),
    "unscaled only where measured": ("static_cast<float>(inverse);", "1.0f;"),
    "infinity passes": ("!std::isfinite(norm)", "norm != norm"),
    "found_inf passes": ("*step.found_inf != 0.0f", "*step.found_inf > 1.0f"),
    "skipped once a launch": ("if (i == 0 && table.is_first)", "if (i == 0)"),
    "shadow of the old parameter": (
        "  store_floats<kWhole, Use::kAgain>(tensor.param + i, p, n);\n",
        "  const Floats now = p;\n  p = load_floats<kWhole, Use::kAgain>(tensor.param + i, n);\n"
        "  store_floats<kWhole, Use::kAgain>(tensor.param + i, now, n);\n",
    ),
    "shadow only where the first tensor has one": (
        "params.tensors, params.tensors + params.n_tensors,",
        "params.tensors, params.tensors + 1,",
    ),
    "average begins with what was there": ("factors.average == 1.0f ? now : ", ""),
    "average of the gradient": ("now = p.element[k];", "now = grad.element[k];"),
    "averages not counted": ("*table.tensors[i].n_averaged += 1.0f", "(void)0"),
}
#: AddressSanitizer, and an error where a vector is read or written at no multiple of its size.
SANITIZE = [*host.SANITIZE, "-fsanitize=alignment", "-fno-sanitize-recover=alignment", "-O0"]
#: What these have to see.
BAD_ACCESSES = {
    "unaligned taken for aligned": ("unaligned", "return tensor.aligned && ", "return "),
    "store after the end": ("every size", "if (k < n) to[k]", "if (k <= n) to[k]"),
    "load after the end": ("every size", "k < n ? from[k]", "k <= n ? from[k]"),
    "partial taken for whole": (
        "every size",
        "first + count <= tensor.n",
        "first + count / count <= tensor.n",
    ),
    "no room for factors": ("every size", "kTensors * sizeof(AdamwFactors)", "0"),
    "no room for the total": (
        "every size",
        "[table.n_all_tiles] = sum",
        "[table.n_tiles + 1] = sum",
    ),
}


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the emulator's objects and the program built from the kernels as they are."""
    if host.compiler() is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("cuda_host_adamw")
    host.compile_all(folder, program="run_adamw")
    return folder


@pytest.fixture(scope="session")
def sanitized(tmp_path_factory: pytest.TempPathFactory, built: Path) -> Path:
    """Folder with everything built with checks of every access."""
    folder = tmp_path_factory.mktemp("sanitized_adamw")
    host.compile_all(folder, flags=SANITIZE, program="run_adamw")
    return folder


@pytest.fixture
def step(built: Path, tmp_path: Path) -> HostStep:
    """Take a step under twelve schedules, on four grids."""
    return HostStep(built / "run_adamw", tmp_path)


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().flatten().view(torch.uint8)


def assert_same(found: Arguments, expected: Arguments, but: tuple[str, ...] = ()) -> None:
    """Fail where a tensor has other bits."""
    for name in (*MOVED, *COUNTS, "shadows"):
        for i, (x, y) in enumerate(zip(found[name], expected[name], strict=True)):
            assert torch.equal(bits(x), bits(y)), f"{name}, tensor {i}: other bits"
    for name in ("grad_norm", "skipped_steps", "ticket"):
        equal = torch.equal(bits(found[name]), bits(expected[name]))
        assert equal or name in but, f"{name}: other bits"


def assert_skipped(step: HostStep, before: Arguments) -> None:
    """Fail unless a step changes nothing but grad_norm and skipped_steps."""
    found = after(step, before)
    assert_same(found, before, ("grad_norm", "skipped_steps"))
    n = int(found["skipped_steps"] - before["skipped_steps"])
    assert n == 1, f"skipped_steps: + {n}"


def poisoned(case: Case, tensor: int, element: int, value: float) -> Arguments:
    """Draw a call with one element of a gradient that is not finite."""
    before = draw(case)
    before["grads"][tensor].flatten()[element] = value
    return before


def assert_all_right(program: Path, folder: Path, mutation: str = "") -> None:
    """Fail if anything is wrong that one of the mutants gets wrong."""
    step = HostStep(program, folder, mutation=mutation)
    assert_right(step, RICH)
    assert_right(HostStep(program, folder, range(4), on_device=True, mutation=mutation), RICH)
    assert_right(step, CASES["nothing first"])
    assert_right(step, CASES["no measure"])
    assert_right(step, CASES["squares beyond float32"])
    assert_first_averages_right(step)
    assert_skipped(step, poisoned(RICH, 3, 4999, math.inf))
    assert_skipped(step, draw(Case(found_inf=1.0)))
    many = HostStep(program, folder, range(2), (1,), mutation=mutation)
    assert_right(many, MANY["two launches"])
    assert_skipped(many, poisoned(MANY["two launches"], 9, 0, math.nan))


def assert_first_averages_right(step: HostStep) -> None:
    """Fail unless an average that had nothing in it becomes the parameter, NaN or not before."""
    before = draw(Case(of(*SIZES), average=0.1))
    for average in before["averages"]:
        average.fill_(math.nan)
    found = after(step, before)
    for i, n_averaged in enumerate(before["n_averaged"]):
        if n_averaged == 0:
            same = torch.equal(found["averages"][i], found["params"][i])
            assert same, f"average {i} is not the parameter"


@pytest.mark.parametrize("name", CASES)
def test_step_is_right_under_several_schedules_and_grids(name: str, step: HostStep) -> None:
    assert_right(step, CASES[name])


@pytest.mark.parametrize("name", MANY)
def test_step_is_right_for_many_tensors(name: str, built: Path, tmp_path: Path) -> None:
    assert_right(HostStep(built / "run_adamw", tmp_path, range(3)), MANY[name])


@pytest.mark.cuda_host
@pytest.mark.parametrize("case", ALL, ids=str)
def test_every_combination_is_right(case: Case, built: Path, tmp_path: Path) -> None:
    for on_device in (False, True):
        assert_right(HostStep(built / "run_adamw", tmp_path, range(8), on_device=on_device), case)


@pytest.mark.cuda_host
@pytest.mark.parametrize("name", {**CASES, **MANY})
def test_step_is_right_under_many_schedules(name: str, built: Path, tmp_path: Path) -> None:
    seeds = range(100, 200 if name in CASES else 110)
    assert_right(HostStep(built / "run_adamw", tmp_path, seeds), {**CASES, **MANY}[name])


@pytest.mark.parametrize("name", ["every size", "large table"])
def test_layers_on_the_device_give_the_same_bits(name: str, built: Path, tmp_path: Path) -> None:
    before = draw(CASES[name])
    here, there = (
        after(HostStep(built / "run_adamw", tmp_path, on_device=on_device), before)
        for on_device in (False, True)
    )
    assert_same(here, there)


@pytest.mark.parametrize("name", [*MOVED, "grads", "shadows"])
def test_alignment_of_one_list_changes_no_bit(name: str, step: HostStep) -> None:
    before = draw(RICH)
    unaligned = {**before, name: [laid_out(t, "unaligned") for t in before[name]]}
    assert all(t.data_ptr() % 16 != 0 for t in unaligned[name])
    assert_same(after(step, unaligned), after(step, before))


def test_steps_follow_one_another(step: HostStep) -> None:
    before = draw(RICH)
    twice = after(step, after(step, before))
    assert [float(t) for t in twice["steps"]] == [5.0] * 5
    assert [float(t) for t in twice["n_averaged"]] == [2.0, 3.0, 4.0, 2.0, 3.0]
    assert int(twice["ticket"]) == 0


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize(("tensor", "element"), [(0, 0), (3, 4999), (4, 2048), (4, 19_999)])
def test_nothing_changes_where_a_gradient_is_not_finite(
    tensor: int, element: int, value: float, step: HostStep
) -> None:
    before = poisoned(RICH, tensor, element, value)
    assert_skipped(step, before)
    norm = float(after(step, before)["grad_norm"])
    assert math.isnan(norm) if math.isnan(value) else norm == math.inf


@pytest.mark.parametrize("limit", [None, 0.5])
def test_nothing_changes_where_an_infinity_was_found(limit: float | None, step: HostStep) -> None:
    case = Case(of(*SIZES), max_grad_norm=limit, skip_nonfinite=False, found_inf=1.0, average=0.0)
    assert_skipped(step, draw(case))


def test_step_of_many_launches_is_skipped_once(built: Path, tmp_path: Path) -> None:
    few = HostStep(built / "run_adamw", tmp_path, range(2))
    assert_skipped(few, poisoned(MANY["two launches"], 249, 228, math.nan))


def test_gradients_that_are_not_finite_spoil_their_own_elements_where_none_is_skipped(
    step: HostStep,
) -> None:
    case = Case(RICH.shapes, max_grad_norm=None, skip_nonfinite=False)
    found = after(step, poisoned(case, 3, 4999, math.nan))
    expected = after(step, draw(case))
    for name in ("params", "exp_avgs", "exp_avg_sqs"):
        assert math.isnan(found[name][3][4999])
        found[name][3][4999] = expected[name][3][4999]
    assert_same(found, expected)


def test_norm_is_left_alone_where_nothing_needs_it(step: HostStep) -> None:
    before = draw(CASES["no measure"])
    assert torch.equal(after(step, before)["grad_norm"], before["grad_norm"])


def test_first_average_is_the_parameter_whatever_was_there(step: HostStep) -> None:
    assert_first_averages_right(step)


def test_what_catches_mutants_passes_the_kernels(built: Path, tmp_path: Path) -> None:
    assert_all_right(built / "run_adamw", tmp_path)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutants_are_caught(mutant: str, built: Path, tmp_path: Path) -> None:
    changed = ("layerwise_adamw.cu", *MUTANTS[mutant])
    program = host.compile_mutant(built, tmp_path, changed, ["-O0"], "run_adamw")
    with pytest.raises(AssertionError) as caught:
        assert_all_right(program, tmp_path)
    assert "ended with" not in str(caught.value)


@pytest.mark.parametrize("broken", ["block_sync", "warp_exchange"])
def test_broken_primitives_are_caught(broken: str, built: Path, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"layerwise_adamw: |seed |error .* allowed"):
        assert_all_right(built / "run_adamw", tmp_path, broken)


@pytest.mark.parametrize("name", ["nothing first", "unaligned", "no measure", "large table"])
def test_kernels_stay_within_their_memory(name: str, sanitized: Path, tmp_path: Path) -> None:
    assert_right(HostStep(sanitized / "run_adamw", tmp_path, range(4)), CASES[name])


@pytest.mark.parametrize("mutant", BAD_ACCESSES)
def test_bad_accesses_are_caught(mutant: str, sanitized: Path, tmp_path: Path) -> None:
    name, *change = BAD_ACCESSES[mutant]
    changed = ("layerwise_adamw.cu", *change)
    program = host.compile_mutant(sanitized, tmp_path, changed, SANITIZE, "run_adamw")
    with pytest.raises(AssertionError, match=r"heap-buffer-overflow|misaligned address"):
        assert_right(HostStep(program, tmp_path, range(1)), CASES[name])
