"""Takes the network from the Python that imports this, as from a machine without one.

`tests/conftest.py` imports it, and puts its folder on PYTHONPATH, where every Python that a test
starts looks for a module of this name. This machine itself can be reached. What makes connections
without Python's sockets, such as a browser, is not stopped.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import sys
from typing import Any

MESSAGE = "no network in tests"
#: Names that stand for this machine.
LOCAL_NAMES = ("", "localhost", "<broadcast>", socket.gethostname())
CONNECTIONS = ("socket.connect", "socket.sendto", "socket.sendmsg")
QUESTIONS = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")


def text_of(host: Any) -> str:
    return "" if host is None else os.fsdecode(host).partition("%")[0]  # "%": an interface


def is_here(host: Any) -> bool:
    """Say whether an address or a name is of this machine."""
    name = text_of(host)
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name.lower() in LOCAL_NAMES


def is_address(host: Any) -> bool:
    """Say whether nobody has to be asked for an address."""
    try:
        ipaddress.ip_address(text_of(host))
    except ValueError:
        return False
    return True


def refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """Raise OSError before the network is used."""
    if event in CONNECTIONS:
        where, address = arguments[:2]
        is_of_network = where.family in (socket.AF_INET, socket.AF_INET6)
        if is_of_network and address is not None and not is_here(address[0]):
            raise OSError(errno.ENETUNREACH, f"{MESSAGE}: {address[0]}")
    elif event in QUESTIONS and not is_here(arguments[0]) and not is_address(arguments[0]):
        raise socket.gaierror(socket.EAI_NONAME, f"{MESSAGE}: {text_of(arguments[0])}")


def refusing(event: str, call: Any) -> Any:
    """Return a method of a socket that refuses before it asks for the address of a name."""

    def asked(self: socket.socket, address: Any) -> Any:
        refuse(event, (self, address))
        return call(self, address)

    return asked


if not hasattr(sys, "_has_no_network"):  # hooks cannot be taken away: one is enough
    sys.addaudithook(refuse)
    for name in ("connect", "connect_ex"):
        method = refusing("socket.connect", getattr(socket.socket, name))
        setattr(socket.socket, name, method)
    sys._has_no_network = True  # type: ignore[attr-defined]
