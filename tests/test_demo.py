import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from small_english import write_english

from ulmfit_fast import ULMFiTTrainer, demo, demo_corpus, pretrained
from ulmfit_fast.cli import main
from ulmfit_fast.demo_corpus import DemoCorpus, Sources, build_demo_corpus, find_sources
from ulmfit_fast.errors import InputError

N_PER_PACKAGE = 80


def write_package(folder: Path, name: str, docstrings: list[str]) -> None:
    (folder / name).mkdir(parents=True)
    functions = [f"def f{i}():\n    {text!r}\n" for i, text in enumerate(docstrings)]
    (folder / name / "__init__.py").write_text("\n".join(functions), encoding="utf-8")


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    """Two packages of 80 docstrings and a library of 40, a few of them planted troublemakers."""
    words = ["alpha", "beta", "gamma", "delta"]
    for name, word in (("numpy", "array"), ("email", "header")):
        texts = [
            f"This {word} is {words[i % 4]} as of {i} by this function and nothing else"
            for i in range(N_PER_PACKAGE)
        ]
        write_package(tmp_path, name, [*texts, "The very same words stand in both packages here"])
    library = [f"General text number {i} about the order of {words[i % 4]}" for i in range(40)]
    copies = [f"Note: this header is {words[i % 4]} as of {i} by this function" for i in range(20)]
    write_package(tmp_path / "lib", "calendar", library + copies)
    packages = {name: tmp_path / name for name in ("numpy", "email")}
    return Sources(packages=packages, library=tmp_path / "lib")


def parts(corpus: DemoCorpus) -> dict[str, list[str]]:
    return {
        "general": corpus.general,
        "labelled": corpus.labelled.texts,
        "unlabelled": corpus.unlabelled.texts,
        "valid": corpus.valid.texts,
        "test": corpus.test.texts,
    }


def write_docstring(folder: Path, docstring: str) -> str:
    """Return the one text that the corpus makes of a docstring, or an empty one."""
    write_package(folder, "numpy", [docstring])
    documents = demo_corpus._documents(demo_corpus._files(folder / "numpy"))
    return documents[0].text if documents else ""


def test_every_text_is_in_one_part(sources: Sources, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(demo_corpus, "LABELLED_PER_PACKAGE", 20)
    corpus = build_demo_corpus(sources)
    texts = [text for part in parts(corpus).values() for text in part]
    assert len(texts) == len(set(texts))
    assert all(len(part) > 5 for part in parts(corpus).values())
    assert Counter(corpus.labelled.labels) == {"numpy": 20, "email": 20}
    assert "The very same words stand in both packages here" not in texts


def test_the_same_files_give_the_same_corpus(sources: Sources):
    assert build_demo_corpus(sources) == build_demo_corpus(sources)


def test_too_many_texts_of_a_package_become_general_text(
    sources: Sources, monkeypatch: pytest.MonkeyPatch
):
    before = len(build_demo_corpus(sources).general)
    monkeypatch.setattr(demo_corpus, "MAX_TEXTS_PER_PACKAGE", 30)
    corpus = build_demo_corpus(sources)
    assert len(corpus.general) > before
    n_classified = sum(len(part) for name, part in parts(corpus).items() if name != "general")
    assert n_classified <= 60


def shared_words(first: str, second: str) -> bool:
    """Whether eight words in a row stand in both."""
    words = first.lower().split()
    runs = (" ".join(words[i : i + 8]) for i in range(len(words) - 7))
    return any(run in " ".join(second.lower().split()) for run in runs)


def test_nothing_held_out_leaks_into_training(sources: Sources):
    corpus = build_demo_corpus(sources)
    held_out = corpus.test.texts + corpus.valid.texts
    keys = {text.lower()[:40] for text in held_out}
    for name in ("general", "labelled", "unlabelled"):
        for text in parts(corpus)[name]:
            assert text.lower()[:40] not in keys, (name, text)
            assert not any(shared_words(held, text) for held in held_out), (name, text)
    copies = [text for text in corpus.general if text.startswith("Note")]
    assert len(copies) < 20  # those of held-out texts are gone
    assert not {text.lower()[:40] for text in corpus.test.texts} & {
        text.lower()[:40] for text in corpus.valid.texts
    }


@pytest.mark.parametrize(
    ("docstring", "text"),
    [
        ("Return numpy.ndarray with np.int8 and more.", "Return thing with thing and more."),
        ("PyTorch and numpy's EMAIL are masked.", "thing and thing's thing are masked."),
        ("Apply nn.Linear then F.relu to the np f.", "Apply thing then thing to the thing f."),
        ("Use :class:`~torch.Tensor` or :func:`len` on it twice.", "Use thing or len on it twice."),
        ("One two three four five six.\n\nArgs:\n    x: seven", "One two three four five six."),
        ("One two three four five six.\n\nTitle\n-----\nx : int", "One two three four five six."),
        ("One two three four five six.\n\n>>> seven()", "One two three four five six."),
        ("One two three four five six.\n:param x: seven", "One two three four five six."),
        ("One two\n   three  four\n\nfive six.", "One two three four five six."),
        ("Too short to say anything.", ""),
        ("", ""),
        ("One two three four five \ud800 six.", "One two three four five ? six."),
    ],
)  # fmt: skip
def test_text_of_a_docstring(tmp_path: Path, docstring: str, text: str):
    assert write_docstring(tmp_path, docstring) == text


def test_long_text_is_cut(tmp_path: Path):
    text = write_docstring(tmp_path, " ".join(f"word{i}" for i in range(300)))
    assert len(text.split()) == demo_corpus.WORDS_IN_TEXT[1]


@pytest.mark.parametrize("name", ["tests/a.py", "_private.py", "testing/b.py", "sub/_hidden/c.py"])
def test_private_and_test_files_are_left_out(tmp_path: Path, name: str):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('"""One two three four five six seven."""')
    assert demo_corpus._documents(demo_corpus._files(tmp_path)) == []


@pytest.mark.parametrize("source", [b"def broken(:", b"x = '\x00'", b"\xff\xfe\xfa"])
def test_file_that_cannot_be_parsed_has_no_docstrings(tmp_path: Path, source: bytes):
    path = tmp_path / "broken.py"
    path.write_bytes(source)
    assert list(demo_corpus._docstrings(path)) == []


def test_missing_sources_are_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(demo_corpus, "PACKAGES", ("email", "no_such_package_here"))
    with pytest.raises(InputError, match="'no_such_package_here' were not found"):
        find_sources()


def test_sources_of_this_machine_hold_every_class():
    sources = find_sources()
    assert set(sources.packages) == set(demo_corpus.PACKAGES)
    small = {name: sources.packages[name] for name in ("email", "logging", "xml")}
    corpus = build_demo_corpus(Sources(packages=small, library=sources.library / "json"))
    assert set(Counter(corpus.test.labels)) == set(small)
    assert min(Counter(corpus.labelled.labels).values()) >= 40
    words = {word for part in parts(corpus).values() for text in part for word in text.split()}
    assert not {"numpy", "torch", "email", "logging", "xml", "XML"} & words


@pytest.fixture
def short(sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A demo on the small sources, with a small English model, of one epoch a stage."""
    (tmp_path / "pretrained").mkdir()
    write_english(tmp_path / "pretrained")
    monkeypatch.setattr(pretrained, "PLACE", tmp_path / "pretrained")
    monkeypatch.setattr(demo, "find_sources", lambda: sources)
    full = demo.settings_of

    def settings_of(seed: int, *, from_scratch: bool) -> demo.Settings:
        settings = replace(full(seed, from_scratch=from_scratch), size="tiny")
        configs = {}
        for name in ("language_model", "classifier", "scratch"):
            config = getattr(settings, name)
            for stage in ("pretrain", "language_model", "classifier"):
                config = config.with_stage(stage, epochs=1)
            configs[name] = config
        return replace(settings, **configs)

    monkeypatch.setattr(demo, "settings_of", settings_of)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("from_scratch", [False, True])
def test_demo_trains_compares_and_says_where_everything_is(
    sources: Sources, tmp_path: Path, from_scratch: bool
):
    out = tmp_path / "demo"
    options = [] if from_scratch else ["--english"]
    result = CliRunner().invoke(main, ["demo", "--out", str(out), *options])
    assert result.exit_code == 0, result.output
    for line in ("stage 1", "stage 2", "stage 3", "same classifier without 1 and 2", "largest"):
        assert line in result.output
    summary = json.loads((out / "run.json").read_text())
    assert summary["base"] == (None if from_scratch else "english")
    stages = [stage["stage"] for stage in summary["stages"]]
    assert stages == ["pretrain"] * from_scratch + ["language_model", "classifier"]
    assert ("the model 'english', which comes with ulmfit_fast" in result.output) != from_scratch
    accuracy = summary["test"]["accuracy"]
    baselines = (summary["test_from_scratch"]["accuracy"], summary["majority"]["accuracy"])
    assert summary["beats_both_baselines"] == (accuracy > max(baselines))
    assert ("do NOT beat" in result.output) != summary["beats_both_baselines"]
    assert summary["config"]["classifier"]["classifier"]["epochs"] == 1
    assert f"{accuracy:.3f}" in result.output
    for path in (out / "model", out / "metrics.jsonl", out / "report.html"):
        assert path.exists()
        assert str(path) in result.output
    model = ULMFiTTrainer.load(out / "model")
    assert model.labels == ["email", "numpy"]
    test = build_demo_corpus(sources).test
    assert model.evaluate(test.texts, test.labels).accuracy == pytest.approx(accuracy)


@pytest.mark.usefixtures("short")
def test_demo_without_a_model_to_begin_with_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pretrained, "PLACE", tmp_path / "nothing")
    result = CliRunner().invoke(main, ["demo", "--english", "--out", str(tmp_path / "demo")])
    assert result.exit_code == 2
    assert "no model 'english'; train one here: leave --english out" in result.output
    assert not (tmp_path / "demo").exists()
