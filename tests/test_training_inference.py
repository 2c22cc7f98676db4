"""The copy with rounded LSTM weights: autocast's results, never stale, gone when it is let go."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from small_training import LIGHT
from torch import Tensor, nn

from ulmfit_fast import LayerwiseAdamW
from ulmfit_fast.model import AWDLSTMConfig, TextClassifier
from ulmfit_fast.training.inference import InferenceCopy
from ulmfit_fast.training.precision import Precision

CONFIG = AWDLSTMConfig(50, 16, 32, 3, dropouts=LIGHT)
BF16 = Precision("bf16", torch.device("cpu"), "")
LENGTHS = torch.tensor([17, 12, 4, 9, 9, 2])
LABELS = torch.tensor([0, 1, 1, 0, 1, 0])
IDS = torch.randint(2, 50, (6, 17), generator=torch.Generator().manual_seed(0))
# Distance of logits of few rows, whose sums may be taken in another order: 0 at these sizes with
# AMX, 2e-4 at those of the base model (2026-11-25).
FEW_ROWS = 1e-2


def new_model() -> TextClassifier:
    model = TextClassifier(CONFIG, 2, bptt=5, max_len=10)
    model.encode(IDS, LENGTHS)
    return model.eval()


def logits(model: TextClassifier) -> Tensor:
    with torch.no_grad(), BF16.computing():
        return model(IDS, LENGTHS)


def test_results_are_those_of_autocast() -> None:
    model = new_model()
    rounded = InferenceCopy().of(model, torch.bfloat16)
    assert rounded is not model
    assert torch.equal(logits(rounded), logits(model))
    assert {p.dtype for p in rounded.encoder.rnns.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_results_of_one_text_are_those_of_autocast_but_for_the_order_of_sums() -> None:
    model = new_model()
    rounded = InferenceCopy().of(model, torch.bfloat16)
    for ids in IDS.unbind(0):
        with torch.no_grad(), BF16.computing():
            found, expected = (m(ids.unsqueeze(0)) for m in (rounded, model))
        assert torch.allclose(found, expected, atol=FEW_ROWS)


def test_everything_but_the_lstms_is_shared() -> None:
    model = new_model()
    rounded = InferenceCopy().of(model, torch.bfloat16)
    theirs = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    own = {n for n, p in rounded.state_dict(keep_vars=True).items() if id(p) not in theirs}
    assert own == {name for name in model.state_dict() if name.startswith("encoder.rnns.")}


def step(model: TextClassifier) -> None:
    """Take a step of the trainer's optimizer, which writes in an op of ours."""
    optimizer = LayerwiseAdamW([{"params": list(model.parameters())}], lr=0.1)
    parts, _ = model.loss(IDS, LENGTHS, LABELS, 2.0, 1.0)
    torch.autograd.backward(parts.total)
    optimizer.step()


def replace_head(model: TextClassifier) -> None:
    model.head = copy.deepcopy(model.head)
    nn.init.normal_(model.head[2].weight)


def replace_weight(model: TextClassifier) -> None:
    weight = model.encoder.rnns[1].weight_hh_l0
    model.encoder.rnns[1].weight_hh_l0 = nn.Parameter(torch.randn_like(weight))


def move(model: TextClassifier) -> None:
    """Have every parameter stay and its memory be another, as .to(device) does."""
    model.double().float()
    model.encoder.rnns[0].weight_ih_l0.data = torch.randn(4 * 32, 16)


CHANGES: list[Callable[[TextClassifier], object]] = [
    step,
    replace_head,
    replace_weight,
    move,
    lambda model: model.load_state_dict(new_model().state_dict()),
    lambda model: nn.init.normal_(model.encoder.rnns[2].bias_hh_l0),
    lambda model: nn.init.normal_(model.encoder.embedding.weight),
    lambda model: setattr(model, "max_len", 3),
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_model_is_rounded_anew(change: Callable[[TextClassifier], object]) -> None:
    model, copies = new_model(), InferenceCopy()
    before = logits(copies.of(model, torch.bfloat16))
    change(model)
    after = logits(copies.of(model, torch.bfloat16))
    assert torch.equal(after, logits(model))
    assert not torch.equal(after, before)


def test_an_unchanged_model_is_rounded_once() -> None:
    model, copies = new_model(), InferenceCopy()
    rounded = copies.of(model.train(), torch.bfloat16)
    logits(rounded)
    assert model.training
    assert not any(module.training for module in rounded.modules())
    assert copies.of(model.eval(), torch.bfloat16) is rounded
    assert copies.of(new_model(), torch.bfloat16) is not rounded
    assert copies.of(model, torch.float16) is not rounded


def test_nothing_is_copied_where_autocast_would_find_something_else() -> None:
    copies = InferenceCopy()
    model = new_model().to(torch.bfloat16)
    assert copies.of(model, torch.bfloat16) is model
    made = new_model()
    nn.utils.parametrizations.weight_norm(made.encoder.rnns[0], "weight_hh_l0")
    assert copies.of(made, torch.bfloat16) is made


def test_a_copy_that_was_let_go_is_freed_with_its_model() -> None:
    model, copies = new_model(), InferenceCopy()
    weights = weakref.ref(copies.of(model, torch.bfloat16).encoder.rnns[0].weight_hh_l0)
    source = weakref.ref(model)
    copies.clear()
    del model
    gc.collect()
    assert weights() is None
    assert source() is None
