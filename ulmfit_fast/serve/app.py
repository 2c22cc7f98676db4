"""The application: POST /predict, GET /health, GET / and /openapi.json."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from ulmfit_fast import __version__
from ulmfit_fast.serve.batcher import Batcher, BatchFailedError, QueueFullError
from ulmfit_fast.serve.guard import Counters
from ulmfit_fast.serve.messages import (
    ErrorAnswer,
    HealthAnswer,
    PredictAnswer,
    PredictRequest,
    RequestError,
    answer_of,
    as_json,
    read_texts,
)
from ulmfit_fast.serve.page import read_page
from ulmfit_fast.serve.predictor import Predictor
from ulmfit_fast.serve.settings import Settings
from ulmfit_fast.training.evaluation import Prediction

# What nginx writes into its log for a client that went away; nobody receives it.
CLIENT_GONE = 499
_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorAnswer, "description": "The body is not JSON in UTF-8"},
    408: {"model": ErrorAnswer, "description": "The body did not come in time"},
    413: {"model": ErrorAnswer, "description": "Body, number of texts or a text too large"},
    415: {"model": ErrorAnswer, "description": "The body's type is not application/json"},
    422: {"model": ErrorAnswer, "description": "JSON of another shape, or a text without text"},
    500: {"model": ErrorAnswer, "description": "The model failed"},
    503: {"model": ErrorAnswer, "description": "Too many requests wait; Retry-After says when"},
    504: {"model": ErrorAnswer, "description": "No answer in time"},
}


@dataclass(frozen=True)
class Served:
    """What an application serves.

    Attributes:
        name: of the model, for people.
        predictor: the model.
        settings: limits and batches.
        on_error: told of every error that is the server's own.
    """

    name: str
    predictor: Predictor
    settings: Settings
    on_error: Callable[[BaseException], None]


def make_app(served: Served, counters: Counters) -> FastAPI:
    """Return the application of a model; its batches begin and end with its lifespan."""
    settings = served.settings
    batcher = Batcher(served.predictor, settings, served.on_error)
    started = time.monotonic()
    page, policy = read_page()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await batcher.start()
        yield
        await batcher.stop()

    # /docs and /redoc would load scripts from a CDN.
    app = FastAPI(
        title="ulmfit_fast", version=__version__, summary=f"The classifier {served.name}",
        docs_url=None, redoc_url=None, lifespan=lifespan,
    )  # fmt: skip
    _handle_errors(app)

    @app.post(
        "/predict", summary="Classify texts", response_model=PredictAnswer, responses=_ERRORS,
        openapi_extra={"requestBody": _json_of(PredictRequest.model_json_schema())},
    )  # fmt: skip
    async def predict(request: Request) -> Response:
        _check_headers(request, settings)
        texts = read_texts(await _read_body(request, settings), settings)
        found = await _answer(request, batcher, texts, settings)
        return _json(200, answer_of(found))

    @app.head("/health", include_in_schema=False)
    @app.get("/health", summary="What the server is and did", response_model=HealthAnswer)
    async def health() -> Response:
        facts = _health(served, batcher, counters, time.monotonic() - started)
        return _json(200 if batcher.is_running else 503, facts.model_dump())

    @app.head("/", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    async def try_it() -> Response:
        headers = {"Content-Security-Policy": policy}
        return Response(page, media_type="text/html; charset=utf-8", headers=headers)

    @app.get("/favicon.ico", include_in_schema=False)
    async def no_icon() -> Response:
        return Response(status_code=204)

    return app


def _health(served: Served, batcher: Batcher, counters: Counters, uptime_s: float) -> HealthAnswer:
    return HealthAnswer(
        status="ok" if batcher.is_running else "failed",
        model=served.name,
        classes=len(served.predictor.labels),
        device=served.predictor.device,
        precision=served.predictor.precision.name,
        version=__version__,
        uptime_s=round(uptime_s, 3),
        queue_length=batcher.n_waiting,
        requests=counters.requests,
        client_errors=counters.client_errors,
        server_errors=counters.server_errors,
        texts=batcher.n_texts,
        batches=batcher.n_batches,
    )


def _handle_errors(app: FastAPI) -> None:
    """Have every error answered in JSON."""

    @app.exception_handler(RequestError)
    async def refuse(_: Request, error: RequestError) -> Response:
        return _json(error.status, {"error": error.message}, error.headers)

    @app.exception_handler(HTTPException)
    async def no_such_place(request: Request, error: HTTPException) -> Response:
        message = str(error.detail)
        if error.status_code == 404:
            message = "no such page; there are POST /predict, GET /health, / and /openapi.json"
        if error.status_code == 405:
            allowed = (error.headers or {}).get("Allow", "another")
            message = f"method {request.method} is not answered here; use {allowed}"
        return _json(error.status_code, {"error": message}, dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def fail(_: Request, __: Exception) -> Response:
        return _json(500, {"error": "an error of the server; its log has more"})


def _json(status: int, content: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    return Response(as_json(content), status, headers, media_type="application/json")


def _json_of(schema: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _check_headers(request: Request, settings: Settings) -> None:
    """Refuse what can be refused before the body is read.

    A page of another site can send other types of bodies without asking (CORS) first.
    """
    kind = request.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != "application/json":
        raise RequestError(415, "send the header Content-Type: application/json with the body")
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise RequestError(415, "Content-Encoding is not supported: send the body uncompressed")
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length[:20]) > settings.max_body_bytes:
        raise _too_large(settings)


def _too_large(settings: Settings) -> RequestError:
    return RequestError(
        413,
        f"body: more than {settings.max_body_bytes:,} bytes; send the texts in several requests",
    )


async def _read_body(request: Request, settings: Settings) -> bytes:
    """Read a body, but no more of it than is taken."""
    body = bytearray()
    try:
        async with asyncio.timeout(settings.timeout_s):
            async for part in request.stream():
                body += part
                if len(body) > settings.max_body_bytes:
                    raise _too_large(settings)
    except TimeoutError as error:
        raise RequestError(
            408,
            f"the body did not come within {settings.timeout_s:g} s; send it faster, or less of it",
            {"Connection": "close"},
        ) from error
    except ClientDisconnect as error:
        raise RequestError(CLIENT_GONE, "the client went away") from error
    return bytes(body)


async def _answer(
    request: Request, batcher: Batcher, texts: Sequence[str], settings: Settings
) -> list[Prediction]:
    """Return the answers, unless they take too long, or nobody waits for them any more."""
    answer = asyncio.ensure_future(batcher.predict(texts))
    gone = asyncio.ensure_future(request.receive())  # returns when the client goes away
    try:
        await asyncio.wait(
            (answer, gone), timeout=settings.timeout_s, return_when=asyncio.FIRST_COMPLETED
        )
        if answer.done():
            return answer.result()
        if gone.done():
            raise RequestError(CLIENT_GONE, "the client went away")
        raise RequestError(
            504, f"no answer within {settings.timeout_s:g} s; send fewer or shorter texts"
        )
    except QueueFullError as error:
        raise RequestError(
            503,
            f"{settings.max_waiting} requests wait already; try again",
            {"Retry-After": "1"},
        ) from error
    except BatchFailedError as error:
        raise RequestError(500, "the model failed; the server's log has more") from error
    finally:
        answer.cancel()
        gone.cancel()
