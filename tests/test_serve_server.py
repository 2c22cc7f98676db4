"""`ulmfit-fast serve` as a program: its life and end, its clients' ends, what it says."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

import httpx
from cli_runs import run
from serving import MAIN, Running, serving, small_trainer, wait_for
from small_training import draw_texts

from ulmfit_fast import InputError, serve
from ulmfit_fast.serve.server import bind, is_local, url_of

# A server whose batches take a while, and which waits shortly for silent clients.
SLOW = """
import time
from ulmfit_fast.serve import server
from ulmfit_fast.serve.predictor import Predictor
server.HEAD_TIMEOUT_S = 1.0
quick = Predictor.classify
def slow(self, ids):
    time.sleep(0.5)
    return quick(self, ids)
Predictor.classify = slow
"""

# uvicorn takes it where it is installed; the extra does not ask for it.
WITHOUT_HTTPTOOLS = "import sys; sys.modules['httptools'] = None\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "films"
    small_trainer().save(folder)
    return folder


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Running]:
    with serving(model, "--allow-host", "films.example") as running:
        yield running


def test_concurrent_requests_have_the_answers_of_their_texts(server: Running, model: Path) -> None:
    from ulmfit_fast import ULMFiTTrainer

    texts, _ = draw_texts(64, seed=6)
    expected = ULMFiTTrainer.load(model, device="cpu").predict(texts)
    with httpx.Client(base_url=server.url) as client, ThreadPoolExecutor(8) as pool:
        parts = [texts[i : i + 1 + i % 3] for i in range(60)]
        answers = pool.map(lambda part: client.post("/predict", json={"texts": part}), parts)
        for i, answer in enumerate(answers):
            assert answer.status_code == 200
            for k, found in enumerate(answer.json()["predictions"]):
                wanted = pytest.approx(expected[i + k].probabilities, abs=2e-6)
                assert found["probabilities"] == wanted
        facts = client.get("/health").json()
    assert facts["batches"] < 60, "requests that come together share batches"


def test_clients_that_break_off_disturb_no_other(server: Running) -> None:
    body = json.dumps({"texts": ["the cat is old"] * 50}).encode()
    head = "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    whole = head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body
    for part in (whole, whole[:-10], whole[:40], b"\x16\x03\x01garbage\r\n\r\n", b""):
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", server.port)) as connection:
                connection.sendall(part)
    with httpx.Client(base_url=server.url) as client:
        assert client.post("/predict", json={"texts": ["a dog"]}).status_code == 200
        wait_for(lambda: client.get("/health").json()["queue_length"] == 0)
        assert client.get("/health").json()["server_errors"] == 0


@pytest.mark.parametrize("framing", ["content-length", "chunked"])
def test_too_large_a_body_is_answered_before_it_has_come(server: Running, framing: str) -> None:
    """The client sends a little more than is taken, and then waits."""
    n_bytes = 2 * 2**20 + 70_000
    part = b"x" * n_bytes
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        )
        if framing == "chunked":
            connection.sendall(b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % n_bytes + part)
        else:
            connection.sendall(b"Content-Length: 9000000000\r\n\r\n")
        answer = connection.recv(4_096)
    assert answer.startswith(b"HTTP/1.1 413 ")


def end_in_a_request(running: Running, sign: signal.Signals) -> tuple[int, list[str]]:
    """Send a signal while a request runs; return exit status and lines of standard error."""
    with ThreadPoolExecutor(1) as pool, httpx.Client(base_url=running.local_url) as client:
        request = {"url": "/predict", "json": {"texts": ["a cat"]}, "timeout": 20}
        held = pool.submit(client.post, **request)
        wait_for(lambda: client.get("/health").json()["queue_length"] == 1)
        status, said = running.stop(sign)
        assert held.result().status_code == 200
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", running.port)).close()
    return status, said.splitlines()


def test_sigterm_ends_it_after_the_running_request(model: Path) -> None:
    with serving(model, "--access-log", code=SLOW + MAIN) as running:
        started = time.monotonic()
        with socket.create_connection(("127.0.0.1", running.port), timeout=10) as connection:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: local")
            assert connection.recv(100) == b"", "what sends half a head is not waited for"
        assert 0.8 < time.monotonic() - started < 9
        status, said = end_in_a_request(running, signal.SIGTERM)
    assert status == 0
    assert said[0] == f"serving films (2 classes, fp32 on cpu) on {running.url}, Ctrl-C ends it"
    assert said[1].startswith(f"try it  curl {running.url}/predict -H 'Content-Type: application")
    assert said[2].startswith("127.0.0.1 GET /health 200 ")
    assert said[-2].startswith("127.0.0.1 POST /predict 200 ")
    assert said[-1] == "ended"
    assert all(line.startswith("127.0.0.1 ") for line in said[2:-1])


def test_ctrl_c_ends_it_likewise_and_others_are_warned_of(model: Path) -> None:
    with serving(model, "--host", "0.0.0.0", code=WITHOUT_HTTPTOOLS + SLOW + MAIN) as running:
        any_name = {"Host": "films.example"}
        assert httpx.get(f"{running.local_url}/health", headers=any_name).status_code == 200
        status, said = end_in_a_request(running, signal.SIGINT)
    assert status == 130
    assert said[0].startswith("warning: --host 0.0.0.0: everybody who reaches this machine can use")
    assert "no authentication" in said[0]
    assert said[-1] == "stopped"
    assert len(said) == 4


def test_the_example_that_it_says_runs(server: Running) -> None:
    answer = subprocess.run(
        ["curl", "-s", f"{server.url}/predict", "-H", "Content-Type: application/json",
         "-d", '{"texts": ["a text"]}'],
        capture_output=True, check=True,
    )  # fmt: skip
    assert json.loads(answer.stdout)["predictions"]


def test_further_names_can_be_allowed(server: Running) -> None:
    for host, status in (("films.example", 200), ("localhost", 200), ("other.example", 400)):
        answer = httpx.get(f"{server.url}/health", headers={"Host": host})
        assert answer.status_code == status


def test_addresses() -> None:
    with bind("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        assert is_local(bound)
        assert url_of(bound) == f"http://127.0.0.1:{port}"
        bound.listen()
        with pytest.raises(InputError, match=rf"--port {port}: Address already in use; give"):
            bind("127.0.0.1", port)
    with bind("0.0.0.0", 0) as bound:
        assert not is_local(bound)
    with pytest.raises(InputError, match=r"--host 192\.0\.2\.1 --port 0: Cannot assign"):
        bind("192.0.2.1", 0)
    with pytest.raises(InputError, match="give an address of this machine"):
        bind("no such host", 0)


def test_bad_options_are_one_line(model: Path, tmp_path: Path) -> None:
    refused = {
        ("serve", tmp_path / "none"): "none",
        ("serve", model, "--timeout", "0"): "timeout_s is 0.0",
        ("serve", model, "--max-wait-ms", "-1"): "max_wait_ms is -1.0",
        ("serve", model, "--max-body-bytes", "3"): "no request is so short",
        ("serve", model, "--port", "70000"): "70000",
        ("serve", model, "--host", "192.0.2.1"): "--host 192.0.2.1",
    }
    for arguments, says in refused.items():
        result = run(*arguments)
        assert result.exit_code == 2
        assert says in result.stderr
        assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(("library", "part"), [("fastapi", "app"), ("uvicorn", "server")])
def test_without_its_libraries_it_says_what_to_install(
    model: Path, library: str, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, f"ulmfit_fast.serve.{part}")
    monkeypatch.delattr(serve, part)
    refused = run("serve", model)
    assert refused.exit_code == 2
    assert refused.stderr.count("\n") == 1
    assert 'pip install "ulmfit_fast[serve]"' in refused.stderr
