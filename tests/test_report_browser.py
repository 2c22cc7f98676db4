"""The report in a real browser: nothing runs that should not, and everything can be reached."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import Page, browser_page
from examinations import HOSTILE, draw_examination, run_values, write_run
from PIL import Image

from ulmfit_fast.report.html import write_report

# Contrast to the page of words, and of lines and words in pictures (WCAG 2.2, 1.4.3 and 1.4.11).
CONTRAST = """(() => {
  const part = (v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = (css) => css.match(/[\\d.]+/g).slice(0, 3)
    .reduce((sum, v, k) => sum + part(v / 255) * [.2126, .7152, .0722][k], 0);
  const paper = light(getComputedStyle(document.body).backgroundColor);
  const ratio = (css) => {
    const l = light(css);
    return (Math.max(l, paper) + .05) / (Math.min(l, paper) + .05);
  };
  const words = ["p", ".quiet", ".range", "a", ".weak b", ".note b", "nav a", "thead th"]
    .map(s => [s, ratio(getComputedStyle(document.querySelector(s)).color)]);
  const drawn = [...document.querySelectorAll("svg [stroke^='var(--series'], svg text")]
    .map(e => [e.tagName, ratio(getComputedStyle(e)[e.tagName === "text" ? "fill" : "stroke"])]);
  return [words, drawn];
})()"""
# Words of pictures that reach beyond their picture, or lie on another word.
WORDS_IN_PICTURES = """(() => {
  const wrong = [], over = (a, b, c, d) => Math.min(b, d) - Math.max(a, c);
  for (const svg of document.querySelectorAll(".chart svg")) {
    const frame = svg.getBoundingClientRect();
    const words = [...svg.querySelectorAll("text")]
      .map(t => [t.textContent, t.getBoundingClientRect()]);
    words.forEach(([word, r], k) => {
      const is_cut = r.left < frame.left - 1 || r.right > frame.right + 1
        || r.top < frame.top - 1 || r.bottom > frame.bottom + 1;
      if (is_cut) wrong.push(["cut", svg.ariaLabel, word]);
      for (const [other, o] of words.slice(k + 1)) {
        const x = over(r.left, r.right, o.left, o.right);
        const y = over(r.top, r.bottom, o.top, o.bottom);
        if (x > 1 && y > 4) wrong.push(["over", svg.ariaLabel, word, other]);
      }
    });
  }
  return wrong;
})()"""
LABELS = (HOSTILE[0], HOSTILE[1], "\u202e\u05d0\u05d1\u05d2", "plain")


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with browser_page() as opened:
        yield opened


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = draw_examination(300, LABELS, texts=HOSTILE * 6)
    return write_report(write_run(tmp_path_factory.mktemp("run"), found, run_values(LABELS)))


def shown(page: Page) -> str:
    return page.value("document.getElementById('cell-texts').innerText")


def test_hostile_texts_run_nothing_and_reach_no_network(page: Page, report: Path):
    page.show_as(1280)
    page.open(report)
    page.value("document.querySelectorAll('.matrix button').forEach((b) => b.click())")
    page.value("document.querySelectorAll('th[aria-sort] button').forEach((b) => b.click())")
    assert page.value("document.querySelectorAll('img, iframe, form').length") == 0
    assert page.value("document.scripts.length") == 2
    assert page.troubles() == []


def test_an_injected_script_would_be_stopped_by_the_policy(page: Page, report: Path):
    page.open(report)
    page.value("""(() => { const s = document.createElement("script");
        s.textContent = "window.injected = 1"; document.body.append(s); })()""")
    assert page.value("window.injected ?? 0") == 0
    assert any("Content Security Policy" in trouble for trouble in page.troubles())
    page.events.clear()


def test_a_click_on_a_cell_shows_its_texts(page: Page, report: Path):
    page.show_as(1280)
    page.open(report)
    assert page.value("document.getElementById('cell-texts').hidden") is True
    page.value("document.querySelector('[data-cell=\"0-1\"]').click()")
    count = page.value("document.querySelector('[data-cell=\"0-1\"]').innerText")
    assert shown(page).startswith(f"{count} texts of {LABELS[0]}, answered {LABELS[1]}")
    assert page.value("document.querySelectorAll('#cell-texts li').length") == int(count)
    pressed = (
        "[...document.querySelectorAll('.matrix [aria-pressed=true]')].map(b => b.dataset.cell)"
    )
    assert page.value(pressed) == ["0-1"]
    page.open(report, "#cell-3-3")  # the address of a cell opens it
    assert "texts of plain, answered rightly" in shown(page)
    page.open(report, "#cell-__proto__")
    assert page.value("document.getElementById('cell-texts').hidden") is True


def test_cells_are_reached_and_opened_by_the_keyboard(page: Page, report: Path):
    page.show_as(1280)
    page.open(report)
    page.value("document.querySelector('[data-cell=\"1-1\"]').focus()")
    page.press("ArrowRight", 39)
    page.press("ArrowDown", 40)
    assert page.value("document.activeElement.dataset.cell") == "2-2"
    page.press("Enter", 13, text="\r")
    assert "answered rightly" in shown(page)
    page.value("document.querySelector('nav a').focus()")
    page.press("Tab", 9)
    assert page.value("document.activeElement.getAttribute('href')") == "#choices"


def test_classes_are_sorted_by_what_is_clicked(page: Page, report: Path):
    page.open(report)
    column = (
        "[...document.querySelectorAll('#classes tbody tr')].map(r => +r.cells[{}].dataset.value)"
    )
    click = "document.querySelectorAll('#classes th button')[{}].click()"
    f1 = page.value(column.format(4))
    assert f1 == sorted(f1)
    page.value(click.format(1))
    n = page.value(column.format(1))
    assert n == sorted(n)
    page.value(click.format(1))
    assert page.value(column.format(1)) == sorted(n, reverse=True)
    assert page.value("document.querySelectorAll('#classes [aria-sort=descending]').length") == 1


def test_rates_are_shown_on_one_scale_at_a_time(page: Page, report: Path):
    page.open(report)
    visible = """[...document.querySelectorAll('[data-scale]')]
        .filter(chart => !chart.hidden).map(chart => chart.dataset.scale)"""
    assert page.value(visible) == ["linear", "linear"]
    page.value("document.querySelector('.switch [value=log]').click()")
    assert page.value(visible) == ["log", "log"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_page_fits_its_window_in_both_themes(page: Page, report: Path, width: int, scheme: str):
    page.show_as(width, scheme=scheme)
    page.open(report, "#cell-0-1")
    assert page.value("document.documentElement.scrollWidth") == width
    picture = np.asarray(Image.open(io.BytesIO(page.picture())).convert("L"))
    assert picture.shape[1] == width
    assert (np.median(picture) > 200) == (scheme == "light")


@pytest.mark.parametrize("width", [390, 1280])
def test_words_in_pictures_are_whole_and_apart(page: Page, report: Path, width: int):
    page.show_as(width)
    page.open(report)
    page.value("document.querySelectorAll('[data-scale]').forEach(c => { c.hidden = false; })")
    wrong = page.value(WORDS_IN_PICTURES)
    assert page.value("document.querySelectorAll('.chart svg text').length") > 100
    assert wrong == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_and_pictures_stand_out_from_the_page(page: Page, report: Path, scheme: str):
    page.show_as(1280, scheme=scheme)
    page.open(report)
    words, drawn = page.value(CONTRAST)
    assert all(ratio >= 4.5 for _, ratio in words), words
    assert len(drawn) > 50
    assert all(ratio >= (4.5 if tag == "text" else 3) for tag, ratio in drawn), drawn


def test_print_shows_what_is_folded(page: Page, report: Path):
    page.open(report)
    folded = "document.querySelectorAll('details:not([open])').length"
    n = page.value(folded)
    page.value("dispatchEvent(new Event('beforeprint'))")
    assert (n > 0, page.value(folded)) == (True, 0)
    page.value("dispatchEvent(new Event('afterprint'))")
    assert page.value(folded) == n
