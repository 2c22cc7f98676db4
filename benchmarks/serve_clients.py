"""Clients of a server under load: good requests, bad ones, and what each must be answered with."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

#: One request in so many is bad.
BAD_EVERY = 5
#: Texts of a good request.
FEWEST, MOST = 1, 8
#: Answer of a request that the client itself broke off.
BROKEN_OFF = 0


@dataclass(frozen=True)
class Pool:
    """Texts to send, and what a server must answer for each.

    Attributes:
        texts: different ones.
        probabilities: of each text's first class.
        tolerance: largest difference that is rounding.
    """

    texts: Sequence[str]
    probabilities: Sequence[float]
    tolerance: float


@dataclass
class Tally:
    """What clients saw.

    Attributes:
        statuses: number of answers of each status; 0: broken off by the client itself.
        good_ms: time of every good request, in milliseconds.
        n_texts: answered.
        unexpected: answers that are not those expected, the first of them in words.
        n_unexpected: number of them.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    good_ms: list[float] = field(default_factory=list)
    n_texts: int = 0
    unexpected: list[str] = field(default_factory=list)
    n_unexpected: int = 0

    def complain(self, what: str) -> None:
        """Count an answer that was not expected."""
        self.n_unexpected += 1
        if len(self.unexpected) < 20:
            self.unexpected.append(what)

    def add(self, other: Tally) -> None:
        """Take what was seen in another turn."""
        self.statuses += other.statuses
        self.good_ms += other.good_ms
        self.n_texts += other.n_texts
        self.unexpected += other.unexpected
        self.n_unexpected += other.n_unexpected


@dataclass(frozen=True)
class Request:
    """Bytes of a request, and the status that must come; None: break off without reading."""

    content: bytes
    status: int | None


def request(body: bytes, status: int | None, *, head: str = "", line: str = "") -> Request:
    """Return a request; the head's lines stand beside or in place of the usual ones."""
    kind = "" if "Content-Type" in head else "Content-Type: application/json\r\n"
    host = "" if "Host:" in head else "Host: localhost\r\n"
    length = "" if "Content-Length" in head or "Transfer" in head else f"{len(body)}"
    length = f"Content-Length: {length}\r\n" if length else ""
    first = line or "POST /predict HTTP/1.1"
    return Request(f"{first}\r\n{host}{kind}{length}{head}\r\n".encode() + body, status)


def _json(content: object) -> bytes:
    return json.dumps(content).encode()


def bad_requests() -> dict[str, Request]:
    """Return one request of every kind that a server must refuse, or stand."""
    text, many = {"texts": ["a text"]}, {"texts": ["a text"] * 300}
    chunk = b"x" * 70_000
    chunks = b"%x\r\n" % len(chunk) + chunk + b"\r\n"
    return {
        "not JSON": request(b"{", 400),
        "not UTF-8": request(b'{"texts": ["\xff"]}', 400),
        "half a character": request(b'{"texts": ["\\ud800"]}', 400),
        "deep": request(b"[" * 50_000, 400),
        "wrong type": request(_json({"texts": [1]}), 422),
        "empty text": request(_json({"texts": ["a", ""]}), 422),
        "NUL": request(_json({"texts": ["a\0b"]}), 422),
        "other name": request(_json({"text": "a"}), 422),
        "too many texts": request(_json(many), 413),
        "too long a text": request(_json({"texts": ["x" * 100_001]}), 413),
        "too large, declared": request(b"", 413, head="Content-Length: 90000000\r\n"),
        "too large, in chunks": request(
            chunks * 31 + b"0\r\n\r\n", 413, head="Transfer-Encoding: chunked\r\n"
        ),
        "no JSON type": request(_json(text), 415, head="Content-Type: text/plain\r\n"),
        "compressed": request(b"\x1f\x8b", 415, head="Content-Encoding: gzip\r\n"),
        "strange host": request(_json(text), 400, head="Host: evil.example\r\n"),
        "no such page": request(b"", 404, line="GET /../secret%00 HTTP/1.1"),
        "other method": request(b"", 405, line="DELETE /predict HTTP/1.1"),
        "no HTTP": Request(b"\x16\x03\x01\x02\x00\r\n\r\n", 400),
        "half a body": request(b'{"texts": [', None, head="Content-Length: 5000\r\n"),
        "half a head": Request(b"POST /predict HTTP/1.1\r\nHost: loc", None),
        "gone before the answer": request(_json({"texts": ["a text " * 50] * 20}), None),
    }


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes, bool]:
    """Return status and body of an answer, and whether the connection stays."""
    head = await reader.readuntil(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
    body = await reader.readexactly(int(fields[b"content-length"]))
    return status, body, fields.get(b"connection") != b"close"


class Client:
    """One client: a request after the other until a time, with a connection that it keeps.

    Args:
        url: of the server.
        pool: texts and their answers.
        seed: decides what is sent.
        tally: takes what is seen.
    """

    def __init__(self, url: str, pool: Pool, seed: int, tally: Tally) -> None:
        address = urlsplit(url)
        self._address = (address.hostname, address.port)
        self._pool, self._tally = pool, tally
        self._draw = random.Random(seed)
        self._bad = bad_requests()
        self._writer: asyncio.StreamWriter | None = None

    async def run(self, until: float) -> None:
        """Send requests until then, on the clock of time.perf_counter."""
        while time.perf_counter() < until:
            if self._draw.randrange(BAD_EVERY):
                await self._ask_well()
            else:
                await self._ask_badly(*self._draw.choice(list(self._bad.items())))
        await self._close()

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._writer is None or self._writer.is_closing():
            self._reader, self._writer = await asyncio.open_connection(*self._address, limit=2**24)
        return self._reader, self._writer

    async def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    async def _exchange(self, content: bytes) -> tuple[int, bytes]:
        reader, writer = await self._connection()
        writer.write(content)
        status, body, stays = await asyncio.wait_for(read_answer(reader), 60)
        if not stays:
            await self._close()
        return status, body

    async def _ask_well(self) -> None:
        n = self._draw.randint(FEWEST, MOST)
        rows = [self._draw.randrange(len(self._pool.texts)) for _ in range(n)]
        content = request(_json({"texts": [self._pool.texts[i] for i in rows]}), 200).content
        started = time.perf_counter()
        try:
            status, body = await self._exchange(content)
        except (OSError, EOFError, TimeoutError) as error:
            self._tally.complain(f"good request: {error!r}")
            await self._close()
            return
        self._tally.good_ms.append(1e3 * (time.perf_counter() - started))
        self._tally.statuses[status] += 1
        if status != 200:
            self._tally.complain(f"good request: {status} {body[:200]!r}")
            return
        self._tally.n_texts += n
        for i, found in zip(rows, json.loads(body)["predictions"], strict=True):
            first = next(iter(found["probabilities"].values()))
            if abs(first - self._pool.probabilities[i]) > self._pool.tolerance:
                expected = self._pool.probabilities[i]
                self._tally.complain(f"text {i}: {first} in place of {expected}")

    async def _ask_badly(self, name: str, bad: Request) -> None:
        try:
            if bad.status is None:
                _, writer = await self._connection()
                writer.write(bad.content)
                await writer.drain()
                await self._close()
                self._tally.statuses[BROKEN_OFF] += 1
                return
            status, body = await self._exchange(bad.content)
        except (OSError, EOFError, TimeoutError) as error:
            self._tally.complain(f"{name}: {error!r}")
            await self._close()
            return
        self._tally.statuses[status] += 1
        if status != bad.status:
            self._tally.complain(f"{name}: {status} in place of {bad.status}: {body[:200]!r}")
        elif name != "no HTTP" and not json.loads(body)["error"]:
            self._tally.complain(f"{name}: no error in {body[:200]!r}")
        if name == "too large, declared":  # what was declared never comes
            await self._close()


async def _drive(url: str, pool: Pool, n_clients: int, seconds: float, seed: int) -> Tally:
    tally = Tally()
    until = time.perf_counter() + seconds
    clients = [Client(url, pool, seed * n_clients + i, tally) for i in range(n_clients)]
    await asyncio.gather(*(client.run(until) for client in clients))
    return tally


def drive(
    url: str, pool: Pool, n_clients: int, seconds: float, seed: int, watch: Callable[[], None]
) -> Tally:
    """Run clients at a server for so many seconds; `watch` is called once a second."""

    async def main() -> Tally:
        driving = asyncio.create_task(_drive(url, pool, n_clients, seconds, seed))
        while not driving.done():
            watch()
            await asyncio.wait([driving], timeout=1.0)
        return driving.result()

    return asyncio.run(main())
