"""Nats of every token of a text, in the order of the text; nothing is left out."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ulmfit_fast.model import EncoderState, LanguageModel
from ulmfit_fast.training.precision import Precision

#: Rows of logits that exist at a time.
ROWS = 1024


def token_nats(
    model: LanguageModel, ids: np.ndarray, precision: Precision, *, streams: int, bptt: int = 70
) -> Tensor:
    """Return the cross-entropy of every token but the first, given those before it.

    The text is cut into streams that run side by side; each begins with the token before its own
    and a state of zeros, so with one stream every token is seen with all of its past.

    Args:
        model: put into evaluation mode.
        ids: of the text; shape [N].
        precision: to compute in.
        streams: how many.
        bptt: tokens of a step.

    Returns:
        nats: float32 on the CPU; shape [N - 1].
    """
    model.eval()
    device = model.decoder_bias.device
    n = len(ids) - 1
    streams = min(streams, n)
    length = -(-n // streams)
    padded = np.full(streams * length + 1, ids[-1], dtype=np.int64)
    padded[: n + 1] = ids
    flat = torch.from_numpy(padded)
    inputs, targets = (flat[i : i + streams * length].view(streams, length) for i in (0, 1))
    state: EncoderState | None = None
    found = []
    with torch.no_grad(), precision.computing():
        for at in range(0, length, bptt):
            x, y = (part[:, at : at + bptt].to(device) for part in (inputs, targets))
            output, state = model.encoder(x, state)  # [T, B, E]
            nats = _nats(model, output.transpose(0, 1).flatten(0, 1), y.flatten())
            found.append(nats.view(streams, -1).cpu())
    return torch.cat(found, dim=1).flatten()[:n]


def _nats(model: LanguageModel, hidden: Tensor, targets: Tensor) -> Tensor:
    weight, bias = (
        p.to(hidden.dtype) for p in (model.encoder.embedding.weight, model.decoder_bias)
    )
    rows = zip(torch.split(hidden, ROWS), torch.split(targets, ROWS), strict=True)
    return torch.cat(
        [
            nn.functional.cross_entropy(
                nn.functional.linear(h, weight, bias).float(), wanted, reduction="none"
            )
            for h, wanted in rows
        ]
    )
