"""Carry a language model over to another vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ulmfit_fast.model import AWDLSTM, Dropouts, LanguageModel, TextClassifier


def transfer_rows(old: Tensor, old_vocab: Sequence[str], new_vocab: Sequence[str]) -> Tensor:
    """Build a table for a new vocabulary.

    Args:
        old: one row for each old token; shape [V, ...].
        old_vocab: V tokens.
        new_vocab: W tokens.

    Returns:
        new: a token's old row where it had one, else the mean of all old rows; shape [W, ...].

    Source: Howard, Ruder 2018; fastai's match_embeds.
    """
    row_of = {token: row for row, token in reversed(list(enumerate(old_vocab)))}
    rows = torch.tensor([row_of.get(token, -1) for token in new_vocab], device=old.device)
    new = old[rows.clamp(min=0)].clone()
    new[rows < 0] = old.mean(dim=0)
    return new


def transfer_language_model(
    model: LanguageModel, old_vocab: Sequence[str], new_vocab: Sequence[str], dropouts: Dropouts
) -> LanguageModel:
    """Return a language model for a new vocabulary, on the same device.

    Args:
        model: trained with old_vocab.
        old_vocab: its tokens.
        new_vocab: tokens of the new model.
        dropouts: of the new model.
    """
    config = replace(model.config, vocab_size=len(new_vocab), dropouts=dropouts)
    state = dict(model.state_dict())
    for name in ("encoder.embedding.weight", "decoder_bias"):
        state[name] = transfer_rows(state[name], old_vocab, new_vocab)
    new = LanguageModel(config).to(model.decoder_bias.device)
    new.load_state_dict(state)
    return new


def classifier_from(
    encoder: AWDLSTM, n_classes: int, dropouts: Dropouts, *, bptt: int, max_len: int
) -> TextClassifier:
    """Return a classifier with a copy of an encoder and a fresh head, on the same device.

    Args:
        encoder: of a language model, or of another classifier.
        n_classes: C.
        dropouts: of the classifier.
        bptt: tokens of a chunk.
        max_len: tokens at a document's end that are pooled.
    """
    config = encoder.config.with_dropouts(dropouts)
    classifier = TextClassifier(config, n_classes, bptt=bptt, max_len=max_len)
    classifier.encoder.load_state_dict(encoder.state_dict())
    return classifier.to(encoder.embedding.weight.device)
