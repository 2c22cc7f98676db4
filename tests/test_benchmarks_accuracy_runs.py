"""The driver of the accuracy figures: every task runs, goes on after a stop, and records itself."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accuracy_data import make_data

from benchmarks.accuracy import classify, language_model, record
from benchmarks.accuracy.__main__ import main
from ulmfit_fast.training.resume import Checkpoints

Drive = Callable[..., int]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


def driver(data: Path, folder: Path) -> Drive:
    def drive(*words: str) -> int:
        arguments = [
            *words, "--quick", "--data", str(data), "--work", str(folder / "work"),
            "--results", str(folder / "results"), "--device", "cpu",
        ]  # fmt: skip
        return main(arguments)

    return drive


@pytest.fixture
def drive(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Drive:
    monkeypatch.setattr(record.machine, "copy_rate", lambda _: 1e9)
    return driver(data, tmp_path)


@pytest.fixture(scope="module")
def base(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base from the Wikipedia parts; its folder has the records of prepare and pretrain."""
    folder = tmp_path_factory.mktemp("base")
    drive = driver(data, folder)
    assert drive("prepare", "--parts", "AA") == 0
    assert drive("pretrain", "--parts", "AA", "--seeds", "0") == 0
    return folder / "work" / "bases" / "tiny-quick-forward-seed0"


def records(folder: Path, task: str) -> dict[str, dict[str, Any]]:
    found = {}
    for file in sorted((folder / "results" / task).glob("*.json")):
        entry = record.read(file)
        assert entry is not None
        assert set(record.FIELDS) == entry.keys()
        assert entry["machine"]["cpu"]
        assert "/" not in entry["command"].split("--data ")[1].split()[0]
        found[file.stem] = entry
    return found


def test_pretraining_reads_what_was_prepared_and_is_measured_on_wikitext(base: Path) -> None:
    folder = base.parents[2]
    (entry,) = records(folder, "pretrain").values()
    facts = entry["settings"]["prepared"]
    assert facts["n_excluded_ids"] == 2
    assert facts["train"]["n_articles"] + facts["valid"]["n_articles"] == 30
    metrics = entry["metrics"]
    for part in ("valid", "test"):
        of = metrics[part]
        n_words = of["n_words"] + of["n_eos"]
        assert of["word_perplexity"] == pytest.approx(np.exp(of["nats"] / n_words))
        assert of["word_perplexity"] < of["word_perplexity_without_eos"]
        assert of["n_unk_words"] == 20
        assert of["n_unknown_pieces"] >= 20
    assert (base / "manifest.json").is_file()


def test_a_base_from_elsewhere_is_measured(drive: Drive, base: Path, tmp_path: Path) -> None:
    assert drive("base", "--base", str(base)) == 0
    (entry,) = records(tmp_path, "base").values()
    (pretrained,) = records(base.parents[2], "pretrain").values()
    assert entry["metrics"]["test"] == pytest.approx(pretrained["metrics"]["test"])


def test_a_data_set_with_both_directions(drive: Drive, base: Path, tmp_path: Path) -> None:
    bases = "--base", str(base), "--base-backward", str(base)
    assert drive("imdb", *bases, "--only", "ulmfit") == 0
    found = records(tmp_path, "imdb")
    one, both = (found[f"imdb--{v}--tiny-quick--seed0"] for v in ("ulmfit", "ulmfit-both"))
    metrics = one["metrics"]
    assert metrics["n"] == 40
    assert metrics["n_wrong"] == round(metrics["error"] * 40)
    assert metrics["interval"][0] < metrics["error"] < metrics["interval"][1]
    assert both["metrics"]["forward"]["n_wrong"] == metrics["n_wrong"]
    assert one["settings"]["base"] == both["settings"]["backward"]["base"]
    assert not (tmp_path / "work" / "imdb").is_dir() or not list(
        (tmp_path / "work" / "imdb").iterdir()
    )


def test_without_a_base_the_rest_is_measured(drive: Drive, tmp_path: Path, capfd: Any) -> None:
    assert drive("trec", "--base", "none") == 0
    assert "trec ulmfit: left out: no pretrained model" in capfd.readouterr().err
    names = {entry["variant"] for entry in records(tmp_path, "trec").values()}
    assert names == {"no-pretraining", "from-scratch"}


def test_what_is_there_with_the_same_settings_is_not_measured_again(
    drive: Drive, tmp_path: Path, capfd: Any
) -> None:
    command = "trec", "--base", "none", "--only", "from-scratch"
    assert drive(*command) == 0
    (file,) = (tmp_path / "results" / "trec").glob("*.json")
    first = file.read_text()
    assert drive(*command) == 0
    assert "there" in capfd.readouterr().err
    assert file.read_text() == first
    changed = json.loads(first)
    changed["settings"]["train"]["seed"] = 7
    file.write_text(json.dumps(changed))
    assert drive(*command) == 0
    assert "other settings (train)" in capfd.readouterr().err
    again = json.loads(file.read_text())
    assert again["settings"] == json.loads(first)["settings"]
    assert again["metrics"]["n_wrong"] == json.loads(first)["metrics"]["n_wrong"]
    file.write_text("{")
    assert drive(*command) == 2
    assert "delete it to measure anew" in capfd.readouterr().err


def test_a_stopped_run_goes_on_without_training_its_language_model_again(
    drive: Drive, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = "trec", "--base", "none", "--only", "no-pretraining", "--checkpoint-every", "0"
    stages: list[str] = []
    ended = classify.Epochs.epoch_ended

    def stop(self: Any, stage: str, epoch: int, metrics: dict[str, float]) -> None:
        stages.append(stage)
        if stages == ["pretrain", "classifier"]:
            raise MemoryError("killed here")
        ended(self, stage, epoch, metrics)

    monkeypatch.setattr(classify.Epochs, "epoch_ended", stop)
    with pytest.raises(MemoryError):
        drive(*command)
    assert not records(tmp_path, "trec")
    assert drive(*command) == 0
    assert stages[2:] in (["classifier"], ["classifier", "classifier"])
    whole = tmp_path / "whole"
    assert driver(data, whole)(*command) == 0
    (one,), (other,) = (records(f, "trec").values() for f in (tmp_path, whole))
    assert one["metrics"]["n_wrong"] == other["metrics"]["n_wrong"]
    assert one["metrics"]["valid_error"] == other["metrics"]["valid_error"]


@pytest.mark.parametrize("recipe", ["nt-asgd", "adam", "adam-average"])
def test_a_stopped_language_model_goes_on_bit_for_bit(
    recipe: str, drive: Drive, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(  # averaging begins with the second epoch
        language_model.RECIPES, recipe,
        language_model.replace(language_model.RECIPES[recipe], non_monotone=0),
    )  # fmt: skip
    monkeypatch.setattr(language_model.make_recipe.__globals__["NonMonotone"], "add", averages)
    command = "language-model", "--only", recipe, "--checkpoint-every", "0"
    write, written = Checkpoints.write, list[str]()

    def stop(self: Checkpoints, snapshot: Any, name: str) -> None:
        write(self, snapshot, name)
        written.append(name)
        if len(written) == 20:  # in the second epoch
            raise MemoryError("killed here")

    monkeypatch.setattr(Checkpoints, "write", stop)
    with pytest.raises(MemoryError):
        drive(*command)
    n_before = len(written)
    assert drive(*command) == 0
    n_steps = len(written) - 1
    whole = tmp_path / "whole"
    assert driver(data, whole)(*command) == 0
    assert len(written) - n_steps > n_steps - n_before  # the second time all of it
    found = [
        next(
            entry for name, entry in records(f, "language-model").items() if f"--{recipe}--" in name
        )
        for f in (tmp_path, whole)
    ]
    for name in ("valid_perplexity", "test_perplexity", "averaging_since_epoch"):
        assert found[0]["metrics"][name] == found[1]["metrics"][name]
    losses = [[e["valid_loss"] for e in entry["metrics"]["epochs"]] for entry in found]
    assert losses[0] == losses[1]
    assert found[0]["metrics"]["averaging_since_epoch"] == (None if recipe == "adam" else 1)


def averages(self: Any, loss: float) -> bool:
    """Begin averaging after the first epoch."""
    self.losses.append(loss)
    return True


def test_ablations_and_few_labels(drive: Drive, base: Path, tmp_path: Path) -> None:
    common = "--base", str(base), "--dataset", "trec", "--seeds", "0"
    assert drive("ablations", *common, "--only", "last", "chain-thaw", "lm-none", "vanilla") == 0
    found = {entry["variant"]: entry for entry in records(tmp_path, "ablations").values()}
    assert found.keys() == {"last", "chain-thaw", "lm-none", "vanilla"}
    plans = [entry["metrics"]["plan"] for entry in found.values()]
    assert len({json.dumps(plan) for plan in plans}) == 3  # lm-none and vanilla share one
    assert found["lm-none"]["metrics"]["language_model"] == {}
    train = found["vanilla"]["settings"]["train"]
    assert set(train["language_model"]["dropouts"].values()) == {0.0}
    assert train["classifier"]["dropouts"]["output"] == 0.4
    assert drive("low-shot", *common, "--only", "supervised", "semi") == 0
    shots = {e["variant"]: e for e in records(tmp_path, "low-shot").values()}
    assert shots.keys() == {
        f"{kind}-{n:05d}" for kind in ("supervised", "semi-supervised") for n in (20, 40)
    }
    entry = shots["supervised-00020"]
    assert entry["settings"]["parts"]["train"]["n"] == 20
    assert entry["settings"]["parts"]["valid"]["n"] == 0
    texts = [shots[f"semi-supervised-000{n}"]["settings"]["parts"] for n in (20, 40)]
    assert texts[0]["language_model"] == texts[1]["language_model"]


def test_baselines_learn_the_toy_questions(drive: Drive, tmp_path: Path) -> None:
    only = "--only", "tfidf", "ngrams"
    assert drive("baselines", "--dataset", "imdb", "--seeds", "0", *only) == 0
    found = {
        entry["variant"]: entry["metrics"] for entry in records(tmp_path, "baselines").values()
    }
    assert found["tfidf"]["error"] < 0.1
    assert found["tfidf"]["chosen"]["C"] in (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
    assert len(found["tfidf"]["valid_errors"]) == 7
    assert found["ngrams"]["valid_error"] <= 0.5
    for metrics in found.values():
        assert metrics["predict_ms_a_text"] > 0


@pytest.mark.peer
def test_fastai_has_our_budget(drive: Drive, tmp_path: Path) -> None:
    pytest.importorskip("fastai")
    assert drive("baselines", "--dataset", "trec", "--seeds", "0", "--only", "fastai") == 0
    (entry,) = records(tmp_path, "baselines").values()
    assert entry["metrics"]["n"] == 40
    assert entry["settings"]["preset"]["lm_epochs"] == 1


def test_sentence_embeddings_from_a_folder(drive: Drive, tmp_path: Path, capfd: Any) -> None:
    folder = sentence_model(tmp_path / "model")
    command = "baselines", "--dataset", "imdb", "--seeds", "0", "--only", "sentences"
    assert drive(*command) == 0
    assert "give --sentence-model FOLDER" in capfd.readouterr().err
    assert drive(*command, "--sentence-model", str(folder)) == 0
    (entry,) = records(tmp_path, "baselines").values()
    assert entry["metrics"]["error"] < 0.3
    assert drive(*command, "--sentence-model", str(tmp_path)) == 2
    assert "has no model.onnx" in capfd.readouterr().err


def sentence_model(folder: Path) -> Path:
    """Write an encoder of one-hot words that are known, in ONNX, and its tokenizer."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    tokenizers = pytest.importorskip("tokenizers")
    words = {"[UNK]": 0, "awful": 1, "boring": 2, "waste": 3, "great": 4, "lovely": 5, "joy": 6}
    folder.mkdir()
    pipeline = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    pipeline.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    pipeline.save(str(folder / "tokenizer.json"))
    table = onnx.numpy_helper.from_array(np.eye(7, dtype=np.float32), "table")
    ids, hidden = (
        onnx.helper.make_tensor_value_info(name, kind, shape)
        for name, kind, shape in (
            ("input_ids", onnx.TensorProto.INT64, ["B", "T"]),
            ("last_hidden_state", onnx.TensorProto.FLOAT, ["B", "T", 7]),
        )
    )
    node = onnx.helper.make_node("Gather", ["table", "input_ids"], ["last_hidden_state"])
    graph = onnx.helper.make_graph([node], "encoder", [ids], [hidden], [table])
    opset = onnx.helper.make_opsetid("", 17)
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8), folder / "model.onnx"
    )
    return folder


def test_list_says_what_is_there(drive: Drive, capfd: Any) -> None:
    assert drive("trec", "--base", "none", "--only", "from-scratch") == 0
    assert drive("list", "trec", "--base", "none") == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines] == ["-", "there"]
    assert drive("list", "nothing") == 2


def test_the_package_also_stands_beside_the_flat_benchmarks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = Path(record.machine.ROOT) / "benchmarks"
    monkeypatch.syspath_prepend(folder)
    module = __import__("accuracy.published", fromlist=["published"])
    assert module.TEST_ERROR["trec"] == 3.6
    for name in [name for name in sys.modules if name.partition(".")[0] == "accuracy"]:
        del sys.modules[name]
