"""What a request's body may be: texts, or one line that says what is wrong."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

pytest.importorskip("fastapi")

from ulmfit_fast.serve.messages import RequestError, answer_of, as_json, read_texts
from ulmfit_fast.serve.settings import Settings
from ulmfit_fast.training.evaluation import Prediction

SETTINGS = Settings(max_texts=3, max_characters=10)
REFUSED = {
    "empty": (b"", 400, "EOF"),
    "cut": (b'{"texts": ["a"', 400, "line 1 column 14"),
    "words": (b"hello", 400, "not JSON"),
    "two": (b'{"texts": ["a"]} {}', 400, "trailing characters"),
    "latin-1": ('{"texts": ["caf\xe9"]}'.encode("latin-1"), 400, "UTF-8"),
    "utf-16": ('{"texts": ["a"]}'.encode("utf-16"), 400, "UTF-8"),
    "half character": (b'{"texts": ["\\ud83d"]}', 400, "hex escape"),
    "half character as bytes": (b'{"texts": ["\xed\xa0\xbd"]}', 400, "unicode"),
    "deep": (b"[" * 100_000, 400, "recursion limit"),
    "digits": (b"1" * 50_000, 400, "number"),
    "list": (b'["a"]', 422, "body: a list where an object must be"),
    "nan": (b"NaN", 422, "body: a number"),
    "other name": (b'{"text": "a"}', 422, '"text": unknown'),
    "one more name": (b'{"texts": ["a"], "explain": true}', 422, '"explain": unknown'),
    "bad name": (b'{"\\u001b[31m": 1}', 422, "x1b[31m"),
    "nothing": (b"{}", 422, '"texts" is missing'),
    "string": (b'{"texts": "a"}', 422, "texts: a string where a list of strings must be"),
    "null": (b'{"texts": null}', 422, "texts: null"),
    "no texts": (b'{"texts": []}', 422, "texts: an empty list"),
    "number": (b'{"texts": ["a", 1]}', 422, "texts[1]: a number where a string must be"),
    "true": (b'{"texts": [true]}', 422, "texts[0]: true or false"),
    "inner list": (b'{"texts": [["a"]]}', 422, "texts[0]: a list"),
    "empty text": (b'{"texts": ["a", ""]}', 422, "texts[1]: empty"),
    "white space": (b'{"texts": [" \\n\\u3000"]}', 422, "texts[0]: white space only"),
    "NUL": (b'{"texts": ["ab\\u0000c"]}', 422, "texts[0]: NUL at character 2"),
    "many": (b'{"texts": ["a", "a", "a", "a"]}', 413, "4 texts, at most 3"),
    "long": (b'{"texts": ["a", "12345678901"]}', 413, "texts[1]: 11 characters, at most 10"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line_that_says_what_and_where(name: str) -> None:
    body, status, says = REFUSED[name]
    with pytest.raises(RequestError) as caught:
        read_texts(body, SETTINGS)
    assert (caught.value.status, says in caught.value.message) == (status, True), caught.value
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 300


def test_texts_are_what_was_sent() -> None:
    texts = ["\U0001f600 x", "a\tb\x1b", "ünï 中文"]
    assert read_texts(json.dumps({"texts": texts}).encode(), SETTINGS) == texts
    assert read_texts(json.dumps({"texts": texts}, ensure_ascii=False).encode(), SETTINGS) == texts


def expected_status(content: object) -> int:
    """Return the status of a request with this JSON, 200 if it has texts."""
    if not isinstance(content, dict) or set(content) != {"texts"}:
        return 422
    texts = content["texts"]
    if not isinstance(texts, list) or not texts:
        return 422
    if len(texts) > SETTINGS.max_texts:
        return 413
    for text in texts:
        if not isinstance(text, str):
            return 422
        if len(text) > SETTINGS.max_characters:
            return 413
        if not text.strip() or "\0" in text:
            return 422
    return 200


leaves = st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | st.text(max_size=12)
anything = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.sampled_from(["texts", "x"]) | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
requests = st.fixed_dictionaries({"texts": st.lists(leaves, max_size=5)})


@given(anything | requests)
@example({"texts": ["a"]})
def test_every_json_is_texts_or_refused_by_the_rules(content: object) -> None:
    body = json.dumps(content).encode()
    status = expected_status(content)
    if status == 200:
        assert isinstance(content, dict)
        assert read_texts(body, SETTINGS) == content["texts"]
        return
    with pytest.raises(RequestError) as caught:
        read_texts(body, SETTINGS)
    assert caught.value.status == status
    assert caught.value.message.isprintable()


@given(st.binary(max_size=60) | st.binary(max_size=20).map(lambda b: b'{"texts": ["' + b + b'"]}'))
def test_every_body_is_texts_or_refused(body: bytes) -> None:
    found = outcome(body)
    if isinstance(found, RequestError):
        assert 400 <= found.status < 500
        assert found.message.isprintable()
    else:
        assert all(text.strip() and text.encode("utf-8") for text in found)


def outcome(body: bytes) -> list[str] | RequestError:
    try:
        return read_texts(body, SETTINGS)
    except RequestError as error:
        return error


def test_answers_are_ascii_whatever_a_label_is() -> None:
    names = ["<b>", "\ud800", "a\nb", "\u202e"]
    answer = answer_of([Prediction("\ud800", dict.fromkeys(names, 0.25))])
    written = as_json(answer)
    assert written.isascii()
    assert b"\n" not in written
    assert json.loads(written) == answer
    assert answer["predictions"][0]["probability"] == 0.25
