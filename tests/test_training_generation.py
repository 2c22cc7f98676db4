"""Generation: against a loop that reads the whole prefix anew for every token, and the softmax."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ulmfit_fast.errors import InputError
from ulmfit_fast.model import AWDLSTMConfig, Dropouts, LanguageModel
from ulmfit_fast.text import train_tokenizer
from ulmfit_fast.text.detokenize import detokenize
from ulmfit_fast.text.tokenizer import Tokenizer
from ulmfit_fast.training.generation import (
    Generation,
    Sampling,
    banned_ids,
    choose,
    distribution,
    draw_tokens,
    generate,
    prompt_ids,
)
from ulmfit_fast.training.precision import choose_precision

LINES = [
    f"The {a} is {b}, and it's not the {c}! I'm GOOD."
    for a in ("cat", "dog", "cow")
    for b in ("old", "red")
    for c in ("fox", "hen")
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(LINES, min_freq=1)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> LanguageModel:
    return make_model(tokenizer)


def make_model(tokenizer: Tokenizer, scale: float = 2.0) -> LanguageModel:
    torch.manual_seed(0)
    config = AWDLSTMConfig(len(tokenizer.vocab), 12, 20, 2, tokenizer.pad_id, Dropouts())
    model = LanguageModel(config)
    with torch.no_grad():
        model.encoder.embedding.weight.normal_(0, scale)  # decided, so that rounding decides none
    return model.eval()


def naive_argmax(model: LanguageModel, tokenizer: Tokenizer, prompt: str, n: int) -> list[int]:
    ids = tokenizer.encode([prompt])[0].tolist()
    start = len(ids)
    banned = banned_ids(tokenizer, unknown=False)
    for _ in range(n):
        with torch.no_grad():
            logits = model(torch.tensor([ids]))[0][0, -1]
        logits[banned] = -torch.inf
        ids.append(int(logits.argmax()))
    return ids[start:]


def plain_softmax(logits: Tensor, temperature: float) -> list[float]:
    exact = [math.exp((float(x) - float(logits.max())) / temperature) for x in logits]
    return [x / math.fsum(exact) for x in exact]


@pytest.mark.parametrize("prompt", ["", "The", "The dog is old, and", "I'm GOOD!!! no no no"])
def test_temperature_0_is_a_loop_that_reads_the_whole_prefix_anew(
    model: LanguageModel, tokenizer: Tokenizer, prompt: str
) -> None:
    drawn = list(draw_tokens(model, tokenizer, prompt, Sampling(40, temperature=0)))
    assert drawn == naive_argmax(model, tokenizer, prompt, 40)


def test_reads_the_prompt_once_and_then_a_token_at_a_time(
    model: LanguageModel, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = []
    forward = type(model.encoder).forward

    def counting(self: nn.Module, ids: Tensor, state: object = None) -> object:
        shapes.append(tuple(ids.shape))
        return forward(self, ids, state)

    monkeypatch.setattr(type(model.encoder), "forward", counting)
    list(draw_tokens(model, tokenizer, "The dog is old", Sampling(5)))
    assert shapes == [(1, len(prompt_ids(tokenizer, "The dog is old"))), *[(1, 1)] * 4]


def test_first_tokens_are_as_frequent_as_the_softmax_says(tokenizer: Tokenizer) -> None:
    model = make_model(tokenizer, scale=0.7)
    n = 3000
    drawn = [
        next(draw_tokens(model, tokenizer, "The", Sampling(1, 0.9, sample=i))) for i in range(n)
    ]
    with torch.no_grad():
        logits = model(torch.tensor([prompt_ids(tokenizer, "The")]))[0][0, -1].double()
    logits[banned_ids(tokenizer, unknown=False)] = -torch.inf
    expected = n * np.array(plain_softmax(logits, 0.9))
    counts = np.bincount(drawn, minlength=len(expected))
    assert counts[expected == 0].sum() == 0
    common = expected >= 5  # the others together are one more class
    pairs = [*zip(counts[common], expected[common], strict=True)]
    pairs.append((counts[~common].sum(), expected[~common].sum()))
    statistic = sum((c - e) ** 2 / e for c, e in pairs if e > 0)
    freedom = len(pairs) - 1
    assert freedom > 10
    assert statistic < freedom + 4 * math.sqrt(2 * freedom)  # chi-square: about 1 in 10,000


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(top_k=3), Sampling(top_p=0.6), Sampling(temperature=2.5)]
)
def test_positions_are_shared_out_as_the_distribution_says(sampling: Sampling) -> None:
    logits = torch.tensor([0.3, 2.0, -1.0, 1.1, 1.1, -torch.inf], dtype=torch.float64)
    ids, probabilities = distribution(logits, sampling)
    n = 20_000
    middles = (np.arange(n) + 0.5) / n
    counts = np.bincount([choose(logits, sampling, u) for u in middles], minlength=len(logits))
    for token, p in zip(ids.tolist(), probabilities.tolist(), strict=True):
        assert abs(counts[token] - n * p) <= 1
    assert counts.sum() == n == counts[ids.numpy()].sum()


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.one_of(st.floats(-20, 20), st.sampled_from((0.0, 1.0))), min_size=1, max_size=30),
    st.floats(0.05, 10),
    st.integers(0, 35),
    st.floats(0.01, 1),
    st.floats(0, 1, exclude_max=True),
)
def test_supports_are_exactly_the_top_k_and_the_nucleus(
    values: list[float], temperature: float, k: int, p: float, position: float
) -> None:
    logits = torch.tensor(values, dtype=torch.float64)
    sampling = Sampling(temperature=temperature, top_k=k, top_p=p)
    ids, probabilities = distribution(logits, sampling)
    by_rank = sorted(range(len(values)), key=lambda i: (-values[i], i))[: k or None]
    weights = [math.exp((values[i] - values[by_rank[0]]) / temperature) for i in by_rank]
    shares = [w / math.fsum(weights) for w in weights]
    n, reached = 0, 0.0
    while n < len(shares) and reached < p - 1e-12:
        reached += shares[n]
        n += 1
    n_found = len(ids)
    assert ids.tolist() == by_rank[:n_found]
    # Rounding may decide where the shares reach p to the last bits.
    assert n_found == n or abs(math.fsum(shares[: min(n, n_found)]) - p) < 1e-9 or p == 1
    kept = shares[:n_found]
    assert probabilities.tolist() == pytest.approx([x / math.fsum(kept) for x in kept], rel=1e-9)
    assert choose(logits, sampling, position) in ids.tolist()


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 12),
    st.sampled_from((0.0, 0.3, 1.0, 5.0)),
    st.integers(0, 9),
    st.sampled_from((0.1, 0.9, 1.0)),
    st.integers(0, 3),
)
def test_same_seed_same_text_whatever_else_draws(
    n: int, temperature: float, k: int, p: float, seed: int
) -> None:
    tokenizer = train_tokenizer(LINES, min_freq=1)
    model = make_model(tokenizer)
    sampling = Sampling(n, temperature, k, p, seed)
    before = torch.get_rng_state()
    first, second = Generation(), Generation()
    text = "".join(generate(model, tokenizer, "The cat", sampling, result=first))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(seed + 99)
    assert "".join(generate(model, tokenizer, "The cat", sampling, result=second)) == text
    assert first == second
    assert len(first.ids) <= n
    assert not set(first.ids) & {tokenizer.unk_id, tokenizer.pad_id, tokenizer.bos_id}
    assert first.has_ended or len(first.ids) == n


def test_samples_and_seeds_differ(model: LanguageModel, tokenizer: Tokenizer) -> None:
    settings_of = [Sampling(20, 3.0), Sampling(20, 3.0, sample=1), Sampling(20, 3.0, seed=1)]
    texts = {"".join(generate(model, tokenizer, "", sampling)) for sampling in settings_of}
    assert len(texts) == 3


def test_text_is_the_detokenized_ids_and_comes_word_by_word(tokenizer: Tokenizer) -> None:
    model = make_model(tokenizer)
    with torch.no_grad():
        model.decoder_bias[tokenizer.bos_id] = -1000.0
    result = Generation()
    pieces = list(generate(model, tokenizer, "", Sampling(60, 1.5), result=result))
    assert "".join(pieces) == detokenize(tokenizer, [tokenizer.bos_id, *result.ids])
    assert len(pieces) > 5
    assert all(len(piece.split(" ")) <= 4 for piece in pieces)
    assert not {"xxmaj", "xxup", "xxbos", "xxpad"} & set("".join(pieces).split())


def test_a_text_ends_where_the_next_begins(model: LanguageModel, tokenizer: Tokenizer) -> None:
    model = make_model(tokenizer)
    with torch.no_grad():
        model.decoder_bias[tokenizer.bos_id] = 1000.0
    result = Generation()
    assert list(generate(model, tokenizer, "The dog", Sampling(9), result=result)) == []
    assert result == Generation([], has_ended=True)


def test_unknown_is_drawn_only_when_it_may_be(tokenizer: Tokenizer) -> None:
    model = make_model(tokenizer)
    with torch.no_grad():
        model.decoder_bias[tokenizer.unk_id] = 1000.0
    assert tokenizer.unk_id not in draw_tokens(model, tokenizer, "", Sampling(9))
    drawn = list(draw_tokens(model, tokenizer, "", Sampling(9, unknown=True)))
    assert drawn == [tokenizer.unk_id] * 9


def test_model_and_gradient_mode_are_left_alone(tokenizer: Tokenizer) -> None:
    model = make_model(tokenizer).train()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        model.decoder_bias[tokenizer.bos_id] = weights["decoder_bias"][tokenizer.bos_id] = -1000.0
    pieces = generate(model, tokenizer, "", Sampling(30))
    next(pieces)
    assert torch.is_grad_enabled()  # between two pieces too
    assert model.training
    assert list(pieces)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_bfloat16_predicts_what_the_model_does_under_autocast(tokenizer: Tokenizer) -> None:
    model = make_model(tokenizer)
    bf16 = choose_precision("bf16", torch.device("cpu"))
    drawn = list(draw_tokens(model, tokenizer, "The", Sampling(20, temperature=0), bf16))
    ids = prompt_ids(tokenizer, "The")
    with torch.no_grad(), bf16.computing():
        logits = model(torch.tensor([[*ids, *drawn[:-1]]]))[0][0, len(ids) - 1 :].float()
    logits[:, banned_ids(tokenizer, unknown=False)] = -torch.inf
    best = logits.max(dim=1).values
    taken = logits.gather(1, torch.tensor(drawn)[:, None])[:, 0]
    assert bool((best - taken <= 0.02 * best.abs()).all())  # three roundings of bfloat16


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"top_k": -1}, "top_k is -1"),
        ({"n_tokens": -1}, "n_tokens is -1"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_settings_out_of_range_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Sampling(**values)


def test_weights_that_are_not_finite_are_refused(tokenizer: Tokenizer) -> None:
    model = make_model(tokenizer)
    with torch.no_grad():
        model.decoder_bias[5] = math.nan
    with pytest.raises(InputError, match="not finite"):
        list(generate(model, tokenizer))


def test_subwords_are_written_too() -> None:
    tokenizer = train_tokenizer(LINES, kind="subword", min_freq=1, max_vocab=60)
    result = Generation()
    sampling = Sampling(30, 1.5)
    text = "".join(generate(make_model(tokenizer), tokenizer, "", sampling, result=result))
    assert text == detokenize(tokenizer, result.ids)
    assert "▁" not in text
