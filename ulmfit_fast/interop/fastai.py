"""fastai's AWD_LSTM and Adam over our kernels, behind an unchanged fastai script.

    from fastai.text.all import *
    from ulmfit_fast.interop.fastai import AWD_LSTM, LayerwiseAdamW

    learn = language_model_learner(dls, AWD_LSTM, opt_func=LayerwiseAdamW)

Importing this registers AWD_LSTM beside fastai's own, with its dropouts, splits and pretrained
weights, and lets Learner.to_bf16 work on a CPU for learners of this AWD_LSTM.
"""

from __future__ import annotations

from typing import Any

from torch import nn

try:
    from fastai.text.models import awdlstm
    from fastai.text.models.core import _model_meta
except ImportError as error:
    raise ImportError(
        f'fastai cannot be imported ({error}): pip install "ulmfit_fast[fastai]"'
    ) from error

from ulmfit_fast.errors import InputError
from ulmfit_fast.interop.fastai_layers import (
    EmbeddingDropout,
    RNNDropout,
    WeightDropout,
    check_chances,
)
from ulmfit_fast.interop.fastai_loss import fuse_loss
from ulmfit_fast.interop.fastai_optim import LayerwiseAdamW
from ulmfit_fast.interop.fastai_precision import enable_bf16_on_cpu

__all__ = [
    "AWD_LSTM",
    "EmbeddingDropout",
    "LayerwiseAdamW",
    "RNNDropout",
    "WeightDropout",
    "fuse_loss",
]


class AWD_LSTM(awdlstm.AWD_LSTM):  # type: ignore[misc]  # noqa: N801
    """fastai's AWD_LSTM with our layers: the same arguments, parameters, names, order and state.

    State dicts go both ways; the same seed draws the same parameters. Unlike fastai's it survives
    deepcopy.

    Args (pad_token and all after it have fastai's defaults):
        vocab_sz: rows of the embedding, V.
        emb_sz: columns of the embedding and width of the last layer, E.
        n_hid: width of the other layers, H.
        n_layers: LSTM layers.
        pad_token: id of the padding token.
        hidden_p: chance that a feature between two layers is zero.
        input_p: chance that a feature of the embedded text is zero.
        embed_p: chance that a word is zero.
        weight_p: chance that an entry of a recurrent matrix is zero.
        bidir: whether each layer also runs backwards, each direction half as wide.

    Shape: ids [B, T], int64 or int32, or [B, T, E] with from_embeds -> output of the last layer
        [B, T, E].
    Raises: InputError for a size below 1, a chance outside [0, 1), or odd sizes with bidir.
    Source: Merity, Keskar, Socher 2017, arXiv:1708.02182; fastai 2.8.
    """

    encoder_dp: Any
    input_dp: Any
    hidden_dps: Any

    def __init__(
        self,
        vocab_sz: int,
        emb_sz: int,
        n_hid: int,
        n_layers: int,
        pad_token: int = 1,
        *chances: Any,
        **options: Any,
    ) -> None:
        sizes = {"vocab_sz": vocab_sz, "emb_sz": emb_sz, "n_hid": n_hid, "n_layers": n_layers}
        _check_sizes(sizes)
        super().__init__(*sizes.values(), pad_token, *chances, **options)
        if self.n_dir == 2:
            _check_even({"emb_sz": emb_sz, "n_hid": n_hid})
        p = {"embed_p": self.encoder_dp.embed_p, "input_p": self.input_dp.p}
        p["hidden_p"] = self.hidden_dps[0].p
        check_chances(p)
        self.encoder_dp = EmbeddingDropout(self.encoder, p["embed_p"])
        self.input_dp = RNNDropout(p["input_p"])
        self.hidden_dps = nn.ModuleList(RNNDropout(p["hidden_p"]) for _ in range(n_layers))

    def _one_rnn(
        self, n_in: int, n_out: int, bidir: bool, weight_p: float, layer: int
    ) -> WeightDropout:
        """Return a layer; its parameters are drawn as nn.LSTM draws them."""
        return WeightDropout(
            nn.LSTM(n_in, n_out, 1, batch_first=True, bidirectional=bidir), weight_p
        )


def _check_sizes(sizes: dict[str, int]) -> None:
    """Raise InputError naming the first size below 1."""
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise InputError(f"{name}: expected an integer of at least 1, found {size!r}")


def _check_even(sizes: dict[str, int]) -> None:
    """Raise InputError naming the first size that two directions cannot share."""
    for name, size in sizes.items():
        if size % 2:
            what = f"{name}: expected an even number with bidir, found {size}"
            raise InputError(f"{what}: each direction has half of it")


def _register(meta: dict[Any, dict[str, Any]]) -> None:
    """Make AWD_LSTM an architecture that fastai's factories of learners know."""
    meta[AWD_LSTM] = {**meta[awdlstm.AWD_LSTM]}


_register(_model_meta)
enable_bf16_on_cpu(AWD_LSTM)
