"""Exported ONNX files in onnxruntime: equal to the models, for any batch and length."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import export_models
import numpy as np
import pytest
import torch
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from ulmfit_fast import InputError, LanguageModel, TextClassifier
from ulmfit_fast.chunks import plan_chunks

pytestmark = pytest.mark.peer
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from ulmfit_fast.interop import export_check, onnx_graph  # noqa: E402
from ulmfit_fast.interop.exportable import ExportableClassifier, zero_state  # noqa: E402
from ulmfit_fast.interop.onnx import (  # noqa: E402
    export_onnx,
    load_step,
    read_onnx_description,
    verify_onnx,
)

# Largest difference of a logit, for logits up to 5; found 2e-6 (2026-11-25).
ALLOWED = 1e-5
LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exported")


@pytest.fixture(scope="module")
def classifier(folder: Path) -> tuple[TextClassifier, Path]:
    model = export_models.classifier()
    export_onnx(model, folder / "classifier.onnx")
    return model.eval(), folder / "classifier.onnx"


@pytest.fixture(scope="module")
def language_model(folder: Path) -> tuple[LanguageModel, Path]:
    model = export_models.language_model()
    export_onnx(model, folder / "lm.onnx")
    return model.eval(), folder / "lm.onnx"


def run(path: Path, **inputs: torch.Tensor) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_classifier_is_the_same_for_any_batch_and_length(classifier: Any) -> None:
    model, path = classifier
    step = load_step(path)

    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(lengths=LENGTHS, more=st.integers(0, 9), seed=st.integers(0, 99))
    def check(lengths: list[int], more: int, seed: int) -> None:
        ids, n = export_models.draw_batch(lengths, more, seed)
        with torch.no_grad():
            wanted = model(ids, n)
        assert wanted.abs().max() < 20
        torch.testing.assert_close(step(ids, n), wanted, atol=ALLOWED, rtol=0)

    check()


@pytest.mark.parametrize("max_len", [1, 6, 7, 8, 20, 21])
@pytest.mark.parametrize("bptt", [1, 7, 10])
def test_pooling_begins_where_the_plan_of_chunks_has_it(bptt: int, max_len: int) -> None:
    model = TextClassifier(export_models.CONFIG, 2, bptt, max_len)
    start = ExportableClassifier(model).first_pooled(torch.arange(1, 80)).tolist()
    for n, found in enumerate(start, 1):
        plan = plan_chunks([n], n, bptt, max_len)
        assert found == plan.start[0] + plan.first_kept * bptt, n


def test_a_text_of_1500_tokens_is_the_same(classifier: Any) -> None:
    model, path = classifier
    ids, n = export_models.draw_batch([1500, 1, 700])
    with torch.no_grad():
        torch.testing.assert_close(load_step(path)(ids, n), model(ids, n), atol=ALLOWED, rtol=0)


def test_language_model_is_the_same_and_its_state_passes_on(language_model: Any) -> None:
    model, path = language_model
    step = load_step(path)

    @settings(max_examples=30, deadline=None, derandomize=True)
    @given(pieces=st.lists(st.integers(1, 30), min_size=1, max_size=3), rows=st.integers(1, 4))
    def check(pieces: list[int], rows: int) -> None:
        found = wanted = zero_state(model.encoder, rows)
        for n in pieces:
            ids, _ = export_models.draw_batch([n] * rows, seed=n)
            logits, found = step(ids, found)
            with torch.no_grad():
                expected, wanted = model(ids, wanted)
            torch.testing.assert_close(logits, expected, atol=ALLOWED, rtol=0)
            for pair, other in zip(found, wanted, strict=True):
                torch.testing.assert_close(pair, other, atol=ALLOWED, rtol=0)

    check()


@pytest.mark.parametrize("kind", ["classifier", "language_model"])
def test_graph_has_one_lstm_a_layer_and_only_what_inference_needs(
    kind: str, request: pytest.FixtureRequest
) -> None:
    _, path = request.getfixturevalue(kind)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 18)]
    nodes = model.graph.node
    weights = {tensor.name for tensor in model.graph.initializer}
    lstms = [node for node in nodes if node.op_type == "LSTM"]
    assert len(lstms) == export_models.CONFIG.n_layers
    for lstm in lstms:  # W, R and B stand in the file as the node takes them
        assert set(lstm.input[1:4]) <= weights
        assert bool(lstm.input[4]) == (kind == "classifier")
    ops = {node.op_type for node in nodes}
    assert not {op for op in ops if "Dropout" in op or "Random" in op or op == "Bernoulli"}
    assert {node.domain for node in nodes} == {""}
    dims = [dim.dim_param for dim in model.graph.input[0].type.tensor_type.shape.dim]
    assert dims == ["batch", "length"]
    assert model.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_file_names_nothing_of_this_machine(classifier: Any, language_model: Any) -> None:
    for _, path in (classifier, language_model):
        written = path.read_bytes()
        for place in (str(ROOT), sys.prefix, ".py"):
            assert place.encode() not in written


@pytest.mark.parametrize("kind", ["classifier", "language_model"])
def test_bf16_halves_the_file_and_rounds_nothing_but_weights(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    model, whole = request.getfixturevalue(kind)
    check = export_onnx(model, tmp_path / "small.onnx", precision="bf16")
    assert (tmp_path / "small.onnx").stat().st_size < 0.66 * whole.stat().st_size
    assert check.graph_difference < ALLOWED < 1e-3 < check.max_difference < 0.5
    again = verify_onnx(tmp_path / "small.onnx", model)
    assert again == check


@pytest.mark.parametrize(
    ("kind", "precision"), [("classifier", "fp32"), ("language_model", "bf16")]
)
def test_int8_is_a_quarter_of_the_weights_and_runs_as_such(
    kind: str, precision: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    model, whole = request.getfixturevalue(kind)
    path = tmp_path / "small.onnx"
    check = export_onnx(model, path, precision=precision, quantize=True)
    assert path.stat().st_size < 0.5 * whole.stat().st_size
    ops = [node.op_type for node in onnx.load(path).graph.node]
    assert ops.count("DynamicQuantizeLSTM") == 3
    assert "LSTM" not in ops
    assert "MatMulInteger" in ops  # of the head or the softmax
    assert check.max_probability_difference < export_check.TOLERANCE_INT8
    assert read_onnx_description(path)["int8"] is True


def test_wrong_order_of_gates_is_found_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "old.onnx").write_text("mine")
    monkeypatch.setattr(onnx_graph, "GATES", (0, 1, 2, 3))
    with pytest.raises(InputError, match=r"old\.onnx: not written: a logit differs by"):
        export_onnx(export_models.classifier(), tmp_path / "old.onnx", overwrite=True)
    assert (tmp_path / "old.onnx").read_text() == "mine"
    assert left_in(tmp_path) == ["old.onnx"]


def test_a_model_whose_logits_are_not_finite_is_not_written(tmp_path: Path) -> None:
    model = export_models.classifier()
    with torch.no_grad():
        model.head[2].weight[0, 0] = float("nan")
    with pytest.raises(InputError, match="not written"):
        export_onnx(model, tmp_path / "m.onnx")
    assert left_in(tmp_path) == []


def test_exporting_changes_neither_model_nor_mode(tmp_path: Path) -> None:
    model = export_models.classifier().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    export_onnx(model, tmp_path / "m.onnx", precision="bf16", quantize=True)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("kind", ["word", "subword"])
def test_texts_are_classified_without_torch_as_by_the_trainer(kind: str, tmp_path: Path) -> None:
    trainer = export_models.trainer_with(kind)
    path = tmp_path / "m.onnx"
    check = export_onnx(trainer, path, texts=export_models.TEXTS)
    assert check.n_texts == len(export_models.TEXTS)
    assert left_in(tmp_path) == ["m.onnx", "m.tokenizer.json"]
    about = read_onnx_description(path)
    assert (about["kind"], about["labels"]) == ("classifier", trainer.labels)
    assert (about["bptt"], about["max_len"]) == (export_models.BPTT, export_models.MAX_LEN)
    code = (
        "import sys, runpy\n"
        "sys.modules['torch'] = None\n"  # importing it fails
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    script = ROOT / "examples" / "onnx_predict.py"
    arguments = [sys.executable, "-c", code, script, path, *export_models.TEXTS]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    ran = subprocess.run(arguments, capture_output=True, text=True, check=False, env=environment)
    assert ran.returncode == 0, ran.stderr
    found = [json.loads(line) for line in ran.stdout.splitlines()]
    for line, wanted in zip(found, trainer.predict(export_models.TEXTS), strict=True):
        assert line["label"] == wanted.label
        assert line["probabilities"] == pytest.approx(wanted.probabilities, abs=1e-5)


def test_file_says_what_it_is(tmp_path: Path) -> None:
    trainer = export_models.trainer_with()
    export_onnx(trainer, tmp_path / "lm.onnx", kind="language_model", precision="bf16")
    found = read_onnx_description(tmp_path / "lm.onnx")
    assert found["kind"] == "language_model"
    assert (found["precision"], found["int8"], found["labels"]) == ("bf16", False, [])
    assert found["hidden_sizes"] == [36, 10]
    assert found["tokenizer"] == "lm.tokenizer.json"


def test_bad_input_is_one_line_each(classifier: Any, tmp_path: Path) -> None:
    model, path = classifier
    with pytest.raises(InputError, match="no precision 'fp16' for ONNX: give fp32 or bf16"):
        export_onnx(model, tmp_path / "m.onnx", precision="fp16")
    with pytest.raises(InputError, match=r"give the name of a file that ends in \.onnx"):
        export_onnx(model, tmp_path / "m.pt")
    with pytest.raises(InputError, match="this file exists"):
        export_onnx(model, path)
    with pytest.raises(InputError, match="make it first"):
        export_onnx(model, tmp_path / "no" / "m.onnx")
    with pytest.raises(InputError, match="need a tokenizer"):
        export_onnx(model, tmp_path / "m.onnx", texts=["a"])
    trainer = export_models.trainer_with()
    with pytest.raises(InputError, match="no kind of model 'encoder'"):
        export_onnx(trainer, tmp_path / "m.onnx", kind="encoder")
    trainer.classifier = None
    with pytest.raises(InputError, match="no classifier to export"):
        export_onnx(trainer, tmp_path / "m.onnx", kind="classifier")
    assert left_in(tmp_path) == []


def test_files_of_others_are_refused(classifier: Any, tmp_path: Path) -> None:
    model, path = classifier
    with pytest.raises(InputError, match="made from another model"):
        verify_onnx(path, export_models.language_model())
    with pytest.raises(InputError, match="no such file"):
        verify_onnx(tmp_path / "no.onnx", model)
    (tmp_path / "bad.onnx").write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="onnxruntime cannot load it"):
        verify_onnx(tmp_path / "bad.onnx", model)
    foreign = onnx.load(path)
    foreign.ClearField("metadata_props")
    onnx.save(foreign, tmp_path / "foreign.onnx")
    with pytest.raises(InputError, match="not a file that ulmfit-fast exported"):
        verify_onnx(tmp_path / "foreign.onnx", model)
