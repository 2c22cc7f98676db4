"""The server under load for a few seconds, and what the report shows of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from conftest import ROOT

pytest.importorskip("fastapi")


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", str(ROOT))
        yield __import__("serve_load")


@pytest.fixture(scope="module")
def record(script: ModuleType) -> dict[str, Any]:
    """The record of 5 seconds of 8 clients."""
    options = SimpleNamespace(size="tiny", clients=8, seconds=5.0, device="cpu", quick=True)
    return script.compare(options)


def test_under_load_every_answer_is_the_expected_one(record: dict[str, Any]) -> None:
    for case in record["cases"]:
        assert case["n_unexpected"] == 0, case["unexpected"]
        assert case["statuses"]["200"] == case["time_ms"]["n"] > 10
        assert {"400", "413", "422"} & set(case["statuses"])
        assert case["time_ms"]["p50"] <= case["p99_ms"] <= case["max_ms"]
        assert len(case["mib"]) == len(case["files"]) == len(case["threads"]) >= 2
        assert max(case["threads"]) < 16
    assert record["command"].startswith("python benchmarks/serve_load.py")
    assert json.loads(json.dumps(record)) == record


def test_a_wrong_answer_is_noticed(script: ModuleType) -> None:
    """A server that swaps answers, refuses what it should take, and takes what it should refuse."""
    clients = __import__("serve_clients")
    bodies = {
        "right": {"predictions": [{"probabilities": {"a": 0.25}}]},
        "swapped": {"predictions": [{"probabilities": {"a": 0.75}}]},
    }

    async def tally_of(status: int, body: bytes) -> Any:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while await reader.read(2**20):
                head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n"
                writer.write(head.encode() + body)
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        tally = clients.Tally()
        pool = clients.Pool(["a text"], [0.25], 1e-3)
        client = clients.Client(f"http://127.0.0.1:{port}", pool, 0, tally)
        client._draw = SimpleNamespace(randint=lambda *_: 1, randrange=lambda *_: 0)
        await client._ask_well()
        await client._ask_badly("wrong type", clients.bad_requests()["wrong type"])
        await client._close()
        server.close()
        return tally

    def complaints(status: int, content: object) -> list[str]:
        return asyncio.run(tally_of(status, json.dumps(content).encode())).unexpected

    assert [c[:10] for c in complaints(200, bodies["right"])] == ["wrong type"]
    assert [c[:10] for c in complaints(200, bodies["swapped"])] == ["text 0: 0.", "wrong type"]
    assert [c[:10] for c in complaints(422, {"error": "x"})] == ["good reque"]
    assert [c[:10] for c in complaints(422, {"error": ""})] == ["good reque", "wrong type"]


def test_growth_is_that_of_the_last_third(script: ModuleType) -> None:
    server = script.Server(None)
    assert server.growth() == {}
    server.mib, server.files, server.threads = [9.0, 9, 1, 1, 3, 3], [7] * 6, [2] * 6
    assert server.growth() == {"mib": 2.0, "files": 0, "threads": 0}


def test_report_shows_the_load_in_docs_alone(
    script: ModuleType, record: dict[str, Any], tmp_path: Path
) -> None:
    results, readme = tmp_path / "results", tmp_path / "README.md"
    results.mkdir()
    readme.write_text("<!-- benchmarks:begin -->\n<!-- benchmarks:end -->\n")
    (results / "serve-load--a-cpu--20261125.json").write_text(json.dumps(record))
    report = __import__("report")
    options = ["--readme", str(readme), "--results", str(results)]
    assert report.main(options) == 0
    assert report.main([*options, "--check"]) == 0
    shown = (tmp_path / "docs" / "benchmarks.md").read_text()
    assert "| one text at a time | tiny |" in shown
    assert "8 clients at once" in shown
    assert "at a time" not in readme.read_text()


def test_run_knows_the_script(script: ModuleType, tmp_path: Path) -> None:
    options = SimpleNamespace(device="cpu", quick=True, grid="default", minutes=8.0)
    options.results = tmp_path
    run = __import__("run")
    assert run.commands(options)["serve-load"][0] == "benchmarks/serve_load.py"
