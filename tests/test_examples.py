"""The examples run as they are given to users: as programs, here with less to do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

EXAMPLES = ROOT / "examples"
FEWER = ["--texts", "30", "--epochs", "1"]
RUNS = {
    "csv_to_predictions": (FEWER, " because of: "),
    "table_of_texts": (FEWER, "texts; accuracy "),
    "own_language": (["--epochs", "1", "--max-vocab", "200"], "epoch 1: perplexity "),
    "only_the_lstm": (["--steps", "2"], "nn.LSTM with the same weights differs by at most "),
    "only_the_optimizer": (["--epochs", "40"], "test accuracy with the averaged weights "),
    "sklearn_grid_search": (FEWER, "accuracy of the saved one: "),
    "hub_round_trip": (FEWER, "gives the same probabilities, to the last bit."),
}
LIBRARY = {"sklearn_grid_search": "sklearn", "hub_round_trip": "huggingface_hub"}


def run(name: str, *arguments: str, folder: Path) -> str:
    """Run an example in an empty folder, without network, and return what it says."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment |= {"HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "error::DeprecationWarning:__main__"}
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments]
    ran = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.parametrize("name", RUNS)
def test_example_runs_and_leaves_nothing(name: str, tmp_path: Path) -> None:
    if name in LIBRARY:
        pytest.importorskip(LIBRARY[name])
    arguments, expected = RUNS[name]
    assert expected in run(name, *arguments, folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_own_language_takes_a_file_and_saves_a_base(tmp_path: Path) -> None:
    from ulmfit_fast import ULMFiTTrainer

    lines = [f"mi vidas {n} katojn kaj {n + 1} hundojn en la ĝardeno" for n in range(60)]
    (tmp_path / "texts.txt").write_text("\n".join(lines), encoding="utf-8")
    said = run(
        "own_language", "texts.txt", "--epochs", "1", "--max-vocab", "64", "--out", "base",
        folder=tmp_path,
    )  # fmt: skip
    assert "next: ulmfit-fast train FILE --base base" in said
    trainer = ULMFiTTrainer.load(tmp_path / "base")
    assert trainer.language_model is not None
    assert trainer.tokenizer_kind == "subword"


def test_every_example_is_short_listed_and_run() -> None:
    listed = (EXAMPLES / "README.md").read_text()
    for path in EXAMPLES.glob("*.py"):
        assert path.name in listed, f"examples/README.md does not name {path.name}"
    for name in RUNS:
        n_lines = len((EXAMPLES / f"{name}.py").read_text().splitlines())
        assert n_lines < 60, f"{name}.py has {n_lines} lines"
