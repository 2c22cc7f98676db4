"""The suite runs without a network, in this process and in those that tests start."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from urllib.error import URLError
from urllib.request import urlopen

import pytest

#: Nobody's: RFC 5737, RFC 3849.
FAR = "192.0.2.1"
FAR_6 = "2001:db8::1"


def udp() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", (FAR, 53))


def connect(family: socket.AddressFamily, host: str) -> None:
    with socket.socket(family) as one:
        one.settimeout(5)
        one.connect((host, 80))


WAYS: dict[str, Callable[[], object]] = {
    "IPv4": lambda: connect(socket.AF_INET, FAR),
    "IPv6": lambda: connect(socket.AF_INET6, FAR_6),
    "a name": lambda: connect(socket.AF_INET, "example.org"),
    "urllib": lambda: urlopen("https://huggingface.co", timeout=5),
    "asyncio": lambda: asyncio.run(asyncio.open_connection(FAR, 80)),
    "UDP": udp,
    "DNS": lambda: socket.getaddrinfo("example.org", 443),
    "the older call": lambda: socket.gethostbyname("example.org"),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_nothing_beyond_this_machine_is_reached(way: Callable[[], object]) -> None:
    with pytest.raises((OSError, URLError), match="no network in tests"):
        way()


def test_this_machine_is_reached() -> None:
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "localhost")):
        with socket.create_server(("127.0.0.1", 0), family=family) as server:
            socket.create_connection((host, server.getsockname()[1]), timeout=5).close()
    if hasattr(socket, "AF_UNIX"):
        one, other = socket.socketpair(socket.AF_UNIX)
        one.close(), other.close()


def test_what_a_test_starts_has_no_network_either() -> None:
    """Nor what that starts."""
    connects = f"import socket; socket.create_connection(({FAR!r}, 80), timeout=5)"
    starts = (
        f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', {connects!r}]))"
    )
    for code in (connects, starts):
        command = [sys.executable, "-c", code]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ran.returncode == 1
        assert f"no network in tests: {FAR}" in ran.stderr


def test_the_hook_is_what_refuses() -> None:
    """Without it the system's own answer comes, or a connection."""
    code = f"import socket; socket.create_connection(({FAR!r}, 80), timeout=0.1)"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert "no network in tests" not in ran.stderr
