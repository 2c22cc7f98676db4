"""A headless Chromium that opens pages, driven through its DevTools protocol."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
DEADLINE_S = 60.0


class Page:
    """A page of a browser; its dialogs, errors and policy violations are kept."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self.events: list[dict[str, Any]] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._ids)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=DEADLINE_S))
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self._take(message)

    def _take(self, message: dict[str, Any]) -> None:
        self.events.append(message)
        if message["method"] == "Page.javascriptDialogOpening":  # else every later call waits
            self._socket.send(json.dumps({
                "id": next(self._ids), "method": "Page.handleJavaScriptDialog",
                "params": {"accept": True},
            }))  # fmt: skip

    def open(self, path: Path, fragment: str = "") -> None:
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=path.resolve().as_uri() + fragment)
        started = time.monotonic()
        while self.value("document.readyState + location.protocol") != "completefile:":
            assert time.monotonic() - started < DEADLINE_S, "the page does not load"
            time.sleep(0.02)

    def value(self, expression: str) -> Any:
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def show_as(self, width: int, height: int = 844, *, scheme: str = "light") -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=width < 600)  # fmt: skip
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def press(self, key: str, code: int = 0, text: str = "") -> None:
        common = {"key": key, "windowsVirtualKeyCode": code, "code": key}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def picture(self, path: Path | None = None) -> bytes:
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        content = base64.b64decode(shot["data"])
        if path is not None:
            path.write_bytes(content)
        return content

    def troubles(self) -> list[str]:
        """Return dialogs, exceptions, violations of the policy, and requests beyond the file."""
        found = []
        for event in self.events:
            method, values = event["method"], event["params"]
            if method in ("Page.javascriptDialogOpening", "Runtime.exceptionThrown"):
                found.append(json.dumps(event))
            elif method == "Log.entryAdded" and values["entry"]["level"] == "error":
                found.append(values["entry"]["text"])
            elif method == "Network.requestWillBeSent":
                url = values["request"]["url"]
                if not url.startswith(("file:", "about:")):
                    found.append(url)
        return found


@contextmanager
def browser_page() -> Iterator[Page]:
    """Start a browser with one page; skips the test where there is no Chromium."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    client = pytest.importorskip("websockets.sync.client")
    # Processes of the browser may still write into it when the first of them has ended.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [
            CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            "--no-first-run", "--disable-extensions", "--remote-debugging-port=0",
            f"--user-data-dir={profile}", "about:blank",
        ]  # fmt: skip
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            port = _port(Path(profile))
            with client.connect(_address(port), max_size=2**28) as socket:
                yield Page(socket)
        finally:
            process.terminate()
            process.wait(timeout=DEADLINE_S)


def _port(profile: Path) -> int:
    started = time.monotonic()
    while time.monotonic() - started < DEADLINE_S:
        file = profile / "DevToolsActivePort"
        if file.exists() and (lines := file.read_text().splitlines()):
            return int(lines[0])
        time.sleep(0.05)
    raise AssertionError("the browser does not start")


def _address(port: int) -> str:
    from urllib.request import urlopen

    with urlopen(f"http://127.0.0.1:{port}/json/list", timeout=DEADLINE_S) as answer:
        pages = json.load(answer)
    return next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page")
