"""The persistent CUDA kernels, run on a CPU: right under every schedule, and mutants are caught."""

from __future__ import annotations

import re
import subprocess
from itertools import product
from pathlib import Path

import cuda_host_runs as host
import pytest
import torch
from conftest import ROOT
from cuda_host_runs import HostCase

BF16, FP16 = torch.bfloat16, torch.float16
#: All edges of a layout in little time: one row and one step, ragged rows, padding of units and of
#: columns, several groups, passes and owners of a chunk.
FAST = [
    HostCase(1, 1, 64),
    HostCase(5, 7, 64, FP16, ragged=True),
    HostCase(2, 33, 64, drop_p=0.0, groups=(3, 2)),
    HostCase(5, 64, 64, ragged=True, reverse=True, groups=(2, 4)),
    HostCase(2, 70, 38, ragged=True),
    HostCase(2, 7, 400, ragged=True),
    HostCase(2, 33, 600, FP16, groups=(3, 3)),
    HostCase(2, 7, 1150),
    HostCase(1, 64, 1152, groups=(2, 3)),
]
#: What `make cuda-host` adds: every combination, more schedules.
ALL = [
    HostCase(T, B, H, BF16, drop_p, T > 1, T == 5, (min(2, -(-B // 16)), min(3, -(-B // 16))))
    for H, B, T, drop_p in product((64, 400, 1150, 1152), (1, 7, 33, 64), (1, 2, 5), (0.0, 0.5))
]
SMALL = HostCase(3, 7, 64)
SEEDS = range(20)

#: Name: file, what stands there, and what a mistake would have put there.
MUTANTS = {
    "barrier removed, forward": (
        "lstm_forward.cu",
        "      block_sync();\n#pragma unroll\n      for (int turn",
        "#pragma unroll\n      for (int turn",
    ),
    "barrier removed, backward": (
        "lstm_backward.cu",
        "      if (step > 0) block_sync();\n",
        "",
    ),
    "flag published early": (
        "lstm_sequence.cuh",
        "    block_sync();\n    if (thread_index() == 0) store_release"
        "(flags_ + own_ * kFlagStride, epoch);",
        "    if (thread_index() == 0) store_release"
        "(flags_ + own_ * kFlagStride, epoch);\n    block_sync();",
    ),
    "flag not waited for": ("lstm_sequence.cuh", ">= epoch)) patience", "+ 1 >= epoch)) patience"),
    "one buffer for two steps": (
        "lstm_forward.cu",
        "(epoch & 1) == 0 ? parity_stride",
        "epoch == 0 ? parity_stride",
    ),
    "wait group off by one, forward": (
        "lstm_forward.cu",
        "copy_wait<S::kChunks - 1 - kChunk>",
        "copy_wait<S::kChunks - kChunk>",
    ),
    "wait group off by one, backward": (
        "lstm_backward.cu",
        "copy_wait<kStages - 2>",
        "copy_wait<kStages - 1>",
    ),
    "shuffle lane wrong": (
        "lstm_backward.cu",
        "dbias[k].value[g], kPairs)",
        "dbias[k].value[g], kPairs / 2)",
    ),
    "1 / (1 - p) after the input": (
        "lstm_forward.cu",
        "a[k].value[g] * p.scale +",
        "a[k].value[g] + (p.scale - 1) * (a[k].value[g] + first_of<T>(input)) +",
    ),
}


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the emulator's objects and the program built from the kernels as they are."""
    if host.compiler() is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("cuda_host")
    host.compile_all(folder)
    return folder


def check(program: Path, case: HostCase, folder: Path, seeds: range) -> None:
    call = host.draw(case)
    ran = host.run(program, call, folder, seeds)
    assert ran.results is not None, ran.message
    host.assert_right(call, ran.results)


@pytest.mark.parametrize("case", FAST, ids=str)
def test_kernels_are_right_under_several_schedules(
    case: HostCase, built: Path, tmp_path: Path
) -> None:
    n_seeds = 20 if case.B * case.H < 3000 else 2
    check(built / "run_lstm", case, tmp_path, range(n_seeds))


@pytest.mark.cuda_host
@pytest.mark.parametrize("case", ALL, ids=str)
def test_kernels_are_right_for_every_size(case: HostCase, built: Path, tmp_path: Path) -> None:
    check(built / "run_lstm", case, tmp_path, range(100, 104))


@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutants_are_caught(mutant: str, built: Path, tmp_path: Path) -> None:
    program = host.compile_mutant(built, tmp_path, MUTANTS[mutant])
    call = host.draw(SMALL)
    ran = host.run(program, call, tmp_path, SEEDS)
    if ran.results is None:  # a race, a deadlock, or other bits under another schedule
        assert ran.message.startswith(("lstm_", "seed ")), ran.message
        return
    with pytest.raises(AssertionError, match=r"error .* allowed"):
        host.assert_right(call, ran.results)


@pytest.mark.parametrize("broken", ["block_sync", "warp_sync", "copy_wait", "warp_exchange"])
def test_broken_primitives_are_caught(broken: str, built: Path, tmp_path: Path) -> None:
    ran = host.run(built / "run_lstm", host.draw(SMALL), tmp_path, SEEDS, broken)
    assert ran.results is None
    assert ran.message.startswith(("lstm_", "seed ")), ran.message


@pytest.fixture(scope="session")
def sanitized(tmp_path_factory: pytest.TempPathFactory, built: Path) -> Path:
    """Folder with everything built with AddressSanitizer."""
    folder = tmp_path_factory.mktemp("sanitized")
    host.compile_all(folder, flags=host.SANITIZE)
    return folder


@pytest.mark.parametrize("case", [SMALL, HostCase(2, 33, 38, ragged=True, groups=(2, 2))], ids=str)
def test_kernels_stay_within_their_memory(case: HostCase, sanitized: Path, tmp_path: Path) -> None:
    check(sanitized / "run_lstm", case, tmp_path, range(2))


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("kHiddenBytes + (kSteps - kInRegisters) * kStepBytes", "kHiddenBytes"),
        ("kPassRows * kPairs && row < place.n_rows", "kPassRows * kPairs && row <= place.n_rows"),
    ],
    ids=["shared", "global"],
)
def test_accesses_out_of_bounds_are_caught(
    right: str, wrong: str, sanitized: Path, tmp_path: Path
) -> None:
    mutant = ("lstm_forward.cu", right, wrong)
    broken = host.compile_mutant(sanitized, tmp_path, mutant, host.SANITIZE)
    ran = host.run(broken, host.draw(SMALL), tmp_path)
    assert "heap-buffer-overflow" in ran.message


def test_more_blocks_than_fit_are_refused(built: Path, tmp_path: Path) -> None:
    ran = host.run(built / "run_lstm", host.draw(HostCase(1, 99, 1152, groups=(3, 1))), tmp_path)
    assert ran.message.startswith("lstm_forward: error 720")


def test_the_twin_has_every_name_of_the_door() -> None:
    door = (ROOT / "csrc" / "cuda" / "device.cuh").read_text()
    names = set(
        re.findall(r"^(?:template <.*>\n)?(?:\[\[noreturn\]\] )?DEVICE .*?(\w+)\(", door, re.M)
    )
    names |= set(re.findall(r"^(?:struct|class)(?: alignas\(\w+\))? (\w+) \{", door, re.M))
    names -= {"shared_address"}  # of the instructions' own use
    assert {"multiply_add", "copy_async", "Pack", "FragmentA", "Launch", "Patience"} <= names
    twin = (host.HOST / "device.h").read_text()
    assert {name for name in names if not re.search(rf"\b{name}\b", twin)} == set()


# PTX ISA 9.0, 9.7.14.5.8, figures of mma.m16n8k16 with .f16 and .bf16 (A, B) and .f32 (C), and
# 9.7.14.5.15, ldmatrix: row and column of element i of a lane, as the text has them.
def element_of_a(lane: int, i: int) -> tuple[int, int]:
    group, in_group = lane >> 2, lane % 4
    row = group if i in (0, 1, 4, 5) else group + 8
    return row, in_group * 2 + (i & 1) + (8 if i >= 4 else 0)


def element_of_b(lane: int, i: int) -> tuple[int, int]:
    return lane % 4 * 2 + (i & 1) + (8 if i >= 2 else 0), lane >> 2


def element_of_c(lane: int, i: int) -> tuple[int, int]:
    return (lane >> 2) + (0 if i < 2 else 8), lane % 4 * 2 + (i & 1)


def test_layouts_are_those_of_the_figures() -> None:
    # Read off the figures by hand, so that formula and emulator cannot share a mistake.
    assert [element_of_a(5, i) for i in range(8)] == [
        (1, 2), (1, 3), (9, 2), (9, 3), (1, 10), (1, 11), (9, 10), (9, 11),
    ]  # fmt: skip
    assert [element_of_a(31, i) for i in (0, 3, 4, 7)] == [(7, 6), (15, 7), (7, 14), (15, 15)]
    assert [element_of_b(6, i) for i in range(4)] == [(4, 1), (5, 1), (12, 1), (13, 1)]
    assert [element_of_c(9, i) for i in range(4)] == [(2, 2), (2, 3), (10, 2), (10, 3)]


def fragment_inputs() -> tuple[list[int], dict[str, torch.Tensor]]:
    """Draw what fragments.cu reads: small whole numbers, whose sums no order of adding changes."""
    generator = torch.Generator().manual_seed(3)
    a = torch.randint(-8, 9, (16, 16), generator=generator).float()
    b = torch.randint(-8, 9, (16, 8), generator=generator).float()
    c = torch.randint(-99, 99, (16, 8), generator=generator).float()
    rows = torch.randint(0, 2**31, (128,), generator=generator)
    # The same bits are read as bfloat16 and as float16: in the one they are these numbers.
    bits = {"a": a.bfloat16().view(torch.int16), "b": b.bfloat16().view(torch.int16)}
    words: list[int] = []
    for name, element, n in (("a", element_of_a, 8), ("b", element_of_b, 4)):
        for lane in range(32):
            halves = [int(bits[name][element(lane, i)]) & 0xFFFF for i in range(n)]
            words += [halves[i] | halves[i + 1] << 16 for i in range(0, n, 2)]
    starts = [float(c[element_of_c(lane, i)]) for lane in range(32) for i in range(4)]
    words += [w & 0xFFFFFFFF for w in torch.tensor(starts).view(torch.int32).tolist()]
    return words + rows.tolist(), {"a": a, "b": b, "c": c, "rows": rows}


def printed_by(program: Path, words: list[int]) -> list[int]:
    text = " ".join(map(str, words))
    ran = subprocess.run([program], input=text, capture_output=True, text=True, check=True)
    return [int(line) for line in ran.stdout.split()]


@pytest.fixture(scope="session")
def emulated(built: Path) -> Path:
    """Path of tests/cuda_host/fragments.cu built on the emulator."""
    command = [host.compiler(), *host.FLAGS, "-include", host.HOST / "device.h", "-x", "c++"]
    program = built / "fragments"
    objects = ["-x", "none", built / "emulator.o", built / "memory.o"]
    subprocess.run([*command, host.HOST / "fragments.cu", *objects, "-o", program], check=True)
    return program


def test_emulated_instructions_have_the_documented_layouts(emulated: Path) -> None:
    words, drawn = fragment_inputs()
    found = printed_by(emulated, words)
    as_float = torch.tensor([w - (w >> 31 << 32) for w in found], dtype=torch.int32).view(
        torch.float32
    )
    halves = [drawn[name].bfloat16().view(torch.float16).double() for name in ("a", "b")]
    products = (drawn["a"] @ drawn["b"] + drawn["c"], halves[0] @ halves[1] + drawn["c"].double())
    for n, expected in enumerate(products):
        for lane, i in product(range(32), range(4)):
            value = float(as_float[128 * n + 4 * lane + i])
            assert value == pytest.approx(
                float(expected[element_of_c(lane, i)]), rel=1e-6, abs=1e-6
            )
    rows = drawn["rows"].reshape(4, 8, 4)  # matrices of 8 rows, a word has two elements
    for lane, matrix in product(range(32), range(4)):
        assert found[256 + 4 * lane + matrix] == int(rows[matrix, lane >> 2, lane % 4])
    exchanged = as_float[384:].tolist()
    assert exchanged == [float(lane ^ mask) for mask in (16, 3) for lane in range(32)]


@pytest.mark.gpu
def test_gpu_instructions_are_those_of_the_emulator(
    device: torch.device, emulated: Path, tmp_path: Path
) -> None:
    program = tmp_path / "fragments"
    command = ["nvcc", "-std=c++20", "-arch=native", host.HOST / "fragments.cu", "-o", program]
    subprocess.run(command, check=True)
    words, _ = fragment_inputs()
    assert printed_by(program, words) == printed_by(emulated, words)
