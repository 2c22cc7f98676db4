"""What a server accepts and how it makes batches."""

from __future__ import annotations

from dataclasses import dataclass

from ulmfit_fast.errors import InputError


@dataclass(frozen=True)
class Settings:
    """Limits of requests, and the sizes of batches.

    Attributes:
        max_texts: of a request; more is answered 413.
        max_characters: of a text; more is answered 413.
        max_body_bytes: of a request's body; more is answered 413 as soon as it was read.
        max_waiting: requests that wait for an answer; one more is answered 503.
        timeout_s: for reading a request's body, and again for its answer; then 408 or 504.
        max_wait_ms: how long a request waits for others to share its batch with.
        max_batch_tokens: of a batch; a longer text is a batch of its own.
    """

    max_texts: int = 256
    max_characters: int = 100_000
    max_body_bytes: int = 2 * 2**20
    max_waiting: int = 128
    timeout_s: float = 30.0
    max_wait_ms: float = 2.0
    max_batch_tokens: int = 8_192

    def __post_init__(self) -> None:
        """Raise InputError for a setting under which nothing could be answered."""
        for name in ("max_texts", "max_characters", "max_waiting", "max_batch_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}: give at least 1")
        if self.max_body_bytes < len('{"texts":["a"]}'):
            raise InputError(f"max_body_bytes is {self.max_body_bytes}: no request is so short")
        if not 0 < self.timeout_s < float("inf"):
            raise InputError(f"timeout_s is {self.timeout_s}: give a number of seconds above 0")
        if not 0 <= self.max_wait_ms < 1_000 * self.timeout_s:
            raise InputError(
                f"max_wait_ms is {self.max_wait_ms}: give 0 or more, and less than the timeout of "
                f"{self.timeout_s:g} s"
            )
