"""fastai's layers of the AWD-LSTM over our kernels: its arguments, parameter names and shapes.

Sizes: T time steps, B batch rows, I input features, H hidden units, D directions, E embedding size.
Tensors are batch first, as in fastai, and views of what runs time first inside.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ulmfit_fast import functional
from ulmfit_fast.errors import InputError
from ulmfit_fast.functional import State


def check_chances(chances: dict[str, float]) -> None:
    """Raise InputError naming the first chance that is not in [0, 1)."""
    for name, p in chances.items():
        if not 0.0 <= p < 1.0:
            what = f"{name}: expected a chance in [0, 1), found {p:g}"
            raise InputError(f"{what}; lower it in the config, or drop_mult")


class RNNDropout(nn.Module):
    """Dropout with one draw per row and feature, the same at every step.

    Args:
        p: chance that a feature of a row is zero at every step, in [0, 1). Off in eval().

    Shape: x [B, T, ...] -> [B, T, ...].
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        check_chances({"p": p})
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Drop features of x; see the class for shapes."""
        if not self.training or self.p == 0:
            return x
        seed = functional.draw_seeds(1, x.device)
        rows = x.flatten(2).transpose(0, 1)  # [T, B, E]
        dropped = functional.variational_dropout(rows, self.p, seed)
        return dropped.transpose(0, 1).reshape(x.shape)

    def extra_repr(self) -> str:
        """Name the chance in repr()."""
        return f"p={self.p}"


class EmbeddingDropout(nn.Module):
    """Look-up in an embedding with whole words dropped, one draw per word and call.

    Args:
        emb: the table, [V, E]. Its padding_idx is kept; max_norm, scale_grad_by_freq and sparse are
            not offered.
        embed_p: chance that a word is zero in a whole call, in [0, 1). Off in eval().

    Shape: words [B, T] or [*], int64 or int32 -> [B, T, E] or [*, E].
    Raises: InputError for an embedding with one of those options.
    """

    def __init__(self, emb: nn.Embedding, embed_p: float) -> None:
        super().__init__()
        check_chances({"embed_p": embed_p})
        for name, off in (("max_norm", None), ("scale_grad_by_freq", False), ("sparse", False)):
            if getattr(emb, name) != off:
                raise InputError(f"emb: {name} is not offered; make the nn.Embedding without it")
        self.emb = emb
        self.embed_p = embed_p

    def forward(self, words: Tensor, scale: float | None = None) -> Tensor:
        """Look words up, and multiply what was found by scale."""
        drop_p = self.embed_p if self.training else 0.0
        table = self.emb.weight
        seed = functional.draw_seeds(1, table.device) if drop_p > 0 else None
        is_batch = words.dim() == 2
        ids = words.t() if is_batch else words
        if ids.dtype == torch.int32:  # torch's look-up takes them, ours does not
            ids = ids.long()
        found = functional.embedding_dropout(ids, table, drop_p, seed, self.emb.padding_idx)
        if is_batch:
            found = found.transpose(0, 1)
        return found * scale if scale else found

    def extra_repr(self) -> str:
        """Name the chance in repr()."""
        return f"embed_p={self.embed_p}"


class LSTMParameters(nn.Module):
    """Parameters of a layer under nn.LSTM's names, in its order; it computes nothing."""

    def __init__(self, parameters: dict[str, nn.Parameter]) -> None:
        super().__init__()
        for name, parameter in parameters.items():
            self.register_parameter(name, parameter)


class WeightDropout(nn.Module):
    """One LSTM layer whose recurrent weights are dropped once per call.

    As in fastai only the forward direction's are; there is no second copy of them.

    Args:
        lstm: a layer with batch_first; its parameters become this module's.
        weight_p: chance that an entry of weight_hh_l0 is zero for a whole call, in [0, 1).

    Shape: x [B, T, I], state (h, c) each [D, B, H] -> y [B, T, D H], state.
    Parameters: weight_hh_l0_raw [4H, H]; in module the others of nn.LSTM under their names.
    Numbers: those of WeightDroppedLSTM; under autocast y and h are of its dtype, c is float32.
    """

    def __init__(self, lstm: nn.LSTM, weight_p: float) -> None:
        super().__init__()
        check_chances({"weight_p": weight_p})
        self.weight_p = weight_p
        self.n_directions = 2 if lstm.bidirectional else 1
        parameters = dict(lstm.named_parameters())
        self.weight_hh_l0_raw = parameters.pop("weight_hh_l0")
        self.module = LSTMParameters(parameters)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Run the layer; see the class for shapes."""
        x = x.transpose(0, 1)
        device_type = x.device.type
        under_autocast = torch.is_autocast_enabled(device_type) and x.dtype != torch.float64
        if under_autocast:
            x = x.to(torch.get_autocast_dtype(device_type))
        # Off inside: autocast also reaches a kernel's own products, which are meant to be float32.
        with torch.autocast(device_type, enabled=False):
            runs = [self._run(x, state, k, under_autocast) for k in range(self.n_directions)]
        ys, finals = zip(*runs, strict=True)
        h_n, c_n = (torch.stack(states) for states in zip(*finals, strict=True))
        y = ys[0] if self.n_directions == 1 else torch.cat(ys, dim=2)
        return y.transpose(0, 1), (h_n, c_n)

    def _run(self, x: Tensor, state: State, k: int, under_autocast: bool) -> tuple[Tensor, State]:
        """Run direction k over x [T, B, I]; returns y [T, B, H] and h, c, each [B, H]."""
        w_ih, w_hh, b_ih, b_hh = self._weights(k)
        if under_autocast and w_ih.dtype != torch.float32:  # float32 is rounded by the kernels
            w_ih, w_hh, b_ih, b_hh = (w.to(x.dtype) for w in (w_ih, w_hh, b_ih, b_hh))
        drop_p = self.weight_p if self.training and k == 0 else 0.0
        seed = functional.draw_seeds(1, x.device) if drop_p > 0 else None
        # The state may be of another precision or device: autocast or .to() since the last call.
        is_wide = x.dtype in (torch.float32, torch.float64)
        h = state[0][k].to(x.device, x.dtype)
        c = state[1][k].to(x.device, x.dtype if is_wide else torch.float32)
        return functional.lstm(x, (h, c), (w_ih, w_hh, b_ih, b_hh), drop_p, seed, reverse=k == 1)

    def _weights(self, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return w_ih, w_hh, b_ih, b_hh of a direction."""
        end = "l0_reverse" if k == 1 else "l0"
        w_ih, b_ih, b_hh = (
            self.module.get_parameter(f"{kind}_{end}")
            for kind in ("weight_ih", "bias_ih", "bias_hh")
        )
        raw = self.weight_hh_l0_raw
        return (
            w_ih,
            self.module.get_parameter("weight_hh_l0_reverse") if k == 1 else raw,
            b_ih,
            b_hh,
        )

    def extra_repr(self) -> str:
        """Name the chance in repr()."""
        return f"weight_p={self.weight_p}"
