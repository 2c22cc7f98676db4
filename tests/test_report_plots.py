"""The figures show the numbers they are given, and leave matplotlib as it was."""

from __future__ import annotations

import json
import time
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from examinations import calibration, draw_examination, log_lines
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from ulmfit_fast.errors import InputError
from ulmfit_fast.report import plots
from ulmfit_fast.report.style import VARIABLES, Plot
from ulmfit_fast.report.svg import themed_svg
from ulmfit_fast.training.history import History
from ulmfit_fast.training.observer import Step

TEMPLATE = Path(plots.__file__).parent / "template"


def history(**options: object) -> History:
    made = History()
    for line in log_lines(**options):  # type: ignore[arg-type]
        made.replay(json.loads(line))
    return made


def all_figures() -> list[Plot]:
    found, ran = draw_examination(300, ("a", "b", "c")), history()
    return [
        plots.plot_losses(ran),
        plots.plot_metrics(ran),
        plots.plot_rates(ran),
        plots.plot_rates(ran, log=True),
        plots.plot_throughput(ran),
        plots.plot_calibration(found.calibration),
        plots.plot_lengths(found.overview),
        plots.plot_confusion(found.labels, found.confusion),
    ]


def test_drawing_leaves_the_callers_settings_alone():
    with matplotlib.rc_context({"font.size": 31.0, "axes.grid": False, "svg.fonttype": "path"}):
        before = dict(matplotlib.rcParams)
        for number, figure in enumerate(all_figures()):
            themed_svg(figure, f"f{number}", "a figure")
        assert dict(matplotlib.rcParams) == before


def test_svg_follows_the_theme_and_needs_no_style_attribute():
    style = (TEMPLATE / "style.css").read_text()
    ids: list[str] = []
    for number, figure in enumerate(all_figures()[:7]):
        svg = themed_svg(figure, f"f{number}", 'say "this" <now>')
        root = ElementTree.fromstring(svg)
        assert root.get("aria-label") == 'say "this" <now>'
        for element in root.iter():
            assert not {"style", "class", "onload"} & {*element.attrib}
            assert element.tag not in ("script", "style", "a", "image", "foreignObject")
            for name in ("fill", "stroke"):
                value = element.get(name, "none")
                assert value == "none" or value.startswith("var(--"), (name, value)
            ids += [element.attrib["id"]] if "id" in element.attrib else []
            for reference in (element.get("href"), element.get("clip-path")):
                if reference is not None:
                    assert reference.removeprefix("url(").strip("#)") in svg
        for variable in VARIABLES.values():
            assert style.count(f"{variable}:") == 3  # light, dark, print
    assert len(ids) == len(set(ids))


def test_rates_have_a_line_a_group_and_a_gap_where_it_is_frozen():
    ran = history()
    for axes, stage in zip(plots.plot_rates(ran).axes, ran.stages, strict=True):
        lines = {line.get_label(): np.asarray(line.get_ydata()) for line in axes.get_lines()}
        assert [name for name in lines if not name.startswith("_")] == stage.groups
        for group in stage.groups:
            told = np.array([point.rates[group] for point in stage.points])
            assert np.array_equal(np.nan_to_num(lines[group]), told)
            assert np.array_equal(np.isnan(lines[group]), told == 0)


def test_groups_of_one_rate_are_one_line():
    ran = history(stages=["pretrain"])
    for point in ran.stages[0].points:
        point.rates.update(dict.fromkeys(point.rates, 0.01))  # type: ignore[attr-defined]
    (axes,) = plots.plot_rates(ran).axes
    assert [line.get_label() for line in axes.get_lines()][:1] == ["all layers"]
    assert axes.get_lines()[0].get_ydata().tolist() == [0.01] * 120


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=60), st.randoms())
def test_calibration_shows_every_bin_that_has_answers(values: list[float], draw):
    scores = calibration(np.array(values) * 0.999, np.array([draw.random() < v for v in values]))
    (axes,) = plots.plot_calibration(scores).axes
    (points,) = axes.collections
    expected = [(b.confidence, b.accuracy) for b in scores.bins if b.n]
    assert np.allclose(points.get_offsets(), expected)


def test_lengths_are_shares_of_each_part():
    parts = draw_examination(200).overview
    (axes,) = plots.plot_lengths(parts).axes
    for patch, part in zip(axes.patches, parts, strict=True):
        values, edges, _ = patch.get_data()
        assert values.sum() == pytest.approx(1)
        assert list(edges[:-1]) == list(part.length_edges[:-1])
        assert edges[-1] - edges[-2] == edges[1] - edges[0]


@given(st.integers(1, 9).flatmap(lambda n: st.tuples(
    st.lists(st.lists(st.integers(0, 5), min_size=n, max_size=n), min_size=n, max_size=n),
    st.integers(1, 9),
)))  # fmt: skip
def test_most_confused_shows_the_largest_confusions(drawn: tuple[list[list[int]], int]):
    confusion, n = drawn
    C = len(confusion)
    chosen = plots.most_confused(confusion, n)
    assert chosen == sorted({*chosen})
    assert len(chosen) == min(n, C)
    cells = {(r, c): confusion[r][c] for r in range(C) for c in range(C) if r != c}
    for left_out, count in cells.items():
        if count and not {*left_out} <= {*chosen}:  # others, at least as large, took the room
            others = [cell for cell, m in cells.items() if m >= count and cell != left_out]
            assert len({c for cell in others for c in cell}) >= n - 1


def test_most_confused_of_5000_classes_takes_as_long_as_its_mistakes():
    rng = np.random.default_rng(0)
    confusion = np.diag(np.full(5_000, 20))
    confusion[rng.integers(0, 5_000, 9_000), rng.integers(0, 5_000, 9_000)] = 3
    confusion[4_000, 17], confusion[2, 4_999] = 50, 40
    began = time.process_time()
    assert plots.most_confused(confusion, 4) == [2, 17, 4_000, 4_999]
    assert time.process_time() - began < 1


def test_confusion_takes_labels_as_they_are():
    labels = ["$x^2$", "<b>", "a_b"]
    figure = plots.plot_confusion(labels, [[3, 0, 1], [0, 4, 0], [2, 0, 5]])
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == labels
    assert [text.get_text() for text in axes.texts] == list("301040205")
    svg = themed_svg(figure, "f", "matrix")
    assert "$x^2$" in svg
    assert "&lt;b&gt;" in svg


def test_only_the_most_confused_of_many_classes_are_drawn():
    found = draw_examination(2_000, tuple(f"c{k}" for k in range(200)))
    (axes,) = plots.plot_confusion(found.labels, found.confusion, max_classes=10).axes
    assert len(axes.texts) == 100
    assert axes.get_title(loc="left") == "The 10 of 200 classes that are confused most"


def test_nothing_to_draw_is_said():
    for plot in (plots.plot_losses, plots.plot_metrics, plots.plot_rates, plots.plot_throughput):
        with pytest.raises(InputError, match="train one first"):
            plot(History())
    with pytest.raises(InputError, match="no classes"):
        plots.plot_confusion([], [])


@given(st.integers(0, 2_000), st.integers(1, 400))
def test_thinned_keeps_order_and_both_ends(n: int, n_kept: int):
    points = list(range(n))
    kept = plots.thinned(points, n_kept)
    assert kept == sorted(set(kept))
    assert len(kept) <= n_kept + 1
    assert {*points[:1], *points[-1:]} <= {*kept}


def test_the_ring_is_round_the_epoch_that_was_kept_not_one_as_accurate() -> None:
    made = History()
    made.stage_started("classifier", 3, "")
    for epoch, loss in enumerate([0.5, 0.4, 0.6], start=1):
        made.step(Step("classifier", epoch, epoch, loss, 10, {"head": 0.1}, 0.9))
        made.epoch_ended("classifier", epoch, {"valid_loss": loss, "accuracy": 1.0, "seconds": 2.0})
    made.stage_ended("classifier", 6.0, {"valid_loss": 0.4, "accuracy": 1.0, "seconds": 6.0})
    axes = Figure().subplots()
    plots.draw_metric(axes, made.stages[0])
    (ring,) = [line for line in axes.lines if line.get_label() == "kept"]
    assert list(ring.get_xdata()) == [2]
