"""fastai scripts with one changed import: every step of ULMFiT, files, bfloat16, the fused loss."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("fastai")
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.tracker import EarlyStoppingCallback, SaveModelCallback
from fastai.callback.training import GradientAccumulation, GradientClip
from fastai.interpret import ClassificationInterpretation, Interpretation
from fastai.learner import load_learner
from fastai.losses import CrossEntropyLossFlat, LabelSmoothingCrossEntropyFlat
from fastai.metrics import Perplexity, accuracy
from fastai.optimizer import Adam
from fastai.text.models.awdlstm import AWD_LSTM as FASTAI_AWD_LSTM
from fastai_models import (
    classifier_data,
    classifier_learner,
    language_data,
    language_learner,
    seed_everything,
    without_dropout,
)

from ulmfit_fast.errors import InputError
from ulmfit_fast.interop.fastai import AWD_LSTM, LayerwiseAdamW, fuse_loss

pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def language_dls() -> Any:
    return language_data()


@pytest.fixture(scope="module")
def classifier_dls(language_dls: Any) -> Any:
    return classifier_data(language_dls.vocab)


@pytest.fixture(params=[Adam, LayerwiseAdamW], ids=["Adam", "LayerwiseAdamW"])
def opt_func(request: pytest.FixtureRequest) -> Any:
    return request.param


# The script


def test_all_of_ulmfit_runs(opt_func: Any, language_dls: Any, tmp_path: Path) -> None:
    seed_everything(0)
    options: dict[str, Any] = {"drop_mult": 0.3, "opt_func": opt_func}
    lm = language_learner(
        AWD_LSTM, language_dls, tmp_path, metrics=[accuracy, Perplexity()], **options
    )
    before = lm.validate()[0]
    lm.fit_one_cycle(1, 2e-2, moms=(0.8, 0.7, 0.8), wd=0.1, cbs=GradientClip(0.3))
    lm.fine_tune(2, 2e-2, cbs=[SaveModelCallback(), EarlyStoppingCallback(patience=3)])
    assert lm.validate()[0] < 0.9 * before
    assert lm.lr_find(show_plot=False, num_it=12).valley > 0
    assert lm.predict("The cat is", n_words=3, no_bar=True).startswith("The cat is")
    lm.show_results(max_n=2)
    lm.save_encoder("encoder")

    # Enough texts to learn the nouns from: fastai's own AWD_LSTM needs them, too.
    dls = classifier_data(language_dls.vocab, 320)
    learn = classifier_learner(AWD_LSTM, dls, tmp_path, metrics=accuracy, **options)
    learn.load_encoder("encoder")
    learn.fit_one_cycle(1, 5e-2)
    learn.freeze_to(-2)
    learn.fit_one_cycle(1, slice(2e-2 / 2.6**4, 2e-2), cbs=GradientAccumulation(16))
    learn.unfreeze()
    learn.fit_one_cycle(5, 2e-2)
    assert learn.validate()[1] > 0.9
    # Not show_results: that of a fastai 2.8 classifier raises under plum 2.9, whatever the model.
    preds, targets = learn.get_preds()
    assert preds.shape == (80, 2)
    assert float((preds.argmax(1) == targets).float().mean()) > 0.9
    label, _, chances = learn.predict("The cat is big and the dog is not")
    assert (label, list(chances.shape)) == ("animal", [2])
    assert ClassificationInterpretation.from_learner(learn).confusion_matrix().sum() == 80
    assert len(Interpretation.from_learner(learn).top_losses(3)[0]) == 3
    learn.export("learner.pkl")
    loaded = load_learner(tmp_path / "learner.pkl")
    loaded.remove_cbs([cb for cb in loaded.cbs if cb.name == "progress"])
    again = loaded.predict("The cat is big and the dog is not")
    torch.testing.assert_close(again[2], chances)


def test_frozen_layers_stay_and_the_others_move(
    opt_func: Any, classifier_dls: Any, tmp_path: Path
) -> None:
    learn = classifier_learner(AWD_LSTM, classifier_dls, tmp_path, opt_func=opt_func)
    learn.freeze_to(-2)
    before = {name: p.detach().clone() for name, p in learn.model.named_parameters()}
    learn.fit(1, 1e-2)
    moved = {n for n, p in learn.model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {n for n in before if n.startswith(("0.module.rnns.1", "1."))}


@pytest.mark.parametrize(
    ("first", "second"), [(FASTAI_AWD_LSTM, AWD_LSTM), (AWD_LSTM, FASTAI_AWD_LSTM)]
)
def test_files_of_a_learner_go_both_ways(
    first: Any, second: Any, language_dls: Any, classifier_dls: Any, tmp_path: Path
) -> None:
    optimizers = {FASTAI_AWD_LSTM: Adam, AWD_LSTM: LayerwiseAdamW}
    source, target = (
        language_learner(arch, language_dls, tmp_path, opt_func=optimizers[arch])
        for arch in (first, second)
    )
    source.fit(1, 1e-2)
    source.save("whole")
    target.load("whole", with_opt=True)
    torch.testing.assert_close(
        target.get_preds(reorder=False)[0], source.get_preds(reorder=False)[0], rtol=1e-5, atol=1e-6
    )
    one, other = source.opt.state_dict(), target.opt.state_dict()
    assert [dict(h) for h in one["hypers"]] == [dict(h) for h in other["hypers"]]
    for kept, loaded in zip(one["state"], other["state"], strict=True):
        assert loaded["step"] == kept["step"]
        assert torch.equal(loaded["sqr_avg"], kept["sqr_avg"])
    source.save_encoder("encoder")
    classifier = classifier_learner(second, classifier_dls, tmp_path).load_encoder("encoder")
    expected = source.model[0].state_dict()
    found = classifier.model[0].module.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


# Training


def losses(arch: Any, seed: int, n_steps: int, path: Path) -> list[float]:
    """Return the losses of training batches, with fastai's dropouts."""
    dls = language_data(200, batch_size=8)
    batches = list(dls.train)
    seed_everything(seed)
    opt_func = LayerwiseAdamW if arch is AWD_LSTM else Adam
    learn = language_learner(arch, dls, path, opt_func=opt_func)
    learn.create_opt()
    learn.opt.set_hypers(lr=1e-2)
    learn.training = True
    learn.model.train()
    learn.model.reset()
    found = []
    learn.remove_cbs([cb for cb in learn.cbs if cb.name in ("recorder", "train_eval")])
    for i in range(n_steps):
        learn.one_batch(i, batches[i % len(batches)])
        found.append(float(learn.loss))
    return found


def test_a_loss_curve_is_within_the_noise_of_fastais(tmp_path: Path) -> None:
    curves = {
        arch: torch.tensor([losses(arch, seed, 100, tmp_path) for seed in range(4)]).double()
        for arch in (FASTAI_AWD_LSTM, AWD_LSTM)
    }
    means = {arch: curve.unfold(1, 20, 20).mean(2) for arch, curve in curves.items()}  # [seeds, 5]
    theirs, ours = means[FASTAI_AWD_LSTM], means[AWD_LSTM]
    assert bool((theirs[:, -1] < 0.8 * theirs[:, 0]).all())
    noise = ((theirs.var(0) + ours.var(0)) / 4).sqrt() + 0.005
    assert float(((ours.mean(0) - theirs.mean(0)).abs() / noise).max()) < 4


def test_without_dropout_the_losses_are_fastais(tmp_path: Path) -> None:
    curves = []
    for arch in (FASTAI_AWD_LSTM, AWD_LSTM):
        learn = language_learner(arch, language_data(batch_size=8), tmp_path)
        batches = list(language_data(batch_size=8).valid)
        seed_everything(0)
        for p in learn.model.parameters():
            torch.nn.init.uniform_(p, -0.2, 0.2)
        learn.opt_func = LayerwiseAdamW if arch is AWD_LSTM else Adam
        learn.create_opt()
        learn.opt.set_hypers(lr=1e-3)
        learn.training = True
        learn.model.train()
        learn.model.reset()
        learn.remove_cbs([cb for cb in learn.cbs if cb.name in ("recorder", "train_eval")])
        with without_dropout(learn.model):
            found = []
            for i in range(12):
                learn.one_batch(i, batches[i % len(batches)])
                found.append(float(learn.loss))
        curves.append(torch.tensor(found))
    torch.testing.assert_close(curves[1], curves[0], rtol=2e-5, atol=0)


# bfloat16 on the CPU


def dtype_of_logits(learn: Any) -> torch.dtype:
    found = []
    hook = learn.model[1].register_forward_hook(lambda _, __, out: found.append(out[0].dtype))
    learn.fit(1, 1e-3)
    hook.remove()
    (dtype,) = set(found)
    return dtype


def test_to_bf16_computes_in_bfloat16_on_a_cpu(language_dls: Any, tmp_path: Path) -> None:
    learn = language_learner(AWD_LSTM, language_dls, tmp_path).to_bf16()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        assert dtype_of_logits(learn) == torch.bfloat16
    assert all(p.dtype == torch.float32 for p in learn.model.parameters())
    assert not torch.is_autocast_enabled("cpu")
    learn.get_preds(reorder=False)  # fastai's reordering is not meant for streams
    learn.to_fp32()
    assert dtype_of_logits(learn) == torch.float32


def test_fastais_own_models_and_float16_keep_what_fastai_does(
    language_dls: Any, tmp_path: Path
) -> None:
    learn = language_learner(FASTAI_AWD_LSTM, language_dls, tmp_path).to_bf16()
    assert dtype_of_logits(learn) == torch.float32
    learn = language_learner(AWD_LSTM, language_dls, tmp_path)
    assert dtype_of_logits(learn.add_cb(MixedPrecision("fp16"))) == torch.float32


def test_bfloat16_trains_as_well(language_dls: Any, tmp_path: Path) -> None:
    found = []
    for to_precision in ("to_fp32", "to_bf16"):
        seed_everything(0)
        learn = language_learner(AWD_LSTM, language_dls, tmp_path, drop_mult=0.2)
        getattr(learn, to_precision)()
        learn.fit_one_cycle(3, 2e-2)
        found.append(learn.validate()[0])
    assert found[1] == pytest.approx(found[0], rel=0.05)


# The fused loss


def one_step(learn: Any, batch: Any) -> dict[str, Any]:
    """Return the loss and every gradient of a training batch."""
    seed_everything(1)
    learn.opt = None
    learn.create_opt()
    learn.opt.step = learn.opt.zero_grad = lambda: None
    learn.training = True
    learn.model.train()
    learn.model.reset()
    learn.model.zero_grad()
    learn.one_batch(0, batch)
    grads = {name: p.grad.clone() for name, p in learn.model.named_parameters()}
    return {"loss": learn.loss, **grads}


@pytest.fixture
def bare_learner(language_dls: Any, tmp_path: Path) -> Iterator[Any]:
    learn = language_learner(AWD_LSTM, language_dls, tmp_path)
    learn.remove_cbs([cb for cb in learn.cbs if cb.name in ("recorder", "train_eval")])
    return learn


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_fused_loss_is_the_loss_and_its_gradients(bare_learner: Any, smoothing: float) -> None:
    learn = bare_learner
    learn.loss_func = CrossEntropyLossFlat(label_smoothing=smoothing)
    batch = learn.dls.train.one_batch()
    expected = one_step(learn, batch)
    found = one_step(fuse_loss(learn), batch)
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value.as_subclass(torch.Tensor), rtol=1e-4, atol=1e-6
        )


def test_fused_loss_leaves_validation_and_predictions_alone(
    language_dls: Any, tmp_path: Path
) -> None:
    learn = language_learner(
        AWD_LSTM, language_dls, tmp_path, metrics=[accuracy, Perplexity()], opt_func=LayerwiseAdamW
    )
    names, expected = (
        list(learn.model.state_dict()),
        (learn.validate(), learn.get_preds(reorder=False)[0]),
    )
    assert fuse_loss(learn) is learn
    assert list(learn.model.state_dict()) == names
    assert list(learn.validate()) == pytest.approx(list(expected[0]))
    assert torch.equal(learn.get_preds(reorder=False)[0], expected[1])
    learn.to_bf16().fit_one_cycle(2, 2e-2)
    assert learn.validate()[0] < 0.9 * expected[0][0]
    learn.export("fused.pkl")
    loaded = load_learner(tmp_path / "fused.pkl")
    assert loaded.loss_func.fused_decoder is loaded.model[1]
    loaded.remove_cbs([cb for cb in loaded.cbs if cb.name == "progress"])
    assert loaded.predict("The cat", n_words=2, no_bar=True).startswith("The cat")


def test_fused_loss_makes_no_logits_in_training(language_dls: Any, tmp_path: Path) -> None:
    learn = fuse_loss(language_learner(AWD_LSTM, language_dls, tmp_path))
    calls = []
    learn.model[1].decoder.register_forward_hook(lambda module, *_: calls.append(learn.training))
    learn.fit(1, 1e-3)
    assert calls
    assert not any(calls)


def test_fused_loss_is_refused_where_it_would_change_something(
    language_dls: Any, classifier_dls: Any, tmp_path: Path
) -> None:
    classifier = classifier_learner(AWD_LSTM, classifier_dls, tmp_path)
    with pytest.raises(InputError, match="expected a language model"):
        fuse_loss(classifier)
    learn = language_learner(AWD_LSTM, language_dls, tmp_path)
    for loss in (
        LabelSmoothingCrossEntropyFlat(),
        CrossEntropyLossFlat(weight=torch.ones(len(language_dls.vocab))),
    ):
        learn.loss_func = loss
        with pytest.raises(InputError, match="expected CrossEntropyLossFlat without weights"):
            fuse_loss(learn)
    learn.loss_func = CrossEntropyLossFlat()
    learn.recorder.train_metrics = True
    with pytest.raises(InputError, match="train_metrics=False"):
        fuse_loss(learn)
    learn.recorder.train_metrics = False
    fuse_loss(learn)
    with pytest.raises(InputError, match="once"):
        fuse_loss(learn)


def test_clipping_goes_into_the_optimizer(language_dls: Any, tmp_path: Path) -> None:
    opt_func = partial(LayerwiseAdamW, max_grad_norm=0.1)
    learn = language_learner(AWD_LSTM, language_dls, tmp_path, opt_func=opt_func)
    learn.fit(1, 1e-3)
    assert float(learn.opt.last_grad_norm) > 0
    assert int(learn.opt.skipped_steps) == 0
