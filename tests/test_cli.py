"""The command line: every verb on small data, and every input that a user can get wrong."""

import csv
import io
import json
import random
from pathlib import Path

import pytest
import torch
from cli_runs import (
    FILLING,
    SHORT,
    SHORT_FROM_BASE,
    files_under,
    json_of,
    run,
    succeed,
    write_rows,
)

from ulmfit_fast import cli
from ulmfit_fast.errors import InputError, TrainingError
from ulmfit_fast.training.trainer import ULMFiTTrainer


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty working directory with train.csv and test.csv."""
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "train.csv", 60)
    write_rows(tmp_path / "test.csv", 20, seed=1)
    return tmp_path


# --- first contact


def test_version():
    assert succeed("--version").stdout.strip() == f"ulmfit-fast, version {cli.__version__}"


# --- train


def test_train_says_what_it_chose_and_writes_the_run(folder: Path):
    extra = [("", "pos"), ("no label for this one", "")]
    write_rows(folder / "train.csv", 60, extra=extra)
    output = succeed("train", "train.csv", "--test", "test.csv", *SHORT).stdout
    for expected in (
        "train.csv: 60 labelled rows; text from 'review', label from 'label'",
        "classes   2: neg 30, pos 30",
        "1 text without a label",
        "validate  6 rows (10% of each class held out)",
        "test      20 rows of test.csv",
        "skipped   1 row, listed in runs/train/skipped.csv",
        "train.csv, row 62, column 'review': empty text",
        "tiny (--size), word tokens",
        "2 epochs over 54 texts",
        "on the texts of test.csv\n",
        "for always answering",
        "next      ulmfit-fast predict runs/train FILE",
    ):
        assert expected in output
    written = set(files_under(folder / "runs" / "train"))
    assert written == {"metrics.jsonl", "run.json", "skipped.csv"} | {
        f"{kind}/{name}"
        for kind in ("model", "language_model")
        for name in ("config.json", "manifest.json", "model.safetensors", "tokenizer.json")
    }
    lines = Path("runs/train/metrics.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    assert {event["stage"] for event in events} == {"pretrain", "classifier"}
    skipped = list(csv.reader(io.StringIO(Path("runs/train/skipped.csv").read_text())))
    assert skipped == [
        ["file", "row", "column", "reason"],
        ["train.csv", "62", "review", "empty text"],
    ]


def test_one_seed_gives_one_number(folder: Path):
    def losses(out: str, seed: str) -> tuple[float, float]:
        arguments = ["--test", "test.csv", "--out", out, "--seed", seed, "--json", *SHORT]
        summary = json_of(succeed("train", "train.csv", *arguments))
        return summary["test"]["loss"], summary["stages"][0]["best"]["valid_loss"]

    first = losses("a", "3")
    assert losses("b", "3") == first
    assert losses("c", "4") != first


def test_json_is_the_only_standard_output_and_stands_in_run_json(folder: Path):
    result = succeed("train", "train.csv", "--json", *SHORT)
    summary = json_of(result)
    assert summary == json.loads(Path("runs/train/run.json").read_text())
    assert summary["data"]["classes"] == {"neg": 30, "pos": 30}
    assert summary["data"]["n_valid"] == 6
    assert summary["config"]["classifier"]["epochs"] == 2


def test_all_sources_of_text_together(folder: Path):
    write_rows(folder / "valid.csv", 10, seed=2)
    shared = next(csv.DictReader((folder / "test.csv").open()))["review"]
    general = [f"general sentence number {i} about nothing in particular" for i in range(60)]
    (folder / "general.txt").write_text("\n".join([*general, shared]) + "\n")
    (folder / "more.txt").write_text(f"a further film with a story\n{shared}\n")
    result = succeed(
        "train", "train.csv", "--valid", "valid.csv", "--test", "test.csv",
        "--general", "general.txt", "--general-epochs", "1", "--unlabelled", "more.txt",
        "--tokenizer", "subword", "--preset", "paper", *SHORT,
    )  # fmt: skip
    assert "validate  10 rows (valid.csv)" in result.stdout
    assert "1 text without a label" in result.stdout
    assert "1 unlabelled texts were left out because validation or test has them" in result.stderr
    assert "1 general texts were left out" in result.stderr
    assert "stage 1/3 language model, general text: " in result.stdout
    assert "stage 2/3 language model, your texts: " in result.stdout
    assert "stage 3/3 classifier: " in result.stdout
    facts = json_of(succeed("info", "runs/train", "--json"))
    assert (facts["tokenizer"], facts["recipe"]) == ("subword", "paper")


def test_pretrained_model_is_the_base_of_the_next_run(folder: Path):
    lines = [f"{' '.join(random.Random(i).sample(FILLING, 9))} {i}" for i in range(80)]
    (folder / "corpus.txt").write_text("\n".join(lines) + "\n")
    said = succeed("pretrain", "corpus.txt", "--size", "tiny", "--epochs", "1").stdout
    assert "76 documents, and 4 held out" in said
    assert "next      ulmfit-fast train FILE --base runs/corpus" in said
    assert json_of(succeed("info", "runs/corpus", "--json"))["kind"] == "language model"
    said = succeed("train", "train.csv", "--base", "runs/corpus", *SHORT_FROM_BASE).stdout
    assert "model     tiny (as in runs/corpus/language_model), word tokens" in said
    assert "recipe    paper (keeps what a pretrained model knows; for a small one " in said
    assert "stage 1/2 language model, your texts: " in said
    assert "general text" not in said
    said = succeed("train", "train.csv", *SHORT, "--out", "runs/my file").stdout
    assert "next      ulmfit-fast predict 'runs/my file' FILE\n" in said


def test_leaks_and_repeats_are_reported(folder: Path):
    with (folder / "test.csv").open() as file:
        text = next(csv.DictReader(file))["review"]
    extra = [(text, "pos"), (text, "neg"), ("a lonely text", "rare")]
    write_rows(folder / "train.csv", 60, extra=extra)
    stderr = succeed("train", "train.csv", "--test", "test.csv", *SHORT).stderr
    assert (
        "warning: 1 of 20 test texts stand in the training part too (rows 2 of test.csv)" in stderr
    )
    assert "warning: 1 rows of train.csv repeat the text of a row before them" in stderr
    assert "1 of them with another label, first rows 62 and 63" in stderr
    assert "warning: class 'rare' has a single row (train.csv, row 64)" in stderr


# --- the output folder


def test_existing_folder_is_refused_and_replaced_only_when_whole(folder: Path):
    succeed("train", "train.csv", "--out", "out", *SHORT)
    before = files_under(folder / "out")
    refused = run("train", "train.csv", "--out", "out", *SHORT)
    assert refused.exit_code == 2
    assert "out: this folder exists" in refused.stderr
    failed = run("train", "missing.csv", "--out", "out", "--overwrite", *SHORT)
    assert failed.exit_code == 2
    assert files_under(folder / "out") == before
    succeed("train", "train.csv", "--out", "out", "--overwrite", "--seed", "5", *SHORT)
    assert files_under(folder / "out") != before
    assert sorted(path.name for path in folder.iterdir()) == ["out", "test.csv", "train.csv"]


@pytest.mark.parametrize("arguments", [["--overwrite"], []])
def test_overwrite_spares_folders_that_are_not_runs(folder: Path, arguments: list[str]):
    (folder / "photos").mkdir()
    (folder / "photos" / "a.jpg").write_bytes(b"x")
    result = run("train", "train.csv", "--out", "photos", *arguments, *SHORT)
    assert result.exit_code == 2
    assert (folder / "photos" / "a.jpg").read_bytes() == b"x"


def interrupt_in(monkeypatch: pytest.MonkeyPatch, method: str, error: BaseException) -> None:
    def stop(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(ULMFiTTrainer, method, stop)


def test_interrupt_before_a_model_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch):
    before = files_under(folder)
    interrupt_in(monkeypatch, "pretrain", KeyboardInterrupt())
    result = run("train", "train.csv", *SHORT)
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == "stopped"
    assert files_under(folder) == before


def test_interrupt_keeps_the_language_model(folder: Path, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        interrupt_in(patch, "train_classifier", KeyboardInterrupt())
        result = run("train", "train.csv", *SHORT)
    assert result.exit_code == 130
    assert "kept what was finished: runs/train.unfinished" in result.stderr
    again = run("train", "train.csv", *SHORT)
    assert again.exit_code == 2
    assert "train.unfinished: left by a run that was stopped" in again.stderr
    succeed(
        "train", "train.csv", "--out", "next", "--base", "runs/train.unfinished", *SHORT_FROM_BASE
    )


def test_training_that_cannot_go_on_is_one_line_and_status_1(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    interrupt_in(monkeypatch, "pretrain", TrainingError("stage pretrain, step 3: the loss is nan"))
    result = run("train", "train.csv", *SHORT)
    assert result.exit_code == 1
    assert result.stderr == "error: stage pretrain, step 3: the loss is nan\n"
    debugged = run("train", "train.csv", "--debug", *SHORT)
    assert "Traceback" in debugged.stderr
    assert debugged.exit_code == 1


def test_a_full_gpu_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch):
    interrupt_in(monkeypatch, "pretrain", torch.OutOfMemoryError("CUDA out of memory. Tried ..."))
    before = files_under(folder)
    result = run("train", "train.csv", *SHORT)
    assert result.exit_code == 2
    assert result.stderr.startswith(
        "error: the memory of the GPU is full: train with a smaller --b"
    )
    assert result.stderr.count("\n") == 1
    assert files_under(folder) == before
    assert "Traceback" in run("train", "train.csv", "--debug", *SHORT).stderr


def test_other_runtime_errors_are_not_hidden(folder: Path, monkeypatch: pytest.MonkeyPatch):
    interrupt_in(monkeypatch, "pretrain", RuntimeError("a defect"))
    with pytest.raises(RuntimeError, match="a defect"):
        run("train", "train.csv", *SHORT)


def test_a_device_without_kernels_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(name: str | None) -> None:
        raise InputError(f"no kernels for {name}: give device cpu")

    monkeypatch.setattr("ulmfit_fast.commands.choices.choose_device", refuse)
    result = run("train", "train.csv", "--device", "cuda", *SHORT)
    assert result.exit_code == 2
    assert result.stderr == "error: no kernels for cuda: give device cpu\n"
