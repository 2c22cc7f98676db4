"""The application over HTTP: answers, refusals, limits, and the headers of both."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

from serving import JSON, WordModel, small_trainer, wait_for
from small_training import draw_texts
from starlette.testclient import TestClient

from ulmfit_fast import __version__
from ulmfit_fast.serve.app import Served, make_app
from ulmfit_fast.serve.guard import LOCAL_NAMES, Counters, Guard
from ulmfit_fast.serve.predictor import Predictor
from ulmfit_fast.serve.settings import Settings
from ulmfit_fast.training.evaluation import Prediction
from ulmfit_fast.training.precision import Precision

LOCAL = "http://127.0.0.1:8000"


class Words(WordModel):
    """The model without torch, as an application sees it."""

    device = "cpu"
    precision = Precision("fp32", None, "")  # type: ignore[arg-type]


@contextmanager
def client_of(
    model: object, *, log: list[str] | None = None, base_url: str = LOCAL, **settings: float
) -> Iterator[TestClient]:
    errors: list[BaseException] = []
    served = Served("films", model, Settings(**settings), errors.append)  # type: ignore[arg-type]
    counters = Counters()
    app = Guard(make_app(served, counters), counters, LOCAL_NAMES, log.append if log else None)
    with TestClient(app, base_url, raise_server_exceptions=False) as client:
        client.errors = errors  # type: ignore[attr-defined]
        yield client


@pytest.fixture
def client() -> Iterator[TestClient]:
    with client_of(Words()) as found:
        yield found


def test_predict_answers_in_order_as_the_trainer_does() -> None:
    trainer = small_trainer()
    texts, _ = draw_texts(12, seed=5)
    with client_of(Predictor(trainer)) as client:
        answer = client.post("/predict", json={"texts": texts})
    assert answer.status_code == 200
    found = answer.json()["predictions"]
    for one, expected in zip(found, trainer.predict(texts), strict=True):
        assert one["label"] == expected.label
        assert one["probabilities"] == expected.probabilities
        assert one["probability"] == max(expected.probabilities.values())
        assert list(one) == ["label", "probability", "probabilities"]


def test_health_counts_requests_texts_and_errors(client: TestClient) -> None:
    client.post("/predict", json={"texts": ["a", "b"]})
    client.post("/predict", json={"texts": []})
    client.get("/nowhere")
    answer = client.get("/health")
    facts = answer.json()
    assert answer.status_code == 200
    assert facts.pop("uptime_s") >= 0
    assert facts == {
        "status": "ok", "model": "films", "classes": 1, "device": "cpu", "precision": "fp32",
        "version": __version__, "queue_length": 0, "requests": 3, "client_errors": 2,
        "server_errors": 0, "texts": 2, "batches": 1,
    }  # fmt: skip
    assert client.head("/health").content == b""


REFUSED = {
    "no JSON": ("POST", "/predict", JSON, b"{", 400),
    "no text": ("POST", "/predict", JSON, b'{"texts": []}', 422),
    "form": ("POST", "/predict", {"Content-Type": "text/plain"}, b'{"texts": ["a"]}', 415),
    "no type": ("POST", "/predict", {}, b'{"texts": ["a"]}', 415),
    "compressed": ("POST", "/predict", {**JSON, "Content-Encoding": "gzip"}, b"\x1f\x8b", 415),
    "method": ("GET", "/predict", {}, b"", 405),
    "other method": ("DELETE", "/", {}, b"", 405),
    "path": ("GET", "/../etc/passwd%00", {}, b"", 404),
    "docs": ("GET", "/docs", {}, b"", 404),
    "redoc": ("GET", "/redoc", {}, b"", 404),
    "strange host": ("GET", "/health", {"Host": "evil.example"}, b"", 400),
    "host that only begins well": ("GET", "/", {"Host": "localhost.evil.example:80"}, b"", 400),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_are_json_in_one_line(client: TestClient, name: str) -> None:
    method, path, headers, body, status = REFUSED[name]
    answer = client.request(method, path, headers=headers, content=body)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    message = answer.json()["error"]
    assert message
    assert message.isprintable()
    assert list(answer.json()) == ["error"]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:8000", "[::1]:8000"])
def test_names_of_this_machine_are_answered(client: TestClient, host: str) -> None:
    assert client.get("/health", headers={"Host": host}).status_code == 200


def test_every_answer_has_headers_for_browsers_and_none_for_other_sites(client: TestClient) -> None:
    for path in ("/", "/health", "/openapi.json", "/nowhere"):
        headers = client.get(path, headers={"Origin": "https://evil.example"}).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert not [name for name in headers if name.startswith("access-control")]
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    answer = client.options("/predict", headers=asked)
    assert answer.status_code == 405
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_a_body_is_read_no_further_than_it_is_taken() -> None:
    sent = 0

    def parts() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(1_000):
            sent += 1
            yield b"x" * 100

    with client_of(Words(), max_body_bytes=1_000) as client:
        declared = client.post("/predict", headers=JSON, content=b"x" * 2_000)
        assert declared.status_code == 413
        assert "more than 1,000 bytes" in declared.json()["error"]
        exact = b'{"texts": ["' + b"a" * 985 + b'"]}'
        assert len(exact) == 1_000
        assert client.post("/predict", headers=JSON, content=exact).status_code == 200
        assert client.post("/predict", headers=JSON, content=exact + b" ").status_code == 413
    # The test client reads a generator by itself, so the limit is seen in what the app asks for.
    received = asked_for(parts(), max_body_bytes=1_000)
    assert received == (413, 11)
    assert sent < 20


def asked_for(parts: Iterator[bytes], **settings: int) -> tuple[int, int]:
    """Return status and number of parts that the application asks for of an endless body."""
    import asyncio

    counters = Counters()
    served = Served("films", Words(), Settings(**settings), print)  # type: ignore[arg-type]
    app = Guard(make_app(served, counters), counters, None, None)
    n_parts, status = 0, 0

    async def receive() -> dict[str, object]:
        nonlocal n_parts
        n_parts += 1
        return {"type": "http.request", "body": next(parts), "more_body": True}

    async def send(message: dict[str, object]) -> None:
        nonlocal status
        status = int(message.get("status", status))  # type: ignore[call-overload]

    scope = {
        "type": "http", "method": "POST", "path": "/predict", "raw_path": b"/predict",
        "query_string": b"", "headers": [(b"content-type", b"application/json")],
        "http_version": "1.1", "scheme": "http", "root_path": "", "client": None,
    }  # fmt: skip
    asyncio.run(app(scope, receive, send))  # type: ignore[arg-type]
    return status, n_parts


def test_a_full_queue_is_503_with_retry_after() -> None:
    entered, leave = threading.Event(), threading.Event()
    model = Words()
    with client_of(model, max_waiting=1) as client, ThreadPoolExecutor(1) as pool:
        model.during = lambda: (entered.set(), leave.wait(10))
        held = pool.submit(client.post, "/predict", json={"texts": ["held"]})
        assert entered.wait(10)
        assert client.get("/health").json()["queue_length"] == 1
        refused = client.post("/predict", json={"texts": ["one more"]})
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        leave.set()
        assert held.result().json()["predictions"][0]["label"] == "held"
        assert client.get("/health").json()["server_errors"] == 1


def test_no_answer_in_time_is_504_and_the_next_request_is_answered() -> None:
    leave = threading.Event()
    model = Words()
    with client_of(model, timeout_s=1.0) as client:
        model.during = lambda: leave.wait(10)
        late = client.post("/predict", json={"texts": ["late"]})
        assert late.status_code == 504
        assert "no answer within 1 s" in late.json()["error"]
        leave.set()
        wait_for(lambda: client.get("/health").json()["queue_length"] == 0)
        assert client.post("/predict", json={"texts": ["next"]}).status_code == 200


def test_an_error_of_the_model_is_500_without_its_words() -> None:
    model = Words()

    def fail() -> None:
        raise RuntimeError("secret: the folder of the model")

    with client_of(model) as client:
        model.during = fail
        answer = client.post("/predict", json={"texts": ["a"]})
        assert answer.status_code == 500
        assert "secret" not in answer.text
        assert [str(error) for error in client.errors] == ["secret: the folder of the model"]  # type: ignore[attr-defined]
        model.during = lambda: None
        assert client.post("/predict", json={"texts": ["a"]}).status_code == 200


def test_an_error_of_the_server_is_500_in_json(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Words()
    with client_of(model) as client:
        monkeypatch.setattr(model, "labels", None)
        answer = client.get("/health")
    assert answer.status_code == 500
    assert answer.json() == {"error": "an error of the server; its log has more"}


def test_labels_of_every_kind_come_back(client: TestClient) -> None:
    labels = ["<script>alert(1)</script>", "\ud800", "\u202eabc", "a\nb", '"', "constructor"]

    class Strange(Words):
        def classify(self, ids: object) -> list[Prediction]:
            return [Prediction(labels[1], {name: 1 / len(labels) for name in labels})]

    with client_of(Strange()) as strange:
        answer = strange.post("/predict", json={"texts": ["a"]})
    assert answer.status_code == 200
    found = json.loads(answer.content)["predictions"][0]
    assert list(found["probabilities"]) == labels
    assert found["label"] == "\ud800"


def test_access_log_has_a_line_for_every_answer_and_no_control_characters() -> None:
    log = ["begin"]
    with client_of(Words(), log=log) as client:
        client.post("/predict", json={"texts": ["a"]})
        client.get("/%1b%5b31m%0aX")
        client.get("/", headers={"Host": "evil.example"})
    assert [line.split()[:4] for line in log[1:]] == [
        ["testclient", "POST", "/predict", "200"],
        ["testclient", "GET", "/\\x1b[31m\\nX", "404"],
        ["testclient", "GET", "/", "400"],
    ]


def test_openapi_describes_requests_answers_and_errors(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    assert list(schema["paths"]) == ["/predict", "/health"]
    predict = schema["paths"]["/predict"]["post"]
    body = predict["requestBody"]["content"]["application/json"]["schema"]
    assert body["required"] == ["texts"]
    assert set(predict["responses"]) == {
        *("200", "400", "408", "413", "415", "422", "500", "503", "504"),
    }
    assert "PredictAnswer" in schema["components"]["schemas"]
