"""The report as a file: its structure, what it escapes, what it leaves out, its size and time."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
from examinations import HOSTILE, draw_examination, run_values, write_run
from hypothesis import given, settings
from hypothesis import strategies as st

from ulmfit_fast.errors import InputError
from ulmfit_fast.interpret.examination_json import to_json
from ulmfit_fast.report.html import SECTIONS, write_report


class Outline(HTMLParser):
    """Elements, ids, attributes and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.scripts: list[tuple[dict, str]] = []
        self.styles: list[str] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id"]
        self.open.append(tag)
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag):
        if tag in self.open:
            while self.open.pop() != tag:
                pass

    def handle_data(self, data):
        inside = self.open[-1] if self.open else ""
        if inside == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif inside == "style":
            self.styles.append(data)
        else:
            self.texts.append(data)


def outline_of(folder: Path) -> tuple[str, Outline]:
    page = write_report(folder).read_text(encoding="utf-8")
    return page, Outline(page)


def sha(content: str) -> str:
    return base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def test_page_has_every_section_and_asks_the_network_for_nothing(tmp_path: Path):
    page, outline = outline_of(write_run(tmp_path, draw_examination()))
    assert [i for i in outline.ids if i in SECTIONS] == list(SECTIONS)
    assert len(outline.ids) == len(set(outline.ids))
    links = [value for name, value in outline.attributes if name in ("href", "src", "xlink:href")]
    assert links
    for link in links:
        assert link.startswith("#")
        assert link[1:] in outline.ids
    assert "http" not in re.sub(r'http-equiv="', "", page)
    assert not {"img", "iframe", "object", "link", "base", "form", "meta refresh"} & {*outline.tags}
    headings = [tag for tag in outline.tags if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == "h1"
    assert headings.count("h1") == 1


def test_policy_allows_the_pages_own_script_and_style_alone(tmp_path: Path):
    page, outline = outline_of(write_run(tmp_path, draw_examination()))
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    (script,) = [code for attributes, code in outline.scripts if not attributes]
    (style,) = outline.styles
    directives = dict(part.split(" ", 1) for part in policy[1].replace("&#39;", "'").split("; "))
    assert directives == {
        "default-src": "'none'", "base-uri": "'none'", "form-action": "'none'",
        "script-src": f"'sha256-{sha(script)}'", "style-src": f"'sha256-{sha(style)}'",
    }  # fmt: skip
    names = {name for name, _ in outline.attributes}
    assert not {name for name in names if name == "style" or name.startswith("on")}


def test_hostile_texts_and_labels_stay_texts(tmp_path: Path):
    plain = draw_examination(40, ("a", "b", "c"), texts=["harmless"] * 20)
    _, expected = outline_of(
        write_run(tmp_path / "plain", plain, run_values(("a", "b", "c")), has_log=False)
    )
    labels = tuple(HOSTILE[:3])
    hostile = draw_examination(40, labels, texts=HOSTILE * 2)
    run = run_values(labels)
    run["source"] = run["command"] = HOSTILE[0]
    run["data"]["notes"] = run["remarks"] = HOSTILE
    page, outline = outline_of(write_run(tmp_path / "hostile", hostile, run, has_log=False))
    kinds = {"script", "img", "b", "style", "iframe"}
    assert {*outline.tags} & kinds == {*expected.tags} & kinds
    assert outline.tags.count("script") == expected.tags.count("script") == 2
    assert "img" not in outline.tags
    (cells,) = [code for attributes, code in outline.scripts if attributes]
    values = json.loads(cells)
    assert values["labels"]["0"] == labels[0]
    assert not re.search(r"[<>&\u2028\u2029]", cells)
    shown = "".join(outline.texts)
    assert all(text in shown for text in HOSTILE[:4])
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert "\\x1b[31m" in page
    assert page.count("x" * 700) == 0


@given(text=st.text(max_size=80), label=st.text(max_size=20))
@settings(max_examples=8, deadline=None)
def test_any_text_and_label_keeps_the_pages_elements(
    text: str, label: str, tmp_path_factory: pytest.TempPathFactory
):
    labels = (label, f"{label}2")
    found = draw_examination(6, labels, texts=[text] * 6, n_words=3)
    folder = write_run(tmp_path_factory.mktemp("run"), found, run_values(labels), has_log=False)
    _, outline = outline_of(folder)
    assert outline.tags.count("script") == 2
    (cells,) = [code for attributes, code in outline.scripts if attributes]
    rows = [row for cell in json.loads(cells)["cells"].values() for row in cell["rows"]]
    assert len(rows) == 6


@pytest.mark.parametrize(
    ("case", "missing"),
    [
        ("no examination", {"calibration", "mistakes", "suspects"}),
        ("no log", {"rates", "curves"}),
        ("nothing but run.json", {*SECTIONS} - {"data", "reproduce"}),
        ("no mistakes", {"mistakes"}),
    ],
)
def test_what_is_missing_is_left_out(case: str, missing: set[str], tmp_path: Path):
    found = draw_examination(60, share_right=1.0 if case == "no mistakes" else 0.8)
    run = run_values()
    if case == "no examination":
        run["test"] = {
            "loss": 0.4, "accuracy": 0.75, "error": 0.25, "n": 4, "confusion": [[2, 0], [1, 1]],
            "per_class": {name: {"precision": 1.0, "recall": 0.5, "f1": 0.66, "n": 2}
                          for name in ("neg", "pos")},
            "error_interval_95": [0.1, 0.6],
        }  # fmt: skip
    if case == "nothing but run.json":
        run = {"kind": "pretrain", "source": None, "stages": []}
    is_examined = case in ("no log", "no mistakes")
    has_log = case not in ("no log", "nothing but run.json")
    folder = write_run(tmp_path, found if is_examined else None, run, has_log=has_log)
    _, outline = outline_of(folder)
    assert {i for i in outline.ids if i in SECTIONS} == {*SECTIONS} - missing
    for link in (value for name, value in outline.attributes if name == "href"):
        assert link[1:] in outline.ids


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("n", "labels"), [(0, ("a", "b")), (1, ("a", "b")), (30, ("only",)), (30, ("", "b"))]
)
def test_very_small_parts_make_a_page(n: int, labels: tuple[str, ...], tmp_path: Path):
    found = draw_examination(n, labels)
    _, outline = outline_of(write_run(tmp_path, found, run_values(labels), has_log=False))
    assert ("confusion" in outline.ids) == (n > 0)
    assert ("(empty)" in outline.texts) == ("" in labels)


def test_a_pretraining_run_tells_its_perplexity(tmp_path: Path):
    run = run_values()
    for key in ("data",):
        del run[key]
    run["kind"] = "pretrain"
    run["stages"] = [
        {"stage": "pretrain", "seconds": 3.0, "n_tokens": 9, "best": {"perplexity": 71.23}}
    ]
    page, outline = outline_of(write_run(tmp_path, None, run))
    assert "The language model has a perplexity of 71.2 on held-out texts." in page
    assert {i for i in outline.ids if i in SECTIONS} == {
        "data", "choices", "rates", "curves", "speed", "reproduce"
    }  # fmt: skip


def test_folders_that_are_no_run_are_refused_in_one_line(tmp_path: Path):
    with pytest.raises(InputError, match=r"no run\.json"):
        write_report(tmp_path)
    folder = write_run(tmp_path, draw_examination(20), has_log=False)
    good = (folder / "run.json").read_text()
    for name, content in (("run.json", "{"), ("run.json", "[]"), ("examination.json", "{}")):
        (folder / "run.json").write_text(good)
        (folder / name).write_text(content)
        with pytest.raises(InputError, match=name.replace(".", r"\.")) as caught:
            write_report(folder)
        assert "\n" not in str(caught.value)
    assert not list(folder.glob("*.html*"))


JSON = st.none() | st.integers(-2, 2) | st.text(max_size=3) | st.just([]) | st.just({})


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_run_json_that_was_edited_makes_a_page_or_one_line(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
):
    run = run_values()
    place: dict = run
    if data.draw(st.booleans()):
        place = run[data.draw(st.sampled_from(["config", "data", "why", "versions"]))]
    elif data.draw(st.booleans()):
        place = data.draw(st.sampled_from([run["config"]["classifier"], run["stages"][0]]))
    key = data.draw(st.sampled_from(sorted(place)))
    if data.draw(st.booleans()):
        del place[key]
    else:
        place[key] = data.draw(JSON)
    folder = write_run(tmp_path_factory.mktemp("run"), None, run, has_log=False)
    try:
        said = write_report(folder).read_text()
    except InputError as error:
        said = str(error)
    is_one_line = "run.json: a value is missing" in said and "\n" not in said
    assert is_one_line or said.rstrip().endswith("</html>")


STEP = {"event": "step", "stage": "classifier", "step": 1, "epoch": 1, "loss": 1.0, "n_tokens": 5,
        "rates": {"head": 0.1}, "beta1": 0.9, "tokens_per_s": 5.0}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Glyph 1")
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run.json", json.dumps({**run_values(), "seconds": math.inf})),
        ("run.json", json.dumps({**run_values(), "seconds": 10**400})),
        ("run.json", "[" * 100_000),
        ("metrics.jsonl", json.dumps({**STEP, "rates": {"\x01": 0.1}})),
        ("examination.json", to_json(draw_examination(20)).replace(
            '"accuracy": ', '"accuracy": 1' + "0" * 400 + ', "loss": ', 1)),
    ],
)  # fmt: skip
def test_numbers_and_characters_no_page_can_have_are_refused_in_one_line(
    name: str, content: str, tmp_path: Path
):
    folder = write_run(tmp_path, draw_examination(20), has_log=False)
    (folder / name).write_text(content)
    with pytest.raises(InputError) as caught:
        write_report(folder)
    assert "\n" not in str(caught.value)


def test_a_command_with_bytes_that_are_no_text_makes_a_page(tmp_path: Path):
    run = {**run_values(), "command": "ulmfit-fast train \udcff.csv"}
    page, _ = outline_of(write_run(tmp_path, None, run, has_log=False))
    assert r"train \udcff.csv" in page


def test_a_report_that_cannot_be_made_leaves_the_one_before(tmp_path: Path):
    folder = write_run(tmp_path, draw_examination(20), has_log=False)
    write_report(folder).write_text("old")
    (folder / "run.json").write_text("{")
    with pytest.raises(InputError):
        write_report(folder)
    assert (folder / "report.html").read_text() == "old"
    assert sorted(path.name for path in folder.iterdir()) == [
        "examination.json", "report.html", "run.json"
    ]  # fmt: skip


@pytest.mark.parametrize("n_classes", [20, 200])
def test_ten_thousand_long_texts_make_less_than_3_mb_in_less_than_20_s(
    n_classes: int, tmp_path: Path
):
    labels = tuple(f"class number {k} with a long name" for k in range(n_classes))
    found = draw_examination(10_000, labels, n_words=400, texts=["漢字" * 300] * 9_000)
    folder = write_run(tmp_path, found, run_values(labels))
    started = time.process_time()
    size = write_report(folder).stat().st_size
    seconds = time.process_time() - started
    assert size < 3e6
    assert seconds < 20


def test_of_200_classes_those_confused_most_are_shown_and_it_is_said(tmp_path: Path):
    labels = tuple(f"c{k}" for k in range(200))
    found = draw_examination(3_000, labels)
    page, outline = outline_of(write_run(tmp_path, found, run_values(labels), has_log=False))
    assert "14 of 200 classes that are confused most" in page
    (cells,) = [code for attributes, code in outline.scripts if attributes]
    shown = {*json.loads(cells)["labels"].values()}
    assert len(shown) == 14
    largest = max(n for c, row in enumerate(found.confusion) for k, n in enumerate(row) if c != k)
    pairs = [
        {labels[c], labels[k]}
        for c, row in enumerate(found.confusion)
        for k, n in enumerate(row)
        if c != k and n == largest
    ]
    assert any(pair <= shown for pair in pairs)
