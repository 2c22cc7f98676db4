"""The page of accuracy figures: what was measured, what was not, and where the order differs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from benchmarks.accuracy import intervals, plot, record, table
from benchmarks.accuracy.__main__ import base_of, main

MACHINE = {"cpu": "Some CPU", "threads": 2, "load_at_start": 3.25}


def put(folder: Path, task: str, variant: str, seed: int = 0, **more: Any) -> None:
    """Write a record; more: dataset, preset, settings, metrics."""
    entry = {
        "schema": 1, "date": "2026-11-25", "commit": "0123456789abcdef", "dirty": False,
        "command": "python -m benchmarks.accuracy", "machine": MACHINE, "task": task,
        "dataset": "trec", "variant": variant, "preset": "tiny", "seed": seed,
        "settings": {}, "seconds": 1.0, "metrics": {}, **more,
    }  # fmt: skip
    name = f"{entry['dataset']}--{variant}--{entry['preset']}--seed{seed}.json"
    record.write(folder / task / name, entry)


def error(percent: float, n: int = 500) -> dict[str, Any]:
    n_wrong = round(percent * n / 100)
    return {
        "error": n_wrong / n, "n_wrong": n_wrong, "n": n,
        "interval": list(intervals.of_error(n_wrong, n)), "train_seconds": 10.0 * percent,
        "predict_ms_a_text": 0.1,
    }  # fmt: skip


def parts(n: int) -> dict[str, Any]:
    return {"parts": {"train": {"n": n}}}


def test_one_run_has_wilsons_interval_and_several_have_students(tmp_path: Path) -> None:
    put(tmp_path, "baselines", "tfidf", metrics=error(13.0), settings=parts(4907))
    for seed, percent in enumerate((10.0, 11.0, 12.0)):
        put(tmp_path, "baselines", "ngrams", seed, metrics=error(percent), settings=parts(4907))
    text = "\n".join(table.classification(record.all_records(tmp_path), "trec"))
    low, high = intervals.of_error(65, 500)
    assert f"| 13.00 ({100 * low:.2f} to {100 * high:.2f}) |" in text
    assert "| 11.00 ± 2.48, 3 seeds |" in text  # 4.303 / sqrt(3)
    assert "| ULMFiT, both directions | 3.60 | not yet measured | not yet measured | not" in text
    assert "tiny: 4,907 rows to train on" in text


def test_intervals_over_seeds_need_two() -> None:
    with pytest.raises(ValueError, match="needs two"):
        intervals.of_mean([1.0])
    assert intervals.of_mean([1.0] * 40) == (1.0, 1.0)


def test_records_of_quick_runs_are_not_shown(tmp_path: Path) -> None:
    put(tmp_path, "baselines", "tfidf", metrics=error(13.0), preset="tiny-quick")
    assert "13.00" not in table.text_of(tmp_path)


def test_perplexities_stand_beside_the_published_ones(tmp_path: Path) -> None:
    metrics = {"valid_perplexity": 101.26, "test_perplexity": 95.04}
    put(tmp_path, "language-model", "nt-asgd", dataset="wikitext-2", metrics=metrics)
    text = table.text_of(tmp_path)
    expected = "not yet measured | not yet measured | 101.3 / 95.0 |"
    assert f"| wikitext-2 | nt-asgd | 68.6 / 65.8 | {expected}" in text
    where = "- language-model: 1 record, Some CPU, 2 threads; 2026-11-25; commit 0123456789; "
    assert f"{where}**busy machine, load up to 3.2**" in text


def test_an_order_that_is_not_the_papers_is_said(tmp_path: Path) -> None:
    for seed in range(3):
        noise = 0.2 * seed
        put(tmp_path, "ablations", "ulmfit", seed, metrics=error(5 + noise))
        put(tmp_path, "ablations", "from-scratch", seed, metrics=error(13 + noise))
        put(tmp_path, "ablations", "last", seed, metrics=error(2 + noise))
    text = "\n".join(table.ablations(record.all_records(tmp_path), "trec"))
    assert "tiny: 1 of 3 pairs of variants are in the paper's order" in text
    assert "clearly against it: ulmfit is worse than last, from-scratch is worse than last." in text
    assert "| 7 | last | 16.09 | not yet measured | not yet measured | 2.20 ± " in text


def test_curves_of_few_labels_are_drawn_and_listed(tmp_path: Path) -> None:
    for seed, shots, kind in ((s, n, k) for s in (0, 1) for n in (100, 200) for k in plot.KINDS):
        put(
            tmp_path, "low-shot", f"{kind}-{shots:05d}", seed,
            metrics=error(2000 / shots + seed), settings={"kind": kind, "labels": shots},
        )  # fmt: skip
    put(tmp_path, "baselines", "tfidf", metrics=error(13.0), settings=parts(4907))
    text = "\n".join(table.low_shot(record.all_records(tmp_path), "trec"))
    assert "| 100 | 20.50 ± 6.35, 2 seeds |" in text
    assert plot.main(tmp_path, tmp_path / "plots") == 0
    files = sorted((tmp_path / "plots").iterdir())
    assert [file.name for file in files] == ["accuracy-cost.svg", "accuracy-low-shot.svg"]
    before = [file.read_bytes() for file in files]
    plot.main(tmp_path, tmp_path / "plots")
    assert [file.read_bytes() for file in files] == before
    assert "semi-supervised" in files[1].read_text()


def test_the_page_is_checked(tmp_path: Path, capfd: Any) -> None:
    page = tmp_path / "accuracy.md"
    page.write_text(f"Before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    put(tmp_path, "baselines", "tfidf", metrics=error(13.0), settings=parts(10))
    assert table.main(tmp_path, check=True, page=page) == 1
    assert "run python -m benchmarks.accuracy table" in capfd.readouterr().err
    assert table.main(tmp_path, check=False, page=page) == 0
    assert table.main(tmp_path, check=True, page=page) == 0
    assert page.read_text().startswith("Before\n")
    assert page.read_text().endswith("after\n")
    page.write_text("no place")
    assert table.main(tmp_path, check=False, page=page) == 2


def test_the_repositorys_page_is_that_of_its_records() -> None:
    assert main(["table", "--check"]) == 0


def test_every_record_of_the_repository_is_whole() -> None:
    for file in (ROOT / "benchmarks" / "results" / "accuracy").glob("*/*.json"):
        entry = record.read(file)
        assert entry is not None
        assert file.name == (
            f"{entry['dataset']}--{entry['variant']}--{entry['preset']}--seed{entry['seed']}.json"
        )
        assert not entry["preset"].endswith("-quick")


def test_a_base_is_a_folder_or_a_name_of_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ulmfit_fast

    monkeypatch.setattr(ulmfit_fast, "__file__", str(tmp_path / "__init__.py"))
    assert base_of(None) is None
    assert base_of(Path("none")) is None
    assert base_of(Path("some/folder")) == Path("some/folder")
    own = tmp_path / "pretrained" / "english"
    own.mkdir(parents=True)
    (own / "manifest.json").write_text(json.dumps({}))
    assert base_of(None) == base_of(Path("english")) == own
    assert base_of(Path("none")) is None
