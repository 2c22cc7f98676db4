"""Around the application: who may ask (Host), headers of every answer, counters, the access log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ulmfit_fast.errors import one_line
from ulmfit_fast.serve.messages import as_json

#: Names of this machine for itself.
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
    # Of what is no page; the page has its own.
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}


@dataclass
class Counters:
    """Answers so far.

    Attributes:
        requests: all of them.
        client_errors: with a status of 400 to 499.
        server_errors: with a status of 500 or more.
    """

    requests: int = 0
    client_errors: int = 0
    server_errors: int = 0

    def add(self, status: int) -> None:
        """Count an answer."""
        self.requests += 1
        self.client_errors += 400 <= status < 500
        self.server_errors += status >= 500


class Guard:
    """An ASGI application around another.

    A page of another site can have its name point to this machine (DNS rebinding) and then read
    answers as its own; so where only this machine is served, only its own names are answered.

    Args:
        app: what answers.
        counters: counts the answers.
        host_names: that a request may name in Host; None takes any.
        access_log: told in one line of every answer; None tells nobody.
    """

    def __init__(
        self,
        app: ASGIApp,
        counters: Counters,
        host_names: Iterable[str] | None,
        access_log: Callable[[str], None] | None,
    ) -> None:
        self._app = app
        self._counters = counters
        self._host_names = None if host_names is None else {name.lower() for name in host_names}
        self._access_log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._counters.add(status)
                present = {name.lower() for name, _ in message["headers"]}
                missing = {
                    name.encode(): value.encode()
                    for name, value in _HEADERS.items()
                    if name.encode() not in present
                }
                message = {**message, "headers": [*message["headers"], *missing.items()]}
            await send(message)

        refusal = self._why_not(scope)
        if refusal is None:
            await self._app(scope, receive, send_on)
        else:
            await _refuse(send_on, refusal)
        if self._access_log is not None:
            client = scope["client"][0] if scope.get("client") else "-"
            ms = 1e3 * (time.perf_counter() - started)
            path = one_line(scope["path"])
            self._access_log(f"{client} {scope['method']} {path} {status} {ms:.1f} ms")

    def _why_not(self, scope: Scope) -> str | None:
        """Return why a request is not answered, or None."""
        if self._host_names is None:
            return None
        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        for host in hosts:  # none in HTTP/1.0, which no browser speaks
            if _name_of(host) not in self._host_names:
                return (
                    f"Host: {one_line(host, 80)} is not a name of this server; ask for "
                    f"{LOCAL_NAMES[0]}, or start it with --allow-host NAME"
                )
        return None


def _name_of(host: str) -> str:
    """Return a Host header without its port: localhost, ::1."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


async def _refuse(send: Send, message: str) -> None:
    body = as_json({"error": message})
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 400, "headers": headers})
    await send({"type": "http.response.body", "body": body})
