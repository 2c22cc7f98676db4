"""Models with the Hub's methods: round trips, cards, what is refused; nothing goes out."""

from __future__ import annotations

import copy
import json
import shutil
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_runs import train_small
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from small_training import draw_texts, small_config, weights_hash

from ulmfit_fast import ULMFiTTrainer
from ulmfit_fast.model import TextClassifier
from ulmfit_fast.training.checkpoint import FILES
from ulmfit_fast.training.sizes import SIZES, ModelSize

hub = pytest.importorskip("ulmfit_fast.interop.hub")
from huggingface_hub import ModelCard, PyTorchModelHubMixin, hub_mixin  # noqa: E402

from ulmfit_fast.interop.model_card import Card, card_of_run  # noqa: E402

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


def test_a_classifier_comes_back_bit_by_bit(
    trained: ULMFiTTrainer, classifier: Any, folder: Path
) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md", "config.json", "manifest.json", "model.safetensors", "tokenizer.json",
    ]  # fmt: skip
    loaded = hub.TextClassifier.from_pretrained(folder)
    assert isinstance(loaded, PyTorchModelHubMixin)
    assert weights_hash(loaded) == weights_hash(classifier) == weights_hash(trained.classifier)
    assert not loaded.training
    assert all(p.requires_grad and p.device.type == "cpu" for p in loaded.parameters())
    assert loaded.predict(TEXTS) == classifier.predict(TEXTS) == trained.predict(TEXTS)
    assert loaded.labels == ["animal", "tool"]
    assert loaded.predict([]) == []
    assert copy.deepcopy(loaded).predict(TEXTS) == loaded.predict(TEXTS)
    ids = torch.tensor([[2, 5, 6, 7]])
    assert torch.equal(loaded(ids), classifier(ids))


def test_a_language_model_comes_back_bit_by_bit(trained: ULMFiTTrainer, tmp_path: Path) -> None:
    model = hub.LanguageModel.from_trainer(trained)
    model.save_pretrained(tmp_path / "lm")
    loaded = hub.LanguageModel.from_pretrained(tmp_path / "lm")
    assert weights_hash(loaded) == weights_hash(trained.language_model)
    tokens = loaded.next_tokens("the cat is", n=3)
    assert tokens == model.next_tokens("the cat is", n=3)
    assert len(tokens) == 3
    assert sum(p for _, p in loaded.next_tokens("a", n=10**6)) == pytest.approx(1, abs=1e-3)
    card = ModelCard.load(tmp_path / "lm" / "README.md")
    assert card.data.license == "unknown"
    assert "Not stated by who trained it." in card.text
    texts, _ = draw_texts(30)
    assert loaded.to_trainer(device="cpu").finetune_lm(texts).n_tokens > 0


def test_trainer_and_hub_read_each_others_folders(
    trained: ULMFiTTrainer, folder: Path, tmp_path: Path
) -> None:
    trained.save(tmp_path / "ours", "classifier")
    loaded = hub.TextClassifier.from_pretrained(str(tmp_path / "ours"))
    assert loaded.predict(TEXTS) == trained.predict(TEXTS)
    trainer = ULMFiTTrainer.load(folder)
    assert trainer.predict(TEXTS) == trained.predict(TEXTS)
    assert (trainer.config, trainer.labels) == (trained.config, trained.labels)
    mine = loaded.to_trainer(device="cpu")
    assert mine.classifier is loaded
    assert mine.evaluate(TEXTS, LABELS).n == len(TEXTS)


def test_a_copy_of_a_trainers_model_does_not_change_with_it(trained: ULMFiTTrainer) -> None:
    model = hub.TextClassifier.from_trainer(trained)
    expected = model.predict(TEXTS)
    pointers = {p.data_ptr() for p in trained.classifier.parameters()}
    assert not pointers & {p.data_ptr() for p in model.parameters()}
    model.train()
    assert model.predict(TEXTS) == expected
    assert model.training


@pytest.mark.parametrize("name", ["é ß \U0001f600", "a\nb", "x|y", "<b>#*`", "'\": {} --- \t"])
def test_labels_and_facts_of_any_characters_come_back(
    classifier: Any, tmp_path: Path, name: str
) -> None:
    classifier.card = classifier.card.with_facts(name=name, data=name, metrics_on=name)
    classifier.save_pretrained(tmp_path / "m")
    loaded = hub.TextClassifier.from_pretrained(tmp_path / "m")
    assert loaded.card == classifier.card
    card = ModelCard.load(tmp_path / "m" / "README.md")
    assert card.data.eval_results[0].dataset_name == name
    assert card.data.model_name == name


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@example(text="\x85")
@example(text="\xa0")
@example(text="a\u2003")
@given(text=st.text(max_size=30))
def test_a_card_of_any_text_is_read_again(classifier: Any, text: str) -> None:
    facts = {"data": text, "datasets": [text], "metrics": {text: 0.5}, "metrics_on": text}
    card = classifier.generate_model_card(**facts)
    again = ModelCard(str(card))
    assert again.data.datasets == [text]
    assert again.data.eval_results[0].metric_value == 0.5
    assert again.data.license == "mit"


# --- the folder


def test_saving_again_replaces_the_model_and_keeps_the_rest(
    trained: ULMFiTTrainer, folder: Path
) -> None:
    (folder / "README.md").write_text("mine")
    (folder / ".gitattributes").write_text("x")
    other = hub.TextClassifier.from_trainer(trained)
    with torch.no_grad():
        other.head[-1].weight.add_(1)
    other.save_pretrained(folder)
    assert weights_hash(hub.TextClassifier.from_pretrained(folder)) == weights_hash(other)
    assert (folder / "README.md").read_text() == "mine"
    assert (folder / ".gitattributes").read_text() == "x"
    assert len(list(folder.iterdir())) == 6


def test_a_disk_that_refuses_leaves_the_old_model(
    classifier: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def refuse(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("ulmfit_fast.training.checkpoint.save", refuse)
    with pytest.raises(OSError, match="no space left"):
        classifier.save_pretrained(folder)
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}


def test_copying_a_trainers_model_leaves_torchs_generator_alone(trained: ULMFiTTrainer) -> None:
    before = torch.random.get_rng_state()
    hub.TextClassifier.from_trainer(trained)
    hub.LanguageModel.from_trainer(trained)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_chunks_and_head_of_a_loaded_classifier_come_along(
    trained: ULMFiTTrainer, tmp_path: Path
) -> None:
    trained.save(tmp_path / "model")
    other = replace(small_config(precision="bf16"), bptt=5, max_len=5)
    trainer = ULMFiTTrainer.load(tmp_path / "model", config=other)
    assert trainer.classifier is not None
    trainer.classifier = TextClassifier(trainer.classifier.config, 2, 4, 6, hidden_size=7).eval()
    expected = trainer.predict(TEXTS)
    trainer.save(tmp_path / "again")
    assert ULMFiTTrainer.load(tmp_path / "again").predict(TEXTS) == expected
    for model in (
        hub.TextClassifier.from_trainer(trainer),
        hub.TextClassifier.from_pretrained(tmp_path / "again"),
    ):
        assert (model.bptt, model.max_len, model.hidden_size) == (4, 6, 7)
        assert model.predict(TEXTS) == expected
        model.save_pretrained(tmp_path / "hub")
        assert hub.TextClassifier.from_pretrained(tmp_path / "hub").predict(TEXTS) == expected


def test_a_run_on_a_data_set_of_the_hub_names_it() -> None:
    summary = {"source": "hf:owner/reviews:train", "out": "runs/x", "stages": []}
    assert card_of_run(summary, "language_model").datasets == ("owner/reviews",)


def test_a_run_of_the_command_line_loads_with_its_figures(tmp_path: Path) -> None:
    run = train_small(tmp_path)
    loaded = hub.TextClassifier.from_pretrained(run)
    assert loaded.predict(["a good film"])[0].label in ("neg", "pos")
    summary = json.loads((run / "run.json").read_text())
    assert loaded.card.metrics["accuracy"] == summary["valid"]["accuracy"]
    assert loaded.card.metrics_on == f"validation part, {summary['valid']['n']} texts"
    assert str(tmp_path) not in str(loaded.generate_model_card())
    assert "train.csv: 54 labelled texts" in loaded.card.data
    assert loaded.card == hub.TextClassifier.from_pretrained(run / "model").card
    lm = hub.LanguageModel.from_pretrained(run)
    (stage,) = [stage for stage in summary["stages"] if stage["stage"] != "classifier"]
    assert lm.card.metrics["perplexity"] == stage["best"]["perplexity"]
    assert hub.TextClassifier.from_pretrained(run).card.datasets == ()
    copied = shutil.copytree(run / "model", run / "other")
    assert hub.TextClassifier.from_pretrained(copied).card == Card(), "figures of another model"
    assert len(lm.next_tokens("the film")) == 5


def test_the_card_has_metrics_data_and_licence(classifier: Any, folder: Path) -> None:
    card = ModelCard.load(folder / "README.md")
    assert card.data.license == "mit"
    assert card.data.language == ["en"]
    assert card.data.library_name == "ulmfit_fast"
    assert card.data.pipeline_tag == "text-classification"
    assert card.data.datasets == ["owner/nouns"]
    assert card.data.metrics == ["accuracy"]
    assert {"ulmfit", "awd-lstm"} <= set(card.data.tags)
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value) == ("accuracy", 0.875)
    assert (card.data.model_name, result.dataset_name) == ("nouns", "40 drawn sentences")
    for line in ("# nouns", "Sentences on animals and tools.", "| accuracy | 0.8750 |"):
        assert line in card.text
    assert "2: animal, tool" in card.text
    code = card.text.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")
    other = classifier.generate_model_card(license="cc-by-4.0", metrics={})
    assert other.data.license == "cc-by-4.0"
    assert "Not measured." in other.text
    evaluated = classifier.card.with_evaluation(
        classifier.to_trainer(device="cpu").evaluate(TEXTS, LABELS), "these"
    )
    assert set(evaluated.metrics) == {"accuracy", "f1"}


def test_push_to_hub_uploads_the_folder(
    classifier: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sent: dict[str, Any] = {}

    class Api:
        def __init__(self, token: str | None = None) -> None:
            sent["token"] = token

        def create_repo(self, repo_id: str, **_: Any) -> Any:
            return type("Repo", (), {"repo_id": repo_id})

        def upload_folder(self, *, repo_id: str, folder_path: Path, **_: Any) -> str:
            shutil.copytree(folder_path, tmp_path / "sent")
            return f"https://hub/{repo_id}"

    monkeypatch.setattr(hub_mixin, "HfApi", Api)
    url = classifier.push_to_hub("owner/nouns", token="t", model_card_kwargs={"license": "isc"})
    assert (url, sent) == ("https://hub/owner/nouns", {"token": "t"})
    loaded = hub.TextClassifier.from_pretrained(tmp_path / "sent")
    assert weights_hash(loaded) == weights_hash(classifier)
    assert loaded.card.license == "isc"
    shutil.rmtree(tmp_path / "sent")
    url = classifier.save_pretrained(tmp_path / "m", push_to_hub=True, repo_id="owner/b", token="t")
    assert url == "https://hub/owner/b"
    assert (tmp_path / "sent" / "README.md").read_text() == (tmp_path / "m/README.md").read_text()


def test_a_repository_is_downloaded_without_its_other_files(
    folder: Path, classifier: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def download(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        return str(folder)

    monkeypatch.setattr(hub, "snapshot_download", download)
    loaded = hub.TextClassifier.from_pretrained("owner/nouns", revision="v1", token="t")
    assert weights_hash(loaded) == weights_hash(classifier)
    assert (asked["name"], asked["revision"], asked["token"]) == ("owner/nouns", "v1", "t")
    assert set(asked["allow_patterns"]) == {*FILES, "model.safetensors.xz", "manifest.json"}


# --- what is refused
