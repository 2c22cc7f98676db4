"""The site as it is built: every link ends somewhere, and nothing comes from another place."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from conftest import ROOT

pytest.importorskip("mkdocs")
pytest.importorskip("material")
pytest.importorskip("mkdocstrings")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
#: Elements of HTML and SVG that the theme or Markdown make.
ELEMENTS = re.compile(
    "a|abbr|article|aside|b|base|body|br|button|circle|code|dd|details|div|dl|dt|em|footer|form|g|"
    "h[1-6r]|head|header|html|i|img|input|label|li|link|main|meta|nav|ol|p|path|pre|rect|s|script|"
    "section|small|span|strong|style|su[bp]|summary|svg|table|tbody|td|template|th|thead|title|tr|ul"
)


class Page(HTMLParser):
    """What a page has: anchors, links, what it loads, and its elements."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.elements: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.elements.add(tag)
        self.ids |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag == "link":
            self.loaded.append(values.get("href", ""))
        self.loaded += [
            values[name] for name in ("src", "srcset", "data", "poster") if name in values
        ]
        self.loaded += re.findall(r"url\(([^)]*)\)", values.get("style", ""))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site; a warning of mkdocs, mkdocstrings or griffe is an error."""
    folder = tmp_path_factory.mktemp("docs") / "site"
    # With --quiet a warning is no error.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    ran = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path.resolve(): Page(path) for path in sorted(site.rglob("*.html"))}


def test_links_within_the_site_end_somewhere(site: Path, pages: dict[Path, Page]) -> None:
    wrong = []
    for path, page in pages.items():
        if path.name == "404.html":
            continue  # it stands at any address, so its links are those of the root
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme in ("https", "mailto"):
                continue
            assert not parts.scheme, f"{path.name}: {link}"
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            anchors = pages[target].ids if target in pages else set()
            if not target.exists() or (parts.fragment and unquote(parts.fragment) not in anchors):
                wrong.append(f"{path.relative_to(site.resolve())}: {link}")
    assert not wrong, "\n".join(wrong)


def test_nothing_is_loaded_from_another_place(site: Path, pages: dict[Path, Page]) -> None:
    for path, page in pages.items():
        for source in page.loaded:
            parts = urlsplit(source)
            assert parts.scheme in ("", "data"), f"{path.name} loads {source}"
            assert not parts.netloc, f"{path.name} loads {source}"
            if parts.path and not parts.scheme and path.name != "404.html":
                assert (path.parent / unquote(parts.path)).exists(), f"{path.name}: {source}"
    for path in site.rglob("*.css"):
        text = path.read_text(encoding="utf-8")
        found = re.findall(r"""(?:url\(|@import\s*)["']?((?:https?:)?//[^"')]+)""", text)
        assert not found, f"{path.name} loads {found}"


def test_texts_of_the_code_are_no_html(pages: dict[Path, Page]) -> None:
    for path, page in pages.items():
        odd = {name for name in page.elements if not ELEMENTS.fullmatch(name)}
        assert not odd, f"{path.name}: {odd} of a docstring or help was read as HTML: `quote` it"


def test_every_public_module_and_verb_has_its_place(site: Path, pages: dict[Path, Page]) -> None:
    from ulmfit_fast.cli import VERBS

    everything = set().union(*(page.ids for page in pages.values()))
    for path in sorted((ROOT / "ulmfit_fast").rglob("*.py")):
        names = path.relative_to(ROOT).with_suffix("").parts
        is_private = any(name.startswith("_") and name != "__init__" for name in names)
        if is_private or names[1] in ("cli", "__init__"):
            continue
        if names[-1] == "__init__":
            assert (site / "api" / f"{names[1]}.html").exists(), names
        else:
            assert ".".join(names) in everything, f"{'.'.join(names)} is not in the reference"
    of_command_line = pages[(site / "cli.html").resolve()].ids
    assert set(VERBS) <= of_command_line


def test_the_search_knows_the_guides_and_the_api(site: Path) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    places = {entry["location"] for entry in index["docs"]}
    expected = "api/optim.html#ulmfit_fast.optim.layerwise_adamw.LayerwiseAdamW"
    assert {"tuning.html", "cli.html#train", expected} <= places


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
def test_the_search_works_in_a_page_from_the_disk(site: Path) -> None:
    assert CHROMIUM is not None
    command = [
        *(CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"),
        *("--virtual-time-budget=8000", f"file://{site}/index.html?q=LayerwiseAdamW"),
    ]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    results = re.findall(r'href="([^"]*)"[^>]*class="md-search-result__link"', ran.stdout)
    assert any("api/optim.html" in result for result in results), results
