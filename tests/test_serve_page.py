"""The page to try a model: whole in itself, and used in a browser where there is one."""

from __future__ import annotations

import base64
import hashlib
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

import uvicorn
from browser import Page, browser_page
from script_payloads import PAYLOADS
from serving import WordModel, wait_for

from ulmfit_fast.serve.app import Served, make_app
from ulmfit_fast.serve.guard import LOCAL_NAMES, Counters, Guard
from ulmfit_fast.serve.page import read_page
from ulmfit_fast.serve.server import bind, url_of
from ulmfit_fast.serve.settings import Settings
from ulmfit_fast.training.evaluation import Prediction
from ulmfit_fast.training.precision import Precision

HOSTILE = "<img src=x onerror=alert(1)>"
LABELS = (HOSTILE, "good", "\u202edab", "word" * 40, "__proto__", "e", "f", "g")
SHARES = (0.3, 0.25, 0.2, 0.1, 0.08, 0.04, 0.02, 0.01)
# Contrast of words and bars to what is behind them (WCAG 2.2, 1.4.3 and 1.4.11).
CONTRAST = """(() => {
  const part = (v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = (css) => css.match(/[\\d.]+/g).slice(0, 3)
    .reduce((sum, v, k) => sum + part(v / 255) * [.2126, .7152, .0722][k], 0);
  const behind = (node) => {
    const css = getComputedStyle(node).backgroundColor;
    const seenThrough = css.startsWith("rgba(0, 0, 0, 0") && node.parentElement;
    return seenThrough ? behind(node.parentElement) : css;
  };
  const ratio = (a, b) =>
    (Math.max(light(a), light(b)) + .05) / (Math.min(light(a), light(b)) + .05);
  const words = ["h1", "#about", "label", "textarea", "button", "#error", ".verdict", ".name",
    ".share", ".text", "summary", "pre", "a"].flatMap(s => [...document.querySelectorAll(s)])
    .map(n => [n.textContent.slice(0, 20), ratio(getComputedStyle(n).color, behind(n))]);
  const bars = [...document.querySelectorAll(".bar")].slice(0, 6)
    .map(node => ratio(getComputedStyle(node).backgroundColor, behind(node.closest(".card"))));
  return [words, bars];
})()"""


class Films(WordModel):
    """Eight classes of hostile names; the texts decide nothing."""

    labels = LABELS
    device = "cpu"
    precision: Any = Precision("fp32", None, "")  # type: ignore[arg-type]

    def classify(self, ids: Any) -> list[Prediction]:
        n = len(super().classify(ids))
        return [Prediction(HOSTILE, dict(zip(LABELS, SHARES, strict=True)))] * n


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server in this process."""
    served = Served(f"films {HOSTILE}", Films(), Settings(), print)  # type: ignore[arg-type]
    counters = Counters()
    app = Guard(make_app(served, counters), counters, LOCAL_NAMES, None)
    bound = bind("127.0.0.1", 0)
    address = url_of(bound)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, log_level="error", ws="none"))
    thread = threading.Thread(target=server.run, args=([bound],))
    thread.start()
    wait_for(lambda: server.started)
    yield address
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with browser_page() as opened:
        yield opened


def open_page(page: Page, url: str) -> None:
    page.events.clear()
    page.call("Page.navigate", url=url)
    wait_for(lambda: page.value("document.title").endswith(" - ulmfit_fast"))


def classify(page: Page, text: str, *, lines: bool = False) -> None:
    """Write a text, press Ctrl+Enter, and wait for what comes."""
    page.value("document.getElementById('answers').replaceChildren()")
    page.value(f"document.getElementById('lines').checked = {str(lines).lower()}")
    page.value(
        "document.getElementById('text').value = ''; document.getElementById('text').focus()"
    )
    page.call("Input.insertText", text=text)
    page.call(
        "Input.dispatchKeyEvent", type="keyDown", key="Enter", code="Enter", modifiers=2,
        windowsVirtualKeyCode=13,
    )  # fmt: skip
    n_answers = "document.querySelectorAll('#answers *').length"
    said = "document.querySelector('#error').textContent"
    wait_for(lambda: page.value(n_answers) or page.value(said))


def troubles(page: Page, url: str) -> list[str]:
    return [each for each in page.troubles() if not each.startswith(f"{url}/")]


def test_the_page_asks_nobody_else_and_its_policy_names_all_that_it_has() -> None:
    content, policy = read_page()
    text = content.decode()
    assert not re.findall(r"(?:src|href)\s*=\s*[\"'](?!openapi\.json)[^\"']*", text)
    assert not re.findall(r"url\(|@import|https?://|\son\w+=|\sstyle=", text)
    assert text.isascii()
    for tag in ("script", "style"):
        (inner,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert "innerHTML" not in text


def test_a_text_is_classified_and_nothing_of_it_runs(page: Page, url: str) -> None:
    open_page(page, url)
    assert page.value("document.querySelector('h1').textContent") == f"films {HOSTILE}"
    classify(page, f"a fine film {HOSTILE}")
    assert page.value("document.querySelector('.verdict').textContent") == f"{HOSTILE}, 30.0 %"
    names = "[...document.querySelectorAll('.name')].map(n => n.textContent)"
    assert page.value(names) == list(LABELS)
    widths = "[...document.querySelectorAll('.bar')].map(n => n.style.width)"
    assert page.value(widths) == [f"{100 * share:.15g}%" for share in SHARES]
    assert page.value("document.querySelector('summary').textContent") == "2 more classes"
    assert page.value("document.querySelectorAll('img').length") == 0
    assert troubles(page, url) == []


def test_payloads_as_texts_run_nothing(page: Page, url: str) -> None:
    open_page(page, url)
    # Enter sends what was written: a line separator is none of a text field's lines.
    texts = [text for text in PAYLOADS if text.isprintable()]
    classify(page, "\n".join(texts), lines=True)
    shown = page.value("[...document.querySelectorAll('.text')].map(n => n.textContent)")
    assert shown == texts
    assert page.value("String(window.ran)") == "undefined"
    assert troubles(page, url) == []


def test_lines_are_texts_of_their_own(page: Page, url: str) -> None:
    open_page(page, url)
    classify(page, f"one {HOSTILE}\n\n  \ntwo", lines=True)
    shown = page.value("[...document.querySelectorAll('.text')].map(n => n.textContent)")
    assert shown == [f"one {HOSTILE}", "two"]
    assert troubles(page, url) == []


def test_errors_are_shown_as_the_server_words_them(page: Page, url: str) -> None:
    open_page(page, url)
    classify(page, "   ")
    error = "document.querySelector('#error').textContent"
    assert page.value(error) == "Write a text first."
    classify(page, "\n".join("x" * 300), lines=True)
    assert page.value(error).startswith("texts: 300 texts, at most 256 are taken")
    assert page.value("document.querySelector('#go').disabled") is False


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_everything_can_be_read(
    page: Page, url: str, scheme: str, width: int, tmp_path: Path
) -> None:
    page.show_as(width, scheme=scheme)
    open_page(page, url)
    classify(page, "one\ntwo", lines=True)
    words, bars = page.value(CONTRAST)
    assert len(words) > 20
    assert [word for word in words if word[1] < 4.5] == []
    assert min(bars) >= 3
    assert page.value("document.documentElement.scrollWidth") <= width
    picture = page.picture(tmp_path / f"{scheme}-{width}.png")
    assert picture.startswith(b"\x89PNG")
