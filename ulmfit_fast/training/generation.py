"""Text from a language model: one forward pass a token, the state carried along.

V vocabulary, E embedding size, T time steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from ulmfit_fast.errors import InputError
from ulmfit_fast.model import EncoderState, LanguageModel
from ulmfit_fast.text.detokenize import detokenizer_of
from ulmfit_fast.text.rules import EOS, PAD, UNK
from ulmfit_fast.text.tokenizer import Tokenizer
from ulmfit_fast.text.vocab import FAKE
from ulmfit_fast.training.inference import rounded_copy
from ulmfit_fast.training.precision import Precision


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn.

    Attributes:
        n_tokens: most tokens to draw; a text ends sooner where the model begins the next one.
        temperature: divides the logits; 0 always takes the most probable token.
        top_k: draw from the k most probable tokens alone; 0 from all.
        top_p: draw from the fewest tokens whose probabilities reach p together (the nucleus), after
            top_k; 1 from all.
        seed: the same seed, model and prompt give the same text.
        sample: number of the text, for several texts from one seed.
        unknown: whether xxunk may be drawn.

    Raises:
        InputError: a setting out of its range.

    Source: nucleus: Holtzman et al. 2020, arXiv:1904.09751.
    """

    n_tokens: int = 100
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    sample: int = 0
    unknown: bool = False

    def __post_init__(self) -> None:
        """Raise InputError for what nothing can be drawn with."""
        for name in ("n_tokens", "top_k", "seed", "sample"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} is {getattr(self, name)}: give 0 or more")
        if not (self.temperature >= 0 and math.isfinite(self.temperature)):
            raise InputError(f"temperature is {self.temperature}: give 0 or more")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p is {self.top_p}: give a share above 0, at most 1")


@dataclass
class Generation:
    """What became of a text, once its last piece was taken.

    Attributes:
        ids: tokens drawn, without the xxbos that ended the text.
        has_ended: whether the model ended the text, before n_tokens were drawn.
    """

    ids: list[int] = field(default_factory=list)
    has_ended: bool = False


def generate(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompt: str = "",
    sampling: Sampling | None = None,
    *,
    precision: Precision | None = None,
    result: Generation | None = None,
) -> Iterator[str]:
    """Yield the text that goes on from a prompt, a word at a time, as it is drawn.

    Joined, the pieces are to be written right behind the prompt without the white space at its end;
    a space is in the first piece where there is one.

    Args:
        model: on any device; it runs in eval() and is left as it was.
        tokenizer: of the model.
        prompt: text to go on from; "" begins a new text.
        sampling: how to draw; None: Sampling().
        precision: to compute in; None: float32.
        result: filled on the way.

    Raises:
        InputError: the model's weights are not finite.
    """
    sampling = sampling or Sampling()
    result = result if result is not None else Generation()
    drawn = draw_tokens(model, tokenizer, prompt, sampling, precision)
    detokenizer = detokenizer_of(tokenizer)
    detokenizer.begin(tokenizer.vocab[i] for i in prompt_ids(tokenizer, prompt))
    for token in drawn:
        if token == tokenizer.bos_id:
            result.has_ended = True
            break
        result.ids.append(token)
        if piece := detokenizer.push(tokenizer.vocab[token]):
            yield piece
    if piece := detokenizer.finish():
        yield piece


def prompt_ids(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """Return the ids of a prompt, beginning with xxbos."""
    ids: list[int] = tokenizer.encode([prompt])[0].tolist()
    return ids


def draw_tokens(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompt: str,
    sampling: Sampling,
    precision: Precision | None = None,
) -> Iterator[int]:
    """Yield n_tokens ids that follow a prompt; xxbos is drawn where a text ends."""
    random = np.random.default_rng([sampling.seed, sampling.sample])
    banned = banned_ids(tokenizer, unknown=sampling.unknown)
    predictor = _Predictor(model, precision)
    ids = prompt_ids(tokenizer, prompt)
    for _ in range(sampling.n_tokens):
        logits = predictor.read(ids)
        logits[banned] = -torch.inf
        token = choose(logits, sampling, random.random())
        yield token
        ids = [token]


def banned_ids(tokenizer: Tokenizer, *, unknown: bool) -> list[int]:
    """Return the ids that stand for no text."""
    names = {PAD, EOS, FAKE} if unknown else {PAD, EOS, FAKE, UNK}
    return [i for i, token in enumerate(tokenizer.vocab) if token in names]


class _Predictor:
    """Reads tokens and predicts the next, keeping the state between them."""

    def __init__(self, model: LanguageModel, precision: Precision | None) -> None:
        self._precision = precision
        dtype = torch.float32
        if precision is not None and precision.name == "bf16":
            dtype = torch.bfloat16
            model = rounded_copy(model, dtype)  # once, not for every token
        self._model = model
        self._weight = model.encoder.embedding.weight.detach().to(dtype)
        self._bias = model.decoder_bias.detach().to(dtype)
        self._state: EncoderState | None = None

    @torch.no_grad()
    def read(self, ids: Sequence[int]) -> Tensor:
        """Return the logits of the token behind ids; float64 on the CPU, shape [V]."""
        model, was_training = self._model, self._model.training
        model.eval()
        try:
            tokens = torch.tensor([list(ids)], device=self._bias.device)  # [1, T]
            if self._precision is None:
                output, self._state = model.encoder(tokens, self._state)
            else:
                with self._precision.computing():
                    output, self._state = model.encoder(tokens, self._state)
        finally:
            model.train(was_training)
        hidden = output[-1, 0].to(self._weight.dtype)  # [E]
        return nn.functional.linear(hidden, self._weight, self._bias).double().cpu()


def choose(logits: Tensor, sampling: Sampling, position: float) -> int:
    """Return the token at a position of the distribution.

    Args:
        logits: float64, shape [V]; -inf where a token must not be drawn.
        sampling: its temperature, top_k and top_p.
        position: in [0, 1), uniformly drawn: the token whose share of the cumulated probabilities,
            the most probable first, holds it.
    """
    ids, probabilities = distribution(logits, sampling)
    cumulated = probabilities.cumsum(0)
    place = int(torch.searchsorted(cumulated, position * float(cumulated[-1]), right=True))
    return int(ids[min(place, len(ids) - 1)])


def distribution(logits: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Return the tokens that can be drawn and their probabilities, the most probable first.

    Of equally probable tokens the one of the lower id comes first.

    Args:
        logits: float64, shape [V]; -inf where a token must not be drawn.
        sampling: its temperature, top_k and top_p.

    Returns:
        ids: int64, shape [n].
        probabilities: float64, shape [n]; their sum is 1.

    Raises:
        InputError: no logit is finite, as those of a model whose weights are not.
    """
    ordered, ids = logits.sort(descending=True, stable=True)
    if not math.isfinite(float(ordered[0])):
        raise InputError("the model predicts no token: its weights are not finite; train it again")
    if sampling.temperature == 0:
        return ids[:1], torch.ones(1, dtype=torch.float64)
    n_finite = int(ordered.isfinite().sum())
    n = min(sampling.top_k or n_finite, n_finite)
    probabilities = ((ordered[:n] - ordered[0]) / sampling.temperature).softmax(0)
    if sampling.top_p < 1:
        before = probabilities.cumsum(0) - probabilities
        n = max(1, int((before < sampling.top_p).sum()))
        probabilities = probabilities[:n] / probabilities[:n].sum()
    return ids[:n], probabilities
