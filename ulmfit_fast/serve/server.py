"""uvicorn around the application: the socket, the signals, the ends of a server's life."""

from __future__ import annotations

import asyncio
import ipaddress
import math
import signal
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from ulmfit_fast.errors import InputError
from ulmfit_fast.serve.app import Served, make_app
from ulmfit_fast.serve.guard import LOCAL_NAMES, Counters, Guard

# Connections at a time; more are answered 503 by uvicorn. Below the 1,024 files that a process may
# have open by default.
MAX_CONNECTIONS = 512
# Within which a new connection must have sent a request's head.
HEAD_TIMEOUT_S = 10.0
KEEP_ALIVE_S = 15


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that has an address, and does not listen yet.

    Args:
        host: name or address.
        port: 0 takes a free one.

    Raises:
        InputError: there is no such address here, it is taken, or may not be used.
    """
    where = f"--host {host} --port {port}"
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{where}: {reason}; give an address of this machine") from error
    family, kind, protocol, _, address = found[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise InputError(f"{where}: {error.strerror}; give another --port or --host") from error
    return bound


def is_local(bound: socket.socket) -> bool:
    """Say whether only this machine reaches the address of a socket."""
    return ipaddress.ip_address(bound.getsockname()[0].partition("%")[0]).is_loopback


def url_of(bound: socket.socket) -> str:
    """Return the address of a socket for a browser."""
    name, port = bound.getsockname()[:2]
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


class _Protocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]  # a class chosen by uvicorn
    """uvicorn's, that also ends a new connection on which no request comes."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Begin to wait for a request."""
        super().connection_made(transport)
        loop = asyncio.get_running_loop()
        self._silence = loop.call_later(HEAD_TIMEOUT_S, self._end_if_silent)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop to wait."""
        self._silence.cancel()
        super().connection_lost(exc)

    def _end_if_silent(self) -> None:
        if self.cycle is None:  # no head of a request has come
            self.transport.close()


class _Server(uvicorn.Server):
    """uvicorn's, that says when it listens."""

    def __init__(self, config: uvicorn.Config, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        if not self.should_exit:
            self._on_start()


def run(
    served: Served,
    bound: socket.socket,
    allowed_hosts: Iterable[str],
    *,
    on_start: Callable[[], None],
    access_log: Callable[[str], None] | None,
) -> None:
    """Serve until SIGTERM or SIGINT; requests that were begun are answered first.

    Args:
        served: the model.
        bound: socket from `bind`.
        allowed_hosts: names that Host may have beside this machine's own, where only this machine
            is served.
        on_start: called once requests are answered.
        access_log: told in one line of every answer; None tells nobody.

    Raises:
        KeyboardInterrupt: it was SIGINT.
    """
    counters = Counters()
    names = {*LOCAL_NAMES, *allowed_hosts} if is_local(bound) else None
    app = Guard(make_app(served, counters), counters, names, access_log)
    config = uvicorn.Config(
        app, http=_Protocol, ws="none", lifespan="on", log_config=None, log_level="error",
        access_log=False, server_header=False, proxy_headers=False,
        limit_concurrency=MAX_CONNECTIONS, timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=math.ceil(2 * served.settings.timeout_s),
    )  # fmt: skip
    # uvicorn sends itself the signal that ended it once more, when it has ended.
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        _Server(config, on_start).run([bound])
    finally:
        signal.signal(signal.SIGTERM, before)
        with suppress(OSError):
            bound.close()
