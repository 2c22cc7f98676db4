"""What a run does where the user left it open: recipe, size, cache."""

import json
import os
from pathlib import Path

import pytest
from cli_runs import SHORT, json_of, run, succeed, write_rows

from ulmfit_fast.commands.cache import cache_folder
from ulmfit_fast.commands.choices import Base, Settings, choose
from ulmfit_fast.errors import InputError

BASE = Base(Path("general"), "base", "subword")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty working directory with train.csv."""
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "train.csv", 60)
    return tmp_path


# --- precision and graphs


@pytest.mark.parametrize(
    ("given", "why_not", "name", "why"),
    [
        (None, None, "bf16", "the hardware has it"),
        (None, "it is old", "fp32", "it is old"),
        ("fp32", None, "fp32", "as asked for"),
        ("bf16", None, "bf16", "as asked for"),
        ("bf16", "it is old", "bf16", "as asked for, but slow: it is old"),
    ],
)
def test_precision(
    monkeypatch: pytest.MonkeyPatch, given: str | None, why_not: str | None, name: str, why: str
):
    monkeypatch.setattr("ulmfit_fast.training.precision.why_no_bf16", lambda _: why_not)
    settings = Settings(precision=given, device="cpu")
    choices = choose(settings, {"pretrain": 10}, 10, "pretrain")
    assert (choices.precision.name, choices.precision.why) == (name, why)
    assert choices.config.precision == (given or "auto")


def test_precision_of_a_run_is_said_recorded_and_used_again(folder: Path):
    ran = succeed("train", "train.csv", "--precision", "bf16", *SHORT)
    assert "\nprecision bf16 (as asked for" in ran.stdout
    assert " M parameters in bf16, batches of " in ran.stderr
    summary = json.loads(Path("runs/train/run.json").read_text())
    assert (summary["precision"], summary["config"]["precision"]) == ("bf16", "bf16")
    assert summary["cuda_graphs"] is False
    assert json_of(succeed("info", "runs/train", "--json"))["precision"] == "bf16"
    said = [
        succeed("predict", "runs/train", "train.csv", *arguments).stdout
        for arguments in ([], [], ["--precision", "bf16"], ["--precision", "fp32"])
    ]
    assert said[0] == said[1] == said[2] != said[3]
    losses = [
        json_of(succeed("evaluate", "runs/train", "train.csv", "--json", *arguments))["loss"]
        for arguments in (["--precision", "bf16"], ["--precision", "fp32"])
    ]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    assert losses[0] != losses[1]


def test_cuda_graphs_without_a_gpu_are_one_line(folder: Path):
    result = run("train", "train.csv", "--device", "cpu", "--cuda-graphs", *SHORT)
    assert result.exit_code == 2
    assert result.stderr == (
        "error: CUDA graphs need a GPU, and the device is 'cpu': train without --cuda-graphs "
        "(cuda_graphs=False)\n"
    )
    assert not Path("runs").exists()


def test_info_says_what_auto_is(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ulmfit_fast.training.precision.why_no_bf16", lambda _: "it is old")
    assert "\nprecision    fp32 (auto: it is old)\n" in succeed("info").stdout
    assert json_of(succeed("info", "--json"))["precision"] == "fp32"


# --- recipe and size


@pytest.mark.parametrize(
    ("settings", "base", "n_rows", "recipe", "epochs"),
    [
        (Settings(), None, 500, "paper", (10, 15)),
        (Settings(lm_epochs=2, epochs=3), None, 500, "paper", (2, 3)),
        (Settings(preset="paper"), None, 500, "paper", (15, 50)),
        (Settings(preset="fastai"), None, 500, "fastai", (10, 5)),
        (Settings(), BASE, 500, "fastai", (10, 5)),
        (Settings(), None, 0, "fastai", (10, 5)),
    ],
)
def test_recipe(
    settings: Settings, base: Base | None, n_rows: int, recipe: str, epochs: tuple[int, int]
):
    choices = choose(settings, {"pretrain": 5_000}, n_rows, "pretrain", base)
    config = choices.config
    assert config.recipe == recipe
    assert (config.pretrain.epochs, config.classifier.epochs) == epochs
    assert choices.why_recipe


@pytest.mark.parametrize(
    ("size", "device", "n_words", "expected", "why"),
    [
        (None, "cpu", 199_999, "tiny", "for the 199,999 words there are: fewer than 200,000"),
        (None, "cpu", 200_000, "small", "for 200,000 words on cpu"),
        (None, "cuda", 10, "base", "for training on cuda"),
        ("base", "cpu", 10, "base", "--size"),
    ],
)
def test_size(
    monkeypatch: pytest.MonkeyPatch,
    size: str | None,
    device: str,
    n_words: int,
    expected: str,
    why: str,
):
    monkeypatch.setattr("ulmfit_fast.commands.choices.choose_device", lambda _: device)
    monkeypatch.setattr("ulmfit_fast.training.precision.why_no_bf16", lambda _: None)
    choices = choose(Settings(size=size), {"pretrain": n_words}, 10, "pretrain")
    assert (choices.size, choices.why_size) == (expected, why)


@pytest.mark.parametrize(
    ("settings", "size", "n_rows", "recipe", "epochs", "lr"),
    [
        (Settings(), "small", 500, "paper", (2, 12), 0.004),
        (Settings(), "tiny", 500, "paper", (2, 12), 0.004),
        (Settings(), "base", 500, "fastai", (5, 5), 0.02),
        (Settings(lm_epochs=1, epochs=3, lm_lr=0.1), "small", 500, "paper", (1, 3), 0.1),
        (Settings(preset="fastai"), "small", 500, "fastai", (5, 5), 0.02),
        (Settings(), "small", 0, "fastai", (5, 5), 0.02),  # a language model alone
    ],
)
def test_recipe_on_a_base(
    settings: Settings, size: str, n_rows: int, recipe: str, epochs: tuple[int, int], lr: float
):
    base = Base(Path("general"), size, "subword")
    config = choose(settings, {"language_model": 5_000}, n_rows, "language_model", base).config
    assert config.recipe == recipe
    assert (config.language_model.epochs, config.classifier.epochs) == epochs
    assert config.language_model.lr == lr


def test_a_base_has_its_size_and_tokenizer():
    choices = choose(Settings(), {"language_model": 10}, 10, "language_model", BASE)
    assert (choices.size, choices.tokenizer) == ("base", "subword")
    assert choices.why_size == "as in general"


def test_a_run_records_the_size_and_tokenizer_of_its_base(folder: Path):
    (folder / "corpus.txt").write_text("".join(f"the film was told {i}\n" for i in range(40)))
    arguments = ["--size", "tiny", "--tokenizer", "subword", "--epochs", "1"]
    succeed("pretrain", "corpus.txt", *arguments)
    shorter = ["--lm-epochs", "1", "--epochs", "1", "--json"]
    summary = json_of(succeed("train", "train.csv", "--base", "runs/corpus", *shorter))
    assert (summary["size"], summary["tokenizer"]) == ("tiny", "subword")
    assert summary["size"] == json.loads(Path("runs/train/model/config.json").read_text())["size"]


# --- cache


def stamps(cache: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in cache.rglob("ids.bin")}


def test_a_second_run_takes_its_texts_from_the_cache(folder: Path):
    cache = folder / "kept"

    def loss(out: str, *more: str) -> float:
        arguments = ["--out", out, "--cache", cache, "--json", *SHORT, *more]
        return json_of(succeed("train", "train.csv", *arguments))["valid"]["loss"]

    first, written = loss("a"), stamps(cache)
    assert written
    assert loss("b") == first
    assert stamps(cache) == written
    damaged = Path(next(iter(written)))
    damaged.write_bytes(damaged.read_bytes()[:-4])
    assert loss("c") == first
    again = stamps(cache)
    assert {path for path in written if again[path] != written[path]} == {str(damaged)}
    write_rows(folder / "train.csv", 60, seed=9)
    loss("d")
    assert len(stamps(cache)) == 2 * len(written)


def test_the_plan_names_the_cache(folder: Path):
    said = succeed("train", "train.csv", "--cache", "kept", *SHORT).stdout
    assert "cache     kept (numericalized texts; not with --no-cache)" in said
    said = succeed("pretrain", "train.csv", "--no-cache", "--size", "tiny", "--epochs", "1",
                   "--out", "lm").stdout  # fmt: skip
    assert "cache     none" in said
    assert "--cache DIR" in run("pretrain", "--help").stdout


def test_default_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder(None) == tmp_path / "home" / ".cache" / "ulmfit_fast"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder(None) == tmp_path / "home" / ".cache" / "ulmfit_fast"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cache_folder(None) == tmp_path / "cache" / "ulmfit_fast"
    assert cache_folder(None, is_wanted=False) is None
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder(None) is None
    with pytest.raises(InputError, match="cannot be written; give another folder"):
        cache_folder(tmp_path)
