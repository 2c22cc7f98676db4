"""Folders of the Hub that are damaged, hostile or no model: one line each."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_training import draw_texts, small_config

from ulmfit_fast import InputError, ULMFiTTrainer
from ulmfit_fast.training.checkpoint import FILES, sha256
from ulmfit_fast.training.sizes import SIZES, ModelSize

hub = pytest.importorskip("ulmfit_fast.interop.hub")

pytestmark = pytest.mark.peer
TEXTS, LABELS = draw_texts(40)
FACTS = {
    "name": "nouns",
    "license": "mit",
    "language": "en",
    "datasets": ["owner/nouns"],
    "data": "Sentences on animals and tools.",
    "metrics": {"accuracy": 0.875},
    "metrics_on": "40 drawn sentences",
}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("something goes out")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def trained() -> Iterator[ULMFiTTrainer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "tiny", ModelSize(16, 24, 2, 0.1))
        trainer = ULMFiTTrainer(small_config(precision="bf16"), size="tiny")
        trainer.pretrain(TEXTS)
        trainer.train_classifier(TEXTS, LABELS)
        yield trainer


@pytest.fixture
def classifier(trained: ULMFiTTrainer) -> Any:
    return hub.TextClassifier.from_trainer(trained, **FACTS)


@pytest.fixture
def folder(classifier: Any, tmp_path: Path) -> Path:
    classifier.save_pretrained(tmp_path / "m")
    return tmp_path / "m"


# --- round trips


def reseal(folder: Path) -> None:
    """Make the manifest fit, as who tampers with a model would."""
    (folder / "manifest.json").write_text(json.dumps({n: sha256(folder / n) for n in FILES}))


def edit_config(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        values = json.loads((folder / "config.json").read_text())
        change(values)
        (folder / "config.json").write_text(json.dumps(values))
        reseal(folder)

    return edit


def edit_tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")
        reseal(folder)

    return edit


def write(name: str, content: bytes, *, sealed: bool = False) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        (folder / name).write_bytes(content)
        if sealed:
            reseal(folder)

    return edit


HEAD, W_HH = "head.6.weight", "encoder.rnns.0.weight_hh_l0"
DAMAGE = {
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json is missing"),
    "no config": (lambda f: (f / "config.json").unlink(), "it has no config.json"),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "manifest.json is missing"),
    "cut": (lambda f: os.truncate(f / "model.safetensors", 99), "damaged"),
    "pickle": (write("model.safetensors", b"\x80\x04cos\nsystem\n.", sealed=True), "not readable"),
    "no json": (write("config.json", b"{"), "not valid JSON"),
    "a list": (write("config.json", b"[]"), "expected a JSON object"),
    "of others": (write("config.json", b'{"model_type": "bert"}'), "not a model of ulmfit_fast"),
    "tokenizer": (write("tokenizer.json", b"{}", sealed=True), "not a tokenizer"),
    "kind": (edit_config(lambda c: c.update(kind="language_model")), "holds a language model"),
    "no kind": (edit_config(lambda c: c.pop("kind")), "holds a None, not a classifier"),
    "no sizes": (edit_config(lambda c: c.pop("model")), "config.json has no 'model'"),
    "no settings": (edit_config(lambda c: c.pop("train")), "config.json has no 'train'"),
    "odd settings": (edit_config(lambda c: c.update(train=5)), "config.json cannot be used"),
    "odd size": (edit_config(lambda c: c.update(size=[])), "config.json cannot be used"),
    "a width": (edit_config(lambda c: c["model"].update(hidden_size=32)), "expected"),
    "a text": (edit_config(lambda c: c["model"].update(hidden_size="24")), "a whole number"),
    "negative": (edit_config(lambda c: c["model"].update(embed_size=-1)), "a whole number"),
    "huge": (edit_config(lambda c: c["model"].update(hidden_size=10**9)), "a whole number"),
    "large": (edit_config(lambda c: c["model"].update(hidden_size=10**7)), "expected"),
    "odd dropout": (
        edit_config(lambda c: c["model"]["dropouts"].update(hidden="x")),
        "config.json",
    ),
    "vocabulary": (
        edit_config(lambda c: c["model"].update(vocab_size=800)),
        "the tokenizer has",
    ),
    "layers": (edit_config(lambda c: c["model"].update(n_layers=10**6)), "2 LSTM layers"),
    "more labels": (edit_config(lambda c: c["labels"].append("x")), HEAD),
    "no labels": (edit_config(lambda c: c.update(labels=[])), "0 labels for a classifier"),
    "one label": (edit_config(lambda c: c.update(labels=["x"])), "1 labels for a classifier"),
    "same labels": (edit_config(lambda c: c.update(labels=["x", "x"])), "same label twice"),
    "odd labels": (edit_config(lambda c: c.update(labels="ab")), "no list of names as labels"),
    "odd card": (edit_config(lambda c: c.update(card=[])), "unusable card"),
    "unknown fact": (edit_config(lambda c: c["card"].update(x=1)), "a model card has no 'x'"),
    "odd fact": (edit_config(lambda c: c["card"].update(license=1)), "license is 1"),
    "no tensor": (edit_tensors(lambda t: t.pop(HEAD)), f"no tensor '{HEAD}'"),
    "a tensor": (edit_tensors(lambda t: t.update(x=torch.ones(1))), "an unknown tensor 'x'"),
    "a shape": (edit_tensors(lambda t: t.update({W_HH: torch.ones(3)})), W_HH),
    "a dtype": (edit_tensors(lambda t: t.update({W_HH: t[W_HH].double()})), "torch.float64"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_folder_is_refused_in_one_line(name: str, folder: Path) -> None:
    damage, message = DAMAGE[name]
    damage(folder)
    with pytest.raises(InputError) as raised:
        hub.TextClassifier.from_pretrained(folder)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert str(folder) in str(raised.value) or "card" in str(raised.value)


def test_what_is_no_model_is_refused(
    classifier: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    load, save = hub.TextClassifier.from_pretrained, classifier.save_pretrained
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    calls: dict[str, Callable[[], object]] = {
        "holds a classifier, not a language model": lambda: hub.LanguageModel.from_pretrained(
            folder
        ),
        "nowhere: no such folder; give": lambda: load("nowhere"),
        "no such folder": lambda: load(tmp_path / "gone"),
        "not to be had from the Hub": lambda: load("owner/gone", local_files_only=True),
        "not a model directory": lambda: load(tmp_path / "file"),
        "no device 'abacus'": lambda: load(folder, device="abacus"),
        "is not of a model of ulmfit_fast": lambda: save(tmp_path / "bert"),
        "a file has this name": lambda: save(tmp_path / "file"),
        "config must be None": lambda: save(tmp_path / "x", config={}),
        "a model card has no 'licence'": lambda: save(
            tmp_path / "x", model_card_kwargs={"licence": "mit"}
        ),
        "texts is one text": lambda: classifier.predict("a text"),
        "the trainer has no classifier": lambda: hub.TextClassifier.from_trainer(
            ULMFiTTrainer(small_config(), size="tiny")
        ),
    }
    for message, call in calls.items():
        with pytest.raises(InputError, match=message) as raised:
            call()
        assert "\n" not in str(raised.value)
    assert not (tmp_path / "x").exists()
    assert list((tmp_path / "bert").iterdir()) == [tmp_path / "bert" / "config.json"]
