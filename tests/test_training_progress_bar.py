"""The live block of a training: what it says, at any width."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from ulmfit_fast.training.progress_bar import Block, Pace, clock_time, cut, flow

FACTS = ["epoch 2/3", "loss 2.345", "12.3k tokens/s", "1:23 left", "GPU 3.1 of 80.0 GB"]


def drawn(block: Block, width: int) -> list[str]:
    """Return the lines of a block in a terminal that is so wide."""
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=True, no_color=True)
    console.print(block, end="")
    lines = Text.from_ansi(stream.getvalue()).plain.splitlines()
    return [line for line in lines if line.strip()]


@pytest.mark.parametrize("width", [120, 80, 40, 20])
def test_no_line_is_wider_than_the_terminal_and_no_fact_is_lost(width: int) -> None:
    lines = drawn(Block("stage 2 of 3  language_model", 4000, 1234, facts=lambda: FACTS), width)
    assert all(cell_len(line) < width for line in lines)
    text = " ".join(" ".join(lines).split())
    assert "1,234/4,000" in text
    if width >= 40:
        assert all(fact in text for fact in FACTS)


def test_a_wide_terminal_has_the_title_the_bar_and_the_count_on_one_line() -> None:
    first, *_ = drawn(Block("classifier", 40, 20), 80)
    assert first.strip().startswith("classifier")
    assert first.rstrip().endswith("20/40")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_time_left_is_that_of_the_steps_and_validations_to_come() -> None:
    clock = Clock()
    pace = Pace(100, clock)
    assert pace.seconds_left() is None
    for step in range(1, 51):
        clock.now += 2.0
        pace.step(step)
    assert pace.seconds_left() == pytest.approx(100.0)
    clock.now += 30.0
    pace.epoch_ended(1)
    assert pace.seconds_left() == pytest.approx(130.0)  # one epoch more, and its validation


def test_a_stage_that_goes_on_does_not_count_the_steps_before() -> None:
    clock = Clock()
    pace = Pace(100, clock)
    clock.now = 5.0
    pace.step(91)  # told of for the first time
    assert pace.seconds_left() is None
    clock.now = 6.0
    pace.step(92)
    assert pace.seconds_left() == pytest.approx(8.0)


@given(st.lists(st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=12), max_size=8),
       st.integers(4, 60))  # fmt: skip
def test_flow_keeps_to_its_width(pieces: list[str], width: int) -> None:
    assert all(cell_len(line) <= width for line in flow(pieces, width))


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=50), st.integers(4, 40))
def test_a_cut_text_is_the_beginning_of_the_whole(text: str, width: int) -> None:
    shown = cut(text, width)
    assert cell_len(shown) <= width
    assert shown == text or shown.endswith("...")


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0:00"), (7.4, "0:07"), (754, "12:34"), (3723, "1:02:03")]
)
def test_times(seconds: float, shown: str) -> None:
    assert clock_time(seconds) == shown
