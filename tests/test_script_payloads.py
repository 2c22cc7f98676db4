"""Nothing that stands in texts, labels and names runs in a report, a model card or the page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from browser import Page, browser_page
from examinations import draw_examination, run_values, write_run
from markdown_it import MarkdownIt
from script_payloads import PAYLOADS

from ulmfit_fast.interop.model_card import Card, body
from ulmfit_fast.report.html import write_report

#: What a card without links is made of.
SHOWN = {
    *("h1", "h2", "p", "pre", "code", "table", "thead", "tbody", "tr", "th", "td"),
    *("ul", "li", "strong", "em"),
}
#: The report's own: its code, and the texts of the cells as JSON.
OWN_SCRIPTS = 2


class Elements(HTMLParser):
    """Counts of elements that run something, and attributes that do."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.handlers: list[str] = []
        self.links: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on") or name == "srcdoc"]
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "action")]


def report(folder: Path) -> Path:
    """Write a report in which every payload is a label, a text, and what a run says of itself."""
    found = draw_examination(600, PAYLOADS, texts=PAYLOADS * 4)
    run = run_values(PAYLOADS)
    run["source"] = run["command"] = run["out"] = PAYLOADS[1]
    run["remarks"] = run["data"]["notes"] = list(PAYLOADS)
    run["data"] |= {"text_columns": list(PAYLOADS), "label_column": PAYLOADS[9]}
    run["why"] = dict.fromkeys(("size", "recipe", "device"), PAYLOADS[11])
    return write_report(write_run(folder, found, run, has_log=False))


def test_a_report_of_payloads_has_no_element_beyond_its_own(tmp_path: Path) -> None:
    plain = draw_examination(600, [f"label {k}" for k in range(30)], texts=["a text"] * 120)
    values = run_values([f"label {k}" for k in range(30)])
    own = Elements(
        write_report(write_run(tmp_path / "own", plain, values, has_log=False)).read_text()
    )
    found = Elements(report(tmp_path / "run").read_text(encoding="utf-8"))
    kinds = {"script", "style", "img", "iframe", "object", "embed", "form", "base", "meta", "link"}
    for kind in kinds:
        assert found.tags.count(kind) == own.tags.count(kind), kind
    assert found.tags.count("script") == OWN_SCRIPTS
    assert found.handlers == own.handlers == []
    assert not [link for link in found.links if "javascript:" in link.lower()]
    assert set(found.tags) <= set(own.tags)


def test_a_model_card_of_payloads_has_no_elements_and_no_links_of_theirs() -> None:
    for payload in PAYLOADS:
        card = Card(name=payload, data=payload, metrics={payload: 0.5}, metrics_on=payload)
        text = body(card, "classifier", [payload, "b"], "tiny")
        found = Elements(MarkdownIt("commonmark", {"html": True}).enable("table").render(text))
        assert {*found.tags} <= SHOWN, payload
        assert found.handlers == [], payload
        assert found.links == [], payload
        assert not set("\x00\x1b\u2028\u2029\u202e") & set(text), payload
        text.encode()  # half characters cannot be written


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with browser_page() as opened:
        yield opened


def test_a_report_of_payloads_runs_nothing_in_a_browser(page: Page, tmp_path: Path) -> None:
    page.open(report(tmp_path))
    page.value("document.querySelectorAll('.matrix button').forEach((b) => b.click())")
    page.value("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    page.value(
        "document.querySelectorAll('*').forEach((e) => ['mouseover', 'focus', 'toggle']"
        ".forEach((kind) => e.dispatchEvent(new Event(kind))))"
    )
    assert page.value("String(window.ran)") == "undefined"
    assert page.value("document.scripts.length") == OWN_SCRIPTS
    assert page.value("document.querySelectorAll('img, iframe, form, base, object').length") == 0
    on = "[...document.querySelectorAll('*')].flatMap(e => [...e.attributes].map(a => a.name))"
    names = page.value(f"JSON.stringify([...new Set({on})].filter(n => n.startsWith('on')))")
    assert json.loads(names) == []
    assert page.troubles() == []


def test_a_payload_runs_where_nothing_stops_it(page: Page, tmp_path: Path) -> None:
    """Else the test above would prove nothing."""
    live = [k for k, payload in enumerate(PAYLOADS) if runs(page, tmp_path, payload)]
    assert {0, 1, 2, 4, 6, 9, 10, 11, 12, 13, 18} <= {*live}
    page.events.clear()


def runs(page: Page, folder: Path, payload: str) -> bool:
    path = folder / "live.html"
    path.write_text(f"<!doctype html><p>{payload}", encoding="utf-8", errors="replace")
    page.open(path)
    page.value("new Promise((done) => setTimeout(done, 30))")
    return page.value("String(window.ran)") == "1"
