"""The models that are in the package: there, whole, small enough, and trained."""

from __future__ import annotations

import fnmatch
import json
import random
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from conftest import ROOT

from ulmfit_fast import ULMFiTTrainer, pretrained
from ulmfit_fast.commands.base import default_base
from ulmfit_fast.interop.model_folder import read_folder

FOLDER = pretrained.folder("english")
LARGEST_BYTES = 16 * 2**20
TEXT = (
    "The river rises in the hills to the north of the town and flows through a wide valley before "
    "it reaches the sea. In the early years of the century a railway was built along its banks, "
    "and the villages there became known for their mills and their markets."
)
NOT_ENGLISH = [
    "Der Fluss entspringt in den Hügeln nördlich der Stadt und fließt durch ein weites Tal.",
    "Les habitants souhaitaient depuis longtemps que la mairie reconstruise leur bibliothèque.",
    "Il fiume nasce nelle colline a nord della città e attraversa una valle molto larga.",
    "Река берёт начало на холмах к северу от города и течёт по широкой долине к морю.",
    "2026-11-25T12:07:31Z host7 sshd[1021]: Failed password for adm3 from 10.0.3.21 port 40211",
]


@pytest.fixture(scope="module")
def trainer() -> ULMFiTTrainer:
    return ULMFiTTrainer.load("english", device="cpu", precision="fp32")


def nats(trainer: ULMFiTTrainer, text: str) -> float:
    """Return the mean loss of a token of a text."""
    assert trainer.language_model is not None
    assert trainer.tokenizer is not None
    ids = torch.from_numpy(trainer.tokenizer.encode([text])[0]).long()
    with torch.no_grad():
        logits, _ = trainer.language_model(ids[:-1].unsqueeze(0))
    return float(torch.nn.functional.cross_entropy(logits[0], ids[1:]))


def test_the_model_is_there_and_small_enough() -> None:
    assert pretrained.names() == ["english"]
    assert sorted(file.name for file in FOLDER.iterdir()) == [
        "MODEL_CARD.md", "config.json", "manifest.json", "model.safetensors.xz", "tokenizer.json",
    ]  # fmt: skip
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < LARGEST_BYTES


def test_every_file_of_it_is_installed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = settings["tool"]["setuptools"]["package-data"]["ulmfit_fast"]
    for file in FOLDER.iterdir():
        name = file.relative_to(ROOT / "ulmfit_fast").as_posix()
        assert any(fnmatch.fnmatch(name, pattern) for pattern in patterns), name


def test_it_has_learnt_english(trainer: ULMFiTTrainer) -> None:
    """An untrained model needs 9.7 nats, the logarithm of its pieces."""
    words = TEXT.split()
    random.Random(0).shuffle(words)
    assert nats(trainer, TEXT) < 5.0
    assert nats(trainer, TEXT) < nats(trainer, " ".join(words)) - 0.5


def test_its_card_says_what_it_is(trainer: ULMFiTTrainer) -> None:
    card = (FOLDER / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "<" not in card.replace("](<", ""), "a figure was not filled in"
    assert trainer.tokenizer is not None
    n_pieces = f"{len(trainer.tokenizer.vocab):,}"
    for expected in ("CC BY-SA 3.0", "Wikipedia", n_pieces, "perplexity"):
        assert expected in card
    records = sorted((ROOT / "benchmarks" / "results" / "accuracy").glob("english--*.json"))
    record = json.loads(records[-1].read_text())
    assert f"| {record['packed']['perplexity']:.2f} |" in card.replace("perplexity a token ", "")
    assert "english/MODEL_CARD.md" in (ROOT / "NOTICE").read_text()


def test_english_texts_take_it_and_others_do_not() -> None:
    chosen = default_base([TEXT])
    assert chosen.base is not None
    assert chosen.base.name == "english"
    for text in NOT_ENGLISH:
        assert default_base([text]).base is None, text


def test_importing_the_package_does_not_look_for_it() -> None:
    code = "import sys, ulmfit_fast; assert 'ulmfit_fast.pretrained' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_names_stand_for_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert pretrained.folder_of("english") == FOLDER
    assert pretrained.folder_of("./english") == FOLDER
    assert pretrained.folder_of("runs/english") == Path("runs/english")
    assert pretrained.name_of(FOLDER) == "english"
    assert pretrained.name_of(Path("general")) == "general"
    assert read_folder(Path("english"), "language_model")[1]["packing"] == "int8"
    (tmp_path / "english").mkdir()
    assert pretrained.folder_of("english") == Path("english")
