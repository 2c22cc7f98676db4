"""The tied decoder and its loss as one op, for a language model in a fastai Learner."""

from __future__ import annotations

from typing import Any

from fastai.losses import CrossEntropyLossFlat
from fastai.text.models.core import LinearDecoder
from torch import Tensor

from ulmfit_fast import functional
from ulmfit_fast.errors import InputError


class FusedDecoder(LinearDecoder):  # type: ignore[misc]
    """fastai's LinearDecoder that in training leaves the logits to FusedCrossEntropy.

    Args:
        decoder: whose linear layer and dropout become this one's.

    Shape: x [B, T, E] -> logits [B, T, V] in eval(), else dropped x [B, T, E]; x; dropped x.
    """

    def __init__(self, decoder: LinearDecoder) -> None:
        self.decoder = decoder.decoder
        self.output_dp = decoder.output_dp

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Drop features, and make logits in eval(); see the class for shapes."""
        if not self.training:
            logits: tuple[Tensor, Tensor, Tensor] = super().forward(x)
            return logits
        dropped = self.output_dp(x)
        return dropped, x, dropped


class FusedCrossEntropy(CrossEntropyLossFlat):  # type: ignore[misc]
    """CrossEntropyLossFlat that in training takes what a FusedDecoder returns for logits.

    Args:
        decoder: whose weight and bias make the logits, and whose mode says what pred is.
        loss: whose ignore_index, label_smoothing and reduction are taken over.
    """

    def __init__(self, decoder: FusedDecoder, loss: CrossEntropyLossFlat) -> None:
        func = loss.func
        super().__init__(
            axis=-1,
            ignore_index=func.ignore_index,
            label_smoothing=func.label_smoothing,
            reduction=func.reduction,
        )
        self.fused_decoder = decoder

    def __call__(self, pred: Tensor, targets: Tensor, **kwargs: Any) -> Tensor:
        """Return the loss of pred [B, T, E] in training, else [B, T, V], and targets [B, T]."""
        if not self.fused_decoder.training:
            plain: Tensor = super().__call__(pred, targets, **kwargs)
            return plain
        linear = self.fused_decoder.decoder
        return functional.linear_cross_entropy(
            pred.flatten(0, -2),
            linear.weight,
            linear.bias,
            targets.flatten(),
            self.func.ignore_index,
            self.func.label_smoothing,
            self.func.reduction,
        )


def fuse_loss(learn: Any) -> Any:
    """Have a language model's Learner make its loss without its logits, in training only.

    The loss and every gradient stay what they are; validation and predictions have logits. A metric
    of training batches would get features instead of logits: there can be none.

    Args:
        learn: from fastai's language_model_learner.

    Returns:
        learn: the same one.

    Raises:
        InputError: another model than a language model, another loss than CrossEntropyLossFlat or
            one with class weights, or metrics of training batches.
    """
    decoder = learn.model[1]
    if type(decoder) is not LinearDecoder:
        what = f"fuse_loss: expected a language model with a LinearDecoder, found {type(decoder)}"
        raise InputError(f"{what}; give it what language_model_learner returned, once")
    loss = learn.loss_func
    if type(loss) is not CrossEntropyLossFlat or loss.func.weight is not None or loss.axis != -1:
        raise InputError(
            f"fuse_loss: expected CrossEntropyLossFlat without weights as the loss, found {loss!r}"
        )
    if getattr(getattr(learn, "recorder", None), "train_metrics", False):
        raise InputError("fuse_loss: no metrics of training batches; set train_metrics=False")
    learn.model[1] = FusedDecoder(decoder)
    learn.loss_func = FusedCrossEntropy(learn.model[1], loss)
    return learn
