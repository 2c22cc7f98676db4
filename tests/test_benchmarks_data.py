"""The benchmark of texts, ids and batches runs, and the report shows it."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from conftest import ROOT

TEXT = "the film was a good story told by an actor who plays in it, and that's all ."
WORDS = TEXT.split()


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return __import__("data_pipeline")


@pytest.fixture
def record(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The record of a run on a small file, with fastai's work done by what counts words."""
    text = tmp_path / "text.txt"
    text.write_text("\n".join(" ".join(WORDS[i % 7 :]) + f" {i}" for i in range(300)))
    ours = script.Corpus.build(script.read_table(text).texts, script.train_tokenizer([*WORDS] * 3))
    monkeypatch.setattr(script, "fastai_tokens", lambda texts: ours.n_tokens)
    monkeypatch.setattr(script, "find_spec", lambda name: "there")
    monkeypatch.setattr(script, "version", lambda name: "1.0")
    n_characters = sum(map(len, script.read_table(text).texts))
    return script.compare(text, n_characters, 4)


def test_texts_are_repeated_up_to_the_characters_wanted(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("four\nfive5\n")
    texts, about = script.texts_of(tmp_path / "a.txt", 12)
    assert texts == ["four", "five5", "four"]
    assert about == {"name": "a.txt", "n_texts": 3, "n_different": 2, "n_characters": 13}


def test_a_record_has_every_case_and_says_where_it_comes_from(record: dict[str, Any]) -> None:
    names = [(case["mode"], case["impl"], case["case"]) for case in record["cases"]]
    assert names[:3] == [
        ("tokenize", "ulmfit_fast", "1 process"),
        ("tokenize", "ulmfit_fast", "2 processes"),
        ("tokenize", "fastai", "1 process"),
    ]
    assert len(names) == 7
    assert all(case["tokens_per_s"]["n"] == case["time_ms"]["n"] == 4 for case in record["cases"])
    assert [ratio["ours"][1] for ratio in record["ratios"]] == ["1 process", "2 processes"]
    assert record["text"]["name"] == "text.txt"
    assert record["machine"]["versions"]["spacy"] == "1.0"
    assert record["commit"]
    assert record["command"].startswith("python benchmarks/data_pipeline.py")


def test_a_rate_is_tokens_in_a_second(script: ModuleType) -> None:
    case = script.case_record("batches", ("ulmfit_fast", "B 64"), 500, [2.0] * 4)
    assert case["tokens_per_s"] == {"p20": 250_000, "p50": 250_000, "p80": 250_000, "n": 4}


def test_other_work_is_left_out(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = script.train_tokenizer(WORDS * 3)
    monkeypatch.setattr(script, "find_spec", lambda name: "there")
    monkeypatch.setattr(script, "fastai_tokens", lambda texts: 1)
    calls, _, left_out = script.tokenizers(WORDS, tokenizer)
    assert len(calls) == 2
    assert "other work: 1 tokens" in left_out[0]["reason"]
    monkeypatch.setattr(script, "find_spec", lambda name: None)
    assert script.tokenizers(WORDS, tokenizer)[2][0]["reason"] == "fastai is not installed"


def test_report_shows_rates_and_speed(
    script: ModuleType, record: dict[str, Any], tmp_path: Path
) -> None:
    speed = {"p20": 7.0, "p50": 8.25, "p80": 9.0, "of_medians": 8.0, "equal": False}
    record["ratios"] = [{**ratio, **speed} for ratio in record["ratios"]]
    results, readme = tmp_path / "results", tmp_path / "README.md"
    results.mkdir()
    readme.write_text("<!-- benchmarks:begin -->\n<!-- benchmarks:end -->\n")
    (results / "data-pipeline--a-cpu--20261125.json").write_text(json.dumps(record))
    report = __import__("report")
    options = ["--readme", str(readme), "--results", str(results)]
    assert report.main(options) == 0
    assert report.main([*options, "--check"]) == 0
    for text in (readme.read_text(), (tmp_path / "docs" / "benchmarks.md").read_text()):
        assert "| texts to ids | `fastai` | 1 process |" in text
        assert "| 8.25x | 8.25x |" in text
        assert "| ids to batches | `ulmfit_fast` | B 64, whole documents |" in text
        assert "characters of text.txt, 300 different texts; 4 rounds in turns" in text


def test_run_knows_the_script(script: ModuleType, tmp_path: Path) -> None:
    options = SimpleNamespace(device="cpu", quick=True, grid="default", minutes=8.0)
    options.results = tmp_path
    run = __import__("run")
    assert run.commands(options)["data-pipeline"][0] == "benchmarks/data_pipeline.py"
    assert set(run.SIDE_BY_SIDE) >= run.CPU_ONLY


def test_shards_hold_the_texts_repeated_with_changes(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(f"{TEXT}\n{TEXT} it ended well\n")
    sizes = script.shard_passes.write_shards(tmp_path / "made", [tmp_path / "a.txt"], 700, 250)
    assert len(sizes) == 3
    assert 700 <= sum(sizes) < 700 + 2 * len(TEXT)
    texts = {
        kind: list(script.shard_passes.stream_texts(str(tmp_path / "made" / kind)))
        for kind in ("parquet", "jsonl")
    }
    assert texts["parquet"] == texts["jsonl"]
    assert texts["jsonl"][:2] == [TEXT, f"{TEXT} it ended well"]
    assert texts["jsonl"][3] == f"{TEXT} it ended1 well"
    assert sum(len(text.encode()) for text in texts["jsonl"]) == sum(sizes)


def test_passes_over_shards_say_memory_and_speed(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n".join(f"{TEXT} {i}" for i in range(99)))
    script.shard_passes.write_shards(tmp_path / "made", [tmp_path / "a.txt"], 9_000, 3_000)
    found = {
        mode: script.one_pass(mode, tmp_path / "made" / "parquet")
        for mode in script.shard_passes.PASSES
    }
    texts = list(script.shard_passes.stream_texts(str(tmp_path / "made" / "parquet")))
    assert found["read"]["found"] == len(texts)
    assert found["encode"]["found"] > 9_000 / 6
    assert all(10 < case["start_mib"] <= case["peak_mib"] < 2_000 for case in found.values())
    with pytest.raises(RuntimeError, match="no file of texts"):
        script.one_pass("read", tmp_path / "made" / "*.jsonl")


def test_report_shows_memory_of_shards(script: ModuleType, record: dict[str, Any]) -> None:
    case = {"op": "shards", "mode": "read", "case": "parquet", "impl": "ulmfit_fast", "gb": 2.0}
    about = {"n_processes": 1, "peak_mib": 202.4, "start_mib": 160.2, "mb_per_s": 33.33}
    text = {"name": "a.txt", "gb": 2.0, "n_shards": 32}
    lines = script.shard_tables.of_shards({**record, "cases": [{**case, **about}], "text": text})
    assert "| read every text once | parquet | 2 | 1 | 202 | 160 | 33.3 |" in lines
    report = __import__("report")
    del record["ratios"]
    record |= {"cases": [{**case, **about}], "text": text}
    assert report.section(record, whole=False) == ""
    assert "32 shards of a.txt, 2 GB of text" in report.section(record, whole=True)
