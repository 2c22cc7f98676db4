"""Mixed precision: which is chosen, what is computed in it, and how training compares."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_training import LIGHT, draw_texts, small_config, train_all, weights_hash
from torch import Tensor, nn

from ulmfit_fast import InputError, TrainConfig, ULMFiTTrainer
from ulmfit_fast.model import AWDLSTMConfig, LanguageModel, TextClassifier
from ulmfit_fast.training import checkpoint, precision
from ulmfit_fast.training.observer import Observer, Step
from ulmfit_fast.training.precision import Precision, choose_precision

CPU, GPU = torch.device("cpu"), torch.device("cuda")
BF16 = Precision("bf16", CPU, "")
# Largest relative difference of the mean loss of 10 steps, bf16 against fp32, over 150 steps of a
# tiny language model: .0036 and .0031 with AMX (2026-11-25). 1 % is the bound for real text, too.
CURVES = 0.01


# --- what is chosen


@pytest.mark.parametrize(
    ("features", "auto"),
    [
        ({"avx512_f": True}, "fp32"),
        ({}, "fp32"),
        ({"avx512_bf16": True}, "bf16"),
        ({"amx_bf16": True, "avx512_bf16": False}, "bf16"),
        ({"amx_bf16": False, "amx_tile": True}, "fp32"),
    ],
)
def test_auto_on_a_processor_is_what_it_multiplies(
    monkeypatch: pytest.MonkeyPatch, features: dict[str, object], auto: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    assert choose_precision("auto", CPU).name == auto
    assert choose_precision("fp32", CPU).name == "fp32"
    asked = choose_precision("bf16", CPU)  # also where it is slow: a model must be usable anywhere
    assert asked.name == "bf16"
    assert ("slow" in asked.why) == (auto == "fp32")


def test_auto_is_fp32_where_torch_cannot_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert choose_precision("auto", CPU).name == "fp32"


@pytest.mark.parametrize(
    ("capability", "auto"), [((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16")]
)
def test_auto_on_a_gpu_is_what_it_multiplies(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], auto: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert choose_precision("auto", GPU).name == auto
    if auto == "fp32":
        why = "compute capability 7.5, bfloat16 begins at 8.0; give auto or fp32"
        with pytest.raises(InputError, match=why):
            choose_precision("bf16", GPU)


@pytest.mark.parametrize("name", ["fp16", "", "BF16"])
def test_a_precision_that_is_none_is_refused_in_one_line(name: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: choose_precision(name, CPU),
        lambda: TrainConfig.preset(precision=name),
    ]
    for call in calls:
        with pytest.raises(InputError, match=f"no precision '{name}': choose one of auto, bf16"):
            call()


# --- what is computed in it


def dtypes_of(model: nn.Module, run: Callable[[], object]) -> dict[str, set[torch.dtype]]:
    """Return the dtypes that modules of each kind return, and that their inputs have."""
    found: dict[str, set[torch.dtype]] = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        result = output[0] if isinstance(output, tuple) else output
        found.setdefault(type(module).__name__, set()).update({inputs[0].dtype, result.dtype})

    hooks = [m.register_forward_hook(note) for m in model.modules() if not list(m.children())]
    run()
    for hook in hooks:
        hook.remove()
    return found


def test_a_classifier_pools_and_decides_in_float32() -> None:
    model = TextClassifier(AWDLSTMConfig(50, 8, 32, 2, dropouts=LIGHT), 2, bptt=5, max_len=10)
    ids, lengths = torch.randint(2, 50, (3, 17)), torch.tensor([17, 12, 4])
    labels = torch.tensor([0, 1, 1])

    def run() -> None:
        with BF16.computing():
            pooled, output = model.encode(ids, lengths)
            parts, logits = model.loss(ids, lengths, labels, 2.0, 1.0)
        assert output.dtype == torch.bfloat16
        assert {x.dtype for x in (pooled, logits, *vars(parts).values())} == {torch.float32}
        torch.autograd.backward(parts.total)

    found = dtypes_of(model, run)
    assert torch.bfloat16 in found.pop("WeightDroppedLSTM")
    assert found.pop("VariationalDropout") <= {torch.bfloat16, torch.float32}
    assert found.pop("EmbeddingDropout") == {torch.int64, torch.float32}
    assert all(dtypes == {torch.float32} for dtypes in found.values()), found
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_classifier_of_another_dtype_still_runs(dtype: torch.dtype) -> None:
    model = TextClassifier(AWDLSTMConfig(50, 8, 32, 2), 2).to(dtype)
    assert model(torch.randint(2, 50, (3, 7))).dtype == dtype


def test_a_language_model_keeps_cell_state_losses_and_gradients_in_float32() -> None:
    model = LanguageModel(AWDLSTMConfig(50, 8, 32, 2, dropouts=LIGHT))
    ids = torch.randint(2, 50, (3, 7))
    with BF16.computing():
        parts, state = model.loss(ids, ids, None, 2.0, 1.0)
    torch.autograd.backward(parts.total)
    assert {h.dtype for h, _ in state} == {torch.bfloat16}
    tensors = [*(c for _, c in state), *vars(parts).values(), *(p.grad for p in model.parameters())]
    assert {x.dtype for x in tensors} == {torch.float32}


def test_an_autocast_around_the_training_has_no_say() -> None:
    config = small_config().with_stage("classifier", epochs=1)
    plain = train_all(config)
    with torch.autocast("cpu", torch.bfloat16):
        inside = train_all(config)
    assert weights_hash(plain.classifier) == weights_hash(inside.classifier)


# --- training in both


class Losses(Observer):
    def __init__(self) -> None:
        self.of: list[float] = []

    def step(self, step: Step) -> None:
        self.of.append(step.loss)


@pytest.mark.parametrize("recipe", ["paper", "fastai"])
def test_loss_curves_of_a_language_model_are_the_same_in_both(recipe: str) -> None:
    texts, _ = draw_texts(240)
    curves = {}
    for name in ("fp32", "bf16"):
        losses = Losses()
        config = small_config(recipe, precision=name).with_stage("pretrain", epochs=4)
        ULMFiTTrainer(config, size="tiny", observers=[losses]).pretrain(texts)
        smooth = torch.tensor(losses.of, dtype=torch.float64).unfold(0, 10, 1).mean(dim=1)
        curves[name] = smooth
    assert len(curves["fp32"]) > 100
    difference = (curves["bf16"] - curves["fp32"]).abs() / curves["fp32"]
    assert 0 < float(difference.max()) < CURVES
    assert float(curves["bf16"][-1]) < 0.7 * float(curves["bf16"][0])


def test_all_stages_in_bf16_learn_and_keep_float32_masters() -> None:
    trained = train_all(small_config("paper", precision="bf16").with_stage("classifier", epochs=8))
    texts, labels = draw_texts(50, seed=2)
    assert trained.evaluate(texts, labels).accuracy > 0.9
    for model in (trained.classifier, trained.language_model):
        assert {p.dtype for p in model.parameters()} == {torch.float32}
    together = trained.predict(texts)
    assert together == trained.predict(texts)
    for text, prediction in zip(texts[:5], together, strict=False):
        alone = trained.predict([text])[0].probabilities
        assert alone == pytest.approx(prediction.probabilities, abs=0.01)


def test_the_same_seed_gives_the_same_weights_in_bf16() -> None:
    config = small_config(precision="bf16", seed=3)
    first, second = train_all(config), train_all(config)
    assert weights_hash(first.classifier) == weights_hash(second.classifier)


# --- saved models


def saved(tmp_path: Path, **settings: object) -> Path:
    texts, labels = draw_texts(40)
    config = small_config(**settings).with_stage("classifier", epochs=1)
    trainer = ULMFiTTrainer(config, size="tiny")
    trainer.train_classifier(texts, labels)
    trainer.save(tmp_path / "m")
    return tmp_path / "m"


def test_a_model_of_before_there_was_a_choice_loads_in_fp32(tmp_path: Path) -> None:
    path = saved(tmp_path)
    config_file = path / "config.json"
    values = json.loads(config_file.read_text())
    del values["train"]["precision"]
    config_file.write_text(json.dumps(values))
    manifest = path / "manifest.json"
    sums = {**json.loads(manifest.read_text()), "config.json": checkpoint.sha256(config_file)}
    manifest.write_text(json.dumps(sums))
    loaded = ULMFiTTrainer.load(path)
    assert loaded.config.precision == loaded.precision.name == "fp32"
    assert loaded.predict(["The cat is old"])


def test_a_model_of_auto_is_decided_anew_where_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path, precision="auto")
    for why_not, name in ((None, "bf16"), ("too old", "fp32")):
        monkeypatch.setattr(precision, "why_no_bf16", lambda _, why_not=why_not: why_not)
        assert ULMFiTTrainer.load(path).precision.name == name
        assert ULMFiTTrainer.load(path, precision="fp32").precision.name == "fp32"
    other = replace(small_config(), precision="bf16")
    assert ULMFiTTrainer.load(path, config=other).precision.name == "bf16"
