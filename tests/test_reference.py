"""The specification itself, held against published vectors, torch's own functions and gradcheck."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numerics import relative_error
from torch import Tensor, nn

from ulmfit_fast import reference

SEED = torch.tensor(20260923)

# Random123 1.14, tests/kat_vectors: philox4x32 10 rounds, counter, key, expected words.
PHILOX_VECTORS = [
    ("0 0 0 0", "0 0", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff " * 4, "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        "243f6a88 85a308d3 13198a2e 03707344",
        "a4093822 299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


def words(text: str) -> tuple[Tensor, ...]:
    return tuple(torch.tensor([int(word, 16)]) for word in text.split())


@pytest.mark.parametrize(("counter", "key", "expected"), PHILOX_VECTORS)
def test_philox_gives_the_published_vectors(counter: str, key: str, expected: str) -> None:
    found = reference.philox4x32(words(counter), words(key))
    assert [int(word) for word in found] == [int(word) for word in words(expected)]


def test_keep_mask_reads_the_documented_words() -> None:
    seed = torch.tensor((7 << 32) + 5)
    keep = reference.keep_mask((3, 5), 0.5, seed)
    for index in range(15):
        counter = tuple(torch.tensor([x]) for x in (index // 4, 0, 0, 0))
        block = reference.philox4x32(counter, (torch.tensor([5]), torch.tensor([7])))
        assert bool(keep.flatten()[index]) == (int(block[index % 4]) >= 2**31)


@pytest.mark.parametrize("drop_p", [0.05, 0.3, 0.5, 0.9])
def test_keep_rate_is_within_five_sigma(drop_p: float) -> None:
    n = 200_000
    kept = int(reference.keep_mask((n,), drop_p, SEED).sum())
    sigma = (n * drop_p * (1 - drop_p)) ** 0.5
    assert abs(kept - n * (1 - drop_p)) < 5 * sigma


def test_masks_of_other_seeds_and_neighbouring_elements_are_independent() -> None:
    masks = torch.stack([reference.keep_mask((50_000,), 0.5, SEED + i).double() for i in range(4)])
    correlation = np.corrcoef(torch.cat([masks, masks[:1].roll(1, dims=1)]).numpy())
    assert np.abs(correlation - np.eye(5)).max() < 5 / 50_000**0.5


def test_drop_connect_of_strided_weights_uses_logical_indices() -> None:
    weight = torch.randn(6, 10)
    strided = weight.t().contiguous().t()
    dropped = reference.drop_connect(strided, 0.4, SEED)
    assert torch.equal(dropped, reference.drop_connect(weight, 0.4, SEED))
    assert dropped.is_contiguous()


def test_embedding_dropout_drops_whole_words_and_passes_gradcheck() -> None:
    weight = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    ids = torch.tensor([[0, 1, 2], [3, 4, 1]])
    keep = reference.keep_mask((6, 1), 0.5, SEED)[:, 0]
    out = reference.embedding_dropout(ids, weight, 0.5, SEED, padding_idx=1)
    assert torch.equal(out, 2 * weight[ids] * keep[ids].unsqueeze(-1))
    out.sum().backward()
    assert weight.grad is not None
    assert weight.grad[1].abs().max() == 0
    assert torch.autograd.gradcheck(
        lambda w: reference.embedding_dropout(ids, w, 0.5, SEED), weight
    )


def test_variational_dropout_repeats_its_mask_over_time() -> None:
    x = torch.randn(5, 2, 8, dtype=torch.float64, requires_grad=True)
    out = reference.variational_dropout(x, 0.5, SEED)
    kept = out != 0
    assert torch.equal(kept, kept[:1].expand_as(kept))
    assert torch.equal(kept[0], reference.keep_mask((2, 8), 0.5, SEED))
    assert torch.autograd.gradcheck(lambda x: reference.variational_dropout(x, 0.5, SEED), x)


@settings(derandomize=True, max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 6)), min_size=1, max_size=5))
def test_concat_pool_equals_pooling_each_row_alone(spans: list[tuple[int, int]]) -> None:
    output = torch.randn(len(spans), 12, 3, dtype=torch.float64)
    start = torch.tensor([first for first, _ in spans])
    end = torch.tensor([first + length for first, length in spans])
    pooled, argmax = reference.concat_pool(output, start, end)
    for row, (first, length) in enumerate(spans):
        x = output[row, first : first + length]
        assert torch.allclose(pooled[row], torch.cat([x[-1], x.amax(0), x.mean(0)]))
        assert torch.equal(argmax[row], first + x.argmax(0))


def test_linear_cross_entropy_equals_torch_and_ignores_targets() -> None:
    hidden, weight = torch.randn(7, 4), torch.randn(9, 4)
    bias, targets = torch.randn(9), torch.tensor([0, 8, -100, 3, 3, -100, 1])
    loss = reference.linear_cross_entropy(hidden, weight, bias, targets)
    kept = targets != -100
    rows = nn.functional.linear(hidden[kept], weight, bias).log_softmax(1)
    assert torch.allclose(loss, -rows[torch.arange(5), targets[kept]].mean())


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_adamw_equals_torch_with_changing_rates_and_momentum(weight_decay: float) -> None:
    param = torch.randn(4, 3, dtype=torch.float64)
    twin = nn.Parameter(param.clone())
    optimizer = torch.optim.AdamW([twin], eps=1e-5, weight_decay=weight_decay)
    exp_avg, exp_avg_sq = torch.zeros_like(param), torch.zeros_like(param)
    count, norm, skipped = torch.zeros(()), torch.zeros(()), torch.tensor(0)
    for step in range(1, 8):
        lr, betas = 0.01 * step, (0.7 + 0.02 * step, 0.99)
        layers = torch.tensor([[lr, weight_decay, *betas, 1e-5]], dtype=torch.float64)
        grad = torch.randn_like(param)
        reference.layerwise_adamw_(
            [param], [grad], [exp_avg], [exp_avg_sq], [count], [], [], [], norm, skipped,
            torch.zeros(1, dtype=torch.int32), layers, [0], None, None, 0.5, True, 0.0,
        )  # fmt: skip
        twin.grad = grad.clone()
        optimizer.param_groups[0].update(lr=lr, betas=betas)
        expected = nn.utils.clip_grad_norm_([twin], 0.5)
        optimizer.step()
        assert relative_error(param, twin) < 1e-14
        assert float(norm) == pytest.approx(float(expected), rel=1e-7)
    assert float(count) == 7
    assert int(skipped) == 0
