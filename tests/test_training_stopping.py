"""Signals are taken while a training listens, and are as they were before and after."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from ulmfit_fast.training.stopping import SIGNALS, Interrupted, StopRequest


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_handlers_come_back_after_one_signal_and_after_two() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    request = StopRequest()
    with pytest.raises(Interrupted), request.listening():
        signal.raise_signal(signal.SIGTERM)
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert request.signal == signal.SIGTERM
    with pytest.raises(KeyboardInterrupt), request.listening(), request.held_back():
        signal.raise_signal(signal.SIGINT)
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_signal_that_is_ignored_stays_so() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    request = StopRequest()
    with request.listening():
        signal.raise_signal(signal.SIGINT)
        with request.held_back():
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_a_forgotten_signal_is_the_first_again() -> None:
    request = StopRequest()
    for _ in range(2):
        with request.listening(), request.held_back():
            signal.raise_signal(signal.SIGINT)
        assert request.is_asked()
        request.forget()
        assert not request.is_asked()
    assert StopRequest(0.0).is_asked()
