"""Files by their address, from a server that does all that servers do."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ulmfit_fast import InputError
from ulmfit_fast.interop import archives, download

CONTENT = bytes(range(256)) * 12_000


class Server(BaseHTTPRequestHandler):
    """Answers by the first part of the path."""

    def __init__(self, asked: list[str], *arguments: object) -> None:
        self.asked = asked
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        """Answer."""
        self.asked.append(self.path)
        what = self.path.split("/")[1]
        if what == "missing":
            self.send_error(404)
        elif what == "elsewhere":
            self.send_response(302)
            self.send_header("Location", "file:///etc/hostname")
            self.end_headers()
        elif what == "garbage":
            self.wfile.write(b"no answer of HTTP\r\n\r\n")
        else:
            self.send_response(200)
            if what != "unsized":
                self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT[: 1000 if what == "short" else None])

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def asked() -> list[str]:
    return []


@pytest.fixture
def address(asked: list[str]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, asked))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob("*") if p.is_file() or p.name.startswith("."))


def test_an_address_is_fetched_once_and_its_progress_told(
    tmp_path: Path, address: str, asked: list[str]
) -> None:
    told: list[tuple[int, int]] = []
    for _ in range(2):
        found = download.download(f"{address}/a/m.tgz?x=1", tmp_path, lambda *n: told.append(n))
        assert found.read_bytes() == CONTENT
    assert asked == ["/a/m.tgz?x=1"]
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert len(told) > 1
    assert download.download(f"{address}/unsized/m.tgz", tmp_path).read_bytes() == CONTENT


def test_addresses_that_end_alike_are_different_files(
    tmp_path: Path, address: str, asked: list[str]
) -> None:
    first, second = (download.download(f"{address}/{k}/model.tgz", tmp_path) for k in "ab")
    assert first != second
    assert first.name == second.name == "model.tgz"
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("short/m.tgz", "cut short, 1,000 of 3,072,000 bytes came; try again"),
        ("missing/m.tgz", "cannot be fetched"),
        ("elsewhere/m.tgz", "cannot be fetched"),
        ("garbage/m.tgz", "cannot be fetched"),
        ("a/wt103-bwd.tgz", "the published file has 105,205,312"),
        ("", "names no file"),
        ("a/..", "names no file"),
    ],
)
def test_what_does_not_come_whole_is_one_line_and_leaves_nothing(
    tmp_path: Path, address: str, path: str, message: str
) -> None:
    with pytest.raises(InputError) as error:
        download.download(f"{address}/{path}", tmp_path / "cache")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert files(tmp_path) == []


def test_an_endless_answer_ends(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "LARGEST", 1 << 20)
    with pytest.raises(InputError, match="more than 1,048,576 bytes; refused"):
        download.download(f"{address}/unsized/m.tgz", tmp_path)
    assert files(tmp_path) == []


def test_without_a_network_an_address_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be fetched .*; fetch it elsewhere"):
        download.download("http://127.0.0.1:9/wt103-fwd.tgz", tmp_path)
    assert files(tmp_path) == []


def test_what_is_kept_is_checked_again(tmp_path: Path, address: str) -> None:
    archives.PUBLISHED["m.tgz"] = archives.Published(len(CONTENT), "0" * 32)
    try:
        with pytest.raises(InputError, match="its MD5 is"):
            download.download(f"{address}/a/m.tgz", tmp_path)
    finally:
        del archives.PUBLISHED["m.tgz"]
    assert files(tmp_path) == []
