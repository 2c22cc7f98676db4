"""Vocabulary transfer: old words keep their rows, new ones get the mean, as in fastai."""

from __future__ import annotations

import pytest
import torch

from ulmfit_fast.model import AWDLSTMConfig, Dropouts, LanguageModel
from ulmfit_fast.training.transfer import classifier_from, transfer_language_model, transfer_rows

OLD = ["xxunk", "xxpad", "the", "cat", "sat", "xxfake"]
NEW = ["xxunk", "xxpad", "dog", "the", "sat", "mat", "xxfake", "xxfake"]


def test_rows_follow_their_words() -> None:
    old = torch.arange(12.0).reshape(6, 2)
    new = transfer_rows(old, OLD, NEW)
    for row, word in enumerate(NEW):
        expected = old[OLD.index(word)] if word in OLD else old.mean(dim=0)
        assert torch.equal(new[row], expected)
    assert new.data_ptr() != old.data_ptr()


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore")
def test_transfer_equals_fastai() -> None:
    pytest.importorskip("fastai", reason="peer: requirements/peers.txt")
    from fastai.text.learner import match_embeds

    model = LanguageModel(AWDLSTMConfig(6, 4, 8, 2))
    torch.nn.init.normal_(model.decoder_bias)
    weight, bias = model.encoder.embedding.weight.detach(), model.decoder_bias.detach()
    state = {
        "0.encoder.weight": weight,
        "0.encoder_dp.emb.weight": weight,
        "1.decoder.weight": weight,
        "1.decoder.bias": bias,
    }
    theirs = match_embeds(dict(state), OLD, NEW)
    ours = transfer_language_model(model, OLD, NEW, Dropouts())
    assert torch.allclose(ours.encoder.embedding.weight, theirs["0.encoder.weight"])
    assert torch.allclose(ours.decoder_bias, theirs["1.decoder.bias"])
    assert torch.equal(ours.encoder.rnns[0].weight_hh_l0, model.encoder.rnns[0].weight_hh_l0)


def test_a_classifier_starts_from_the_language_models_encoder() -> None:
    model = LanguageModel(AWDLSTMConfig(6, 4, 8, 2))
    classifier = classifier_from(model.encoder, 3, Dropouts().scaled(0.1), bptt=7, max_len=21)
    for name, value in model.encoder.state_dict().items():
        assert torch.equal(classifier.encoder.state_dict()[name], value)
    with torch.no_grad():
        classifier.encoder.embedding.weight.zero_()
    assert model.encoder.embedding.weight.abs().max() > 0
    assert (classifier.bptt, classifier.max_len) == (7, 21)
    assert classifier.config.dropouts == Dropouts().scaled(0.1)
