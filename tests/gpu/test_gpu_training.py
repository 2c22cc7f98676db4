"""Training on a GPU: all stages run, no step waits for the device, models move to the CPU."""

from __future__ import annotations

import pytest
import torch
from conftest import no_waiting

from ulmfit_fast.model import AWDLSTMConfig, LanguageModel, TextClassifier
from ulmfit_fast.optim import LayerwiseAdamW, layer_param_groups
from ulmfit_fast.training.config import TrainConfig
from ulmfit_fast.training.trainer import ULMFiTTrainer

pytestmark = pytest.mark.gpu

CONFIG = AWDLSTMConfig(500, embed_size=64, hidden_size=96, n_layers=3)


def take_step(total: torch.Tensor, optimizer: LayerwiseAdamW) -> None:
    torch.autograd.backward(total)
    optimizer.step()
    optimizer.zero_grad()


def make_optimizer(model: LanguageModel | TextClassifier) -> LayerwiseAdamW:
    undecayed = model.undecayed_parameters()
    groups = layer_param_groups(model.layer_groups(), lr=1e-3, undecayed=undecayed)
    return LayerwiseAdamW(groups, betas=(0.8, 0.99), eps=1e-5, max_grad_norm=0.3)


def test_a_language_model_step_waits_for_nothing(device: torch.device) -> None:
    model = LanguageModel(CONFIG).to(device)
    optimizer = make_optimizer(model)
    ids = torch.randint(2, 500, (8, 21), device=device)

    def step(state):
        parts, state = model.loss(ids[:, :-1], ids[:, 1:], state, 2.0, 1.0)
        take_step(parts.total, optimizer)
        return state

    state = step(None)  # the first step allocates
    with no_waiting():
        step(state)
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_classifier_step_waits_for_nothing(device: torch.device) -> None:
    model = TextClassifier(CONFIG, 3, bptt=16, max_len=32).to(device)
    optimizer = make_optimizer(model)
    ids = torch.randint(2, 500, (6, 50), device=device)
    lengths = torch.tensor([50, 3, 17, 33, 16, 1])
    labels = torch.tensor([0, 1, 2, 0, 1, 2], device=device)

    def step() -> None:
        take_step(model.loss(ids, lengths, labels, 2.0, 1.0)[0].total, optimizer)

    step()
    with no_waiting():
        step()
    assert all(p.isfinite().all() for p in model.parameters())


def test_models_agree_on_both_devices(device: torch.device) -> None:
    model = LanguageModel(CONFIG).eval()
    ids = torch.randint(2, 500, (4, 30))
    expected = model(ids)[0]
    found = model.to(device)(ids.to(device))[0]
    assert torch.allclose(found.cpu(), expected, atol=1e-4)


def test_all_stages_run_and_the_model_answers_on_the_cpu(device: torch.device, tmp_path) -> None:
    texts = [f"the {noun} is {k} years old" for noun in ("cat", "saw") for k in range(60)]
    labels = ["animal"] * 60 + ["tool"] * 60
    config = TrainConfig.preset("paper", min_freq=1).with_stage("classifier", epochs=6)
    config = config.with_stage("pretrain", epochs=2, batch_size=8)
    trainer = ULMFiTTrainer(config, size="tiny", device=str(device))
    trainer.pretrain(texts)
    trainer.finetune_lm(texts)
    trainer.train_classifier(texts, labels, texts, labels)
    trainer.save(tmp_path / "model")
    on_cpu = ULMFiTTrainer.load(tmp_path / "model", device="cpu")
    expected = [p.label for p in trainer.predict(texts)]
    assert [p.label for p in on_cpu.predict(texts)] == expected
