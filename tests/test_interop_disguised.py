"""Files and learners of fastai that pass for others: hidden names, heads left off, other heads."""

from __future__ import annotations

import io
from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fastai_files import V1, E, H, old_classifier, old_language_model, vocab_of

from ulmfit_fast import InputError, ULMFiTTrainer
from ulmfit_fast.interop.layouts import from_fastai
from ulmfit_fast.interop.weights import read_weights


def test_attributes_that_a_file_sets_do_not_hide_its_tensors() -> None:
    state = old_language_model("v1")

    class Hiding:
        def __reduce__(self) -> tuple[Any, ...]:
            return OrderedDict, (), {"items": 1, "get": 1, "keys": 1}, None, iter(state.items())

    buffer = io.BytesIO()
    torch.save(Hiding(), buffer)
    assert read_weights(buffer.getvalue(), "lm.pth").keys() == state.keys()


def test_a_classifier_without_its_head_is_no_language_model() -> None:
    state = {k: t for k, t in old_classifier("v1").items() if k.startswith("0.")}
    with pytest.raises(InputError, match="without its head"):
        from_fastai(state, "c.pth")


@pytest.mark.peer
@pytest.mark.parametrize("y_range", [None, (0, 1)])
def test_a_head_that_pools_all_is_taken_and_a_regression_is_not(
    y_range: tuple[int, int] | None,
) -> None:
    models = pytest.importorskip("fastai.text.models")
    config = {**models.awdlstm.awd_lstm_clas_config, "emb_sz": E, "n_hid": H, "n_layers": 2}
    vocab = vocab_of(V1)
    model = models.get_text_classifier(
        models.AWD_LSTM, len(vocab), 2, config=config, max_len=None, y_range=y_range
    )
    dls = SimpleNamespace(vocab=(vocab, ["n", "p"]))
    classifier = SimpleNamespace(model=model, dls=dls, loss_func=torch.nn.CrossEntropyLoss())
    if y_range is not None:
        with pytest.raises(InputError, match="y_range"):
            ULMFiTTrainer.from_fastai(classifier)
        return
    trainer = ULMFiTTrainer.from_fastai(classifier)
    assert trainer.classifier is not None
    ids = torch.randint(2, len(vocab), (1, 300))
    expected = model.eval()(ids)[0]
    assert torch.allclose(trainer.classifier(ids), expected, atol=1e-6)
