"""The JSON of requests and answers: what is read, what is refused, what is written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic_core import from_json

from ulmfit_fast.errors import one_line
from ulmfit_fast.serve.settings import Settings
from ulmfit_fast.training.evaluation import Prediction

#: Names of JSON's types, for messages.
_TYPES = {
    dict: "an object", list: "a list", str: "a string", bool: "true or false", int: "a number",
    float: "a number", type(None): "null",
}  # fmt: skip
EXAMPLE = '{"texts": ["a text"]}'


class PredictRequest(BaseModel):
    """Texts to classify."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [json.loads(EXAMPLE)]})
    texts: list[str]


class PredictedText(BaseModel):
    """The answer for one text: its most probable class, and the probability of every class."""

    label: str
    probability: float
    probabilities: dict[str, float]


class PredictAnswer(BaseModel):
    """The answers in the order of the texts."""

    predictions: list[PredictedText]


class ErrorAnswer(BaseModel):
    """What is wrong, where, and what to do, in one line."""

    error: str


class HealthAnswer(BaseModel):
    """What the server is and what it did."""

    status: str
    model: str
    classes: int
    device: str
    precision: str
    version: str
    uptime_s: float
    queue_length: int
    requests: int
    client_errors: int
    server_errors: int
    texts: int
    batches: int


class RequestError(Exception):
    """A request that is refused.

    Args:
        status: of HTTP.
        message: one line: what is wrong, where, what to do.
        headers: of the answer.
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})


def read_texts(body: bytes, settings: Settings) -> list[str]:
    """Return the texts of a request's body.

    Args:
        body: UTF-8 JSON.
        settings: has the limits.

    Raises:
        RequestError: 400 not JSON or not Unicode; 413 too many texts, or one too long; 422 JSON of
            another shape, or a text that cannot be classified.
    """
    try:
        # pydantic's parser: bounded depth, and no half characters (\ud800), which json lets pass.
        content: Any = from_json(body)
    except ValueError as error:
        said = one_line(error)
        raise RequestError(400, f"body is not JSON in UTF-8: {said}; send {EXAMPLE}") from error
    if not isinstance(content, dict):
        raise _wrong_type("body", content, "an object")
    unknown = [name for name in content if name != "texts"]
    if unknown:
        name = one_line(unknown[0], 40)
        raise RequestError(422, f'"{name}": unknown; a request has "texts" alone: {EXAMPLE}')
    if "texts" not in content:
        raise RequestError(422, f'"texts" is missing: send {EXAMPLE}')
    texts = content["texts"]
    if not isinstance(texts, list):
        raise _wrong_type("texts", texts, "a list of strings")
    if not texts:
        raise RequestError(422, "texts: an empty list; send at least one text")
    if len(texts) > settings.max_texts:
        raise RequestError(
            413,
            f"texts: {len(texts)} texts, at most {settings.max_texts} are taken; send them in "
            "several requests",
        )
    for i, text in enumerate(texts):
        _check_text(f"texts[{i}]", text, settings.max_characters)
    return texts


def _check_text(where: str, text: object, max_characters: int) -> None:
    if not isinstance(text, str):
        raise _wrong_type(where, text, "a string")
    if len(text) > max_characters:
        raise RequestError(
            413,
            f"{where}: {len(text):,} characters, at most {max_characters:,} are taken; shorten it",
        )
    if not text.strip():
        what = "white space only" if text else "empty"
        raise RequestError(422, f"{where}: {what}; leave it out")
    nul = text.find("\0")
    if nul >= 0:
        raise RequestError(422, f"{where}: NUL at character {nul}; remove it")


def _wrong_type(where: str, found: object, wanted: str) -> RequestError:
    return RequestError(422, f"{where}: {_TYPES[type(found)]} where {wanted} must be: {EXAMPLE}")


def as_json(content: Mapping[str, Any]) -> bytes:
    """Write JSON in ASCII: a label of a model may have what UTF-8 cannot hold."""
    return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


def answer_of(predictions: Sequence[Prediction]) -> dict[str, Any]:
    """Return a PredictAnswer as plain values."""
    return {
        "predictions": [
            {
                "label": prediction.label,
                "probability": prediction.probabilities[prediction.label],
                "probabilities": prediction.probabilities,
            }
            for prediction in predictions
        ]
    }
