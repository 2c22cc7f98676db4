"""Data of the accuracy benchmarks: the sets' traps, fixed disjoint splits, WikiText's words."""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from pathlib import Path

import pytest
from accuracy_data import make_data
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.accuracy import ablations, data, low_shot, pretrain, splits, tasks, wikitext_words
from benchmarks.accuracy.presets import PRESETS
from ulmfit_fast import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


def rows(n: int, n_classes: int = 3) -> data.Labelled:
    return data.Labelled([f"text {i}" for i in range(n)], [f"c{i % n_classes}" for i in range(n)])


def test_trec_is_latin_1_with_coarse_classes(folder: Path) -> None:
    found = data.read_trec(folder)
    assert set(found.train.labels) == {"HUM", "LOC", "NUM"}
    assert found.train.texts[-1] == "\xf0 same"
    assert found.notes["n_train"] == len(found.train) == 122


def test_unlabelled_reviews_of_the_test_set_are_dropped(folder: Path) -> None:
    found = data.read_imdb(folder)
    assert found.notes["n_unlabelled_dropped_as_test"] == 1
    assert not set(found.unlabelled) & set(found.test.texts)
    assert "<br" not in "".join(found.train.texts + found.unlabelled)
    assert Counter(found.test.labels) == {"neg": 60, "pos": 60}


def test_ag_has_a_header_in_training_alone_and_entities_are_undone(folder: Path) -> None:
    found = data.read_ag(folder)
    assert (len(found.train), len(found.test)) == (120, 60)
    assert set(found.train.labels) <= set(data.AG_CLASSES.values())
    assert "America's" in found.train.texts[0]
    assert " $0 more; song #1 leads" in found.train.texts[0]


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        data.read_trec(tmp_path)


def test_excluded_articles_are_out_and_titles_too(folder: Path) -> None:
    found = dict(data.wiki_articles(folder, ["AA"]))
    assert data.excluded_ids(folder) == {"3", "7"}
    assert set(found) == {str(i) for i in range(40)} - {"3", "7"}
    assert found["4"].startswith("Title 4 is ")


def test_articles_for_validation_are_no_others(folder: Path) -> None:
    options = Namespace(data=folder, quick=True, direction="forward")
    parts = [list(pretrain.Articles(options, ("AA",), held_out)) for held_out in (True, False)]
    assert all(parts)
    assert not set(parts[0]) & set(parts[1])
    options.direction = "backward"
    turned = list(pretrain.Articles(options, ("AA",), True))
    assert [data.reversed_words(text) for text in turned] == [" ".join(t.split()) for t in parts[0]]


@given(st.lists(st.tuples(st.integers(0, 30), st.sampled_from("abc")), min_size=12, max_size=80))
def test_parts_are_disjoint_in_their_texts_complete_and_always_the_same(
    pairs: list[tuple[int, str]],
) -> None:
    given_rows = data.Labelled([f"t{n}" for n, _ in pairs], [label for _, label in pairs])
    parts = splits.split(given_rows, 0.2, 0.3)
    assert parts == splits.split(given_rows, 0.2, 0.3)
    assert sum(map(len, parts)) == len(pairs)
    texts = [set(part.texts) for part in parts]
    assert not texts[0] & texts[1] | texts[0] & texts[2] | texts[1] & texts[2]


def test_parts_have_their_shares_of_every_class() -> None:
    parts = splits.split(rows(300), 0.1, 0.1)
    assert [Counter(part.labels) for part in parts] == [
        Counter({f"c{i}": n for i in range(3)}) for n in (10, 10, 80)
    ]


@pytest.mark.parametrize("n", [3, 10, 101, 299])
def test_as_many_rows_are_drawn_as_asked_for_with_every_class(n: int) -> None:
    drawn = splits.draw(rows(300), n, seed=1)
    assert len(drawn) == n
    counts = Counter(drawn.labels)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert drawn != splits.draw(rows(300), n, seed=2)
    assert drawn == splits.draw(rows(300), n, seed=1)


@pytest.mark.parametrize("name", ["trec", "imdb"])
def test_ablations_and_few_labels_never_see_the_test_set(folder: Path, name: str) -> None:
    found = data.READERS[name](folder)
    tested = set(found.test.texts)
    parts = ablations.parts_of(found, quick=False)
    assert parts.valid is not None
    texts = [set(part.texts) for part in (parts.train, parts.valid, parts.measured)]
    assert all(texts)
    assert not texts[0] & texts[1] | texts[0] & texts[2] | texts[1] & texts[2]
    assert not tested & set.union(*texts)
    measured, pool = low_shot.pools(found, quick=False)
    assert not set(measured.texts) & set(pool.texts)
    assert not tested & set(measured.texts + pool.texts)


def test_the_figure_of_a_data_set_is_of_its_test_set(folder: Path) -> None:
    found = data.read_imdb(folder)
    parts = tasks.parts_of(found, PRESETS["paper"])
    assert parts.measured == found.test
    assert parts.valid is not None
    assert not set(parts.valid.texts) & set(parts.train.texts + parts.language_model)
    assert set(found.unlabelled) < set(parts.language_model)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (" a 60 @-@ year <unk> . ", "a 60-year xxunk."),
        (" 1 @,@ 000 ( 24 @.@ 5 in ) ; he 's in ", "1,000 (24.5 in); he's in"),
        (' called " lobster red " , and did n\'t ', 'called "lobster red", and didn\'t'),
        (" = = Early life = = ", "Early life"),
        (" ", ""),
    ],
)
def test_wikitext_is_put_back_as_far_as_it_can_be(line: str, text: str) -> None:
    assert wikitext_words.plain(line) == text


def test_a_title_begins_an_article_and_a_heading_does_not(folder: Path) -> None:
    found = list(wikitext_words.articles(data.read_text(folder, "wikitext-2_valid.txt")))
    assert [next(x for x in lines if x.strip()).strip() for lines in found] == [
        "= The first =",
        "= The second =",
    ]
