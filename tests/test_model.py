"""The models: fastai's numbers from fastai's weights, rows that do not see each other."""

from __future__ import annotations

import copy
import pickle
import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ulmfit_fast import chunks, functional
from ulmfit_fast.model import (
    AWDLSTMConfig,
    Dropouts,
    LanguageModel,
    TextClassifier,
    resize_state,
)

CONFIG = AWDLSTMConfig(40, embed_size=12, hidden_size=20, n_layers=3)
DRY = CONFIG.with_dropouts(Dropouts().scaled(0.0))
FASTAI_DROPOUTS = {f"{name}_p": 0.0 for name in ("output", "hidden", "input", "embed", "weight")}


def draw_ids(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randint(2, 40, (rows, columns), generator=torch.Generator().manual_seed(seed))


def pad(rows: list[Tensor]) -> Tensor:
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=1)


def fastai_encoder_state(encoder: nn.Module) -> dict[str, Tensor]:
    """Rename an encoder's parameters to fastai 2.8's."""
    weight = encoder.embedding.weight
    state = {"encoder.weight": weight, "encoder_dp.emb.weight": weight}
    for layer, rnn in enumerate(encoder.rnns):
        for name, parameter in rnn.named_parameters():
            old = f"{name}_raw" if name == "weight_hh_l0" else f"module.{name}"
            state[f"rnns.{layer}.{old}"] = parameter
    return {name: value.detach() for name, value in state.items()}


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore")
def test_language_model_and_its_regularised_loss_equal_fastai() -> None:
    pytest.importorskip("fastai", reason="peer: requirements/peers.txt")
    from fastai.callback.rnn import RNNRegularizer
    from fastai.text.models.awdlstm import AWD_LSTM, awd_lstm_lm_config
    from fastai.text.models.core import get_language_model

    config = {**awd_lstm_lm_config, "emb_sz": 12, "n_hid": 20, **FASTAI_DROPOUTS}
    theirs = get_language_model(AWD_LSTM, 40, config=config)
    ours = LanguageModel(DRY)
    nn.init.normal_(ours.decoder_bias)
    state = {f"0.{k}": v for k, v in fastai_encoder_state(ours.encoder).items()}
    decoder = {"1.decoder.weight": state["0.encoder.weight"], "1.decoder.bias": ours.decoder_bias}
    theirs.load_state_dict({**state, **{k: v.detach() for k, v in decoder.items()}})
    theirs.reset()
    hidden = None
    for batch in range(3):
        ids, targets = draw_ids(4, 9, batch), draw_ids(4, 9, batch + 10)
        logits, raw, dropped = theirs(ids)
        cross_entropy = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        learner = SimpleNamespace(training=True, loss_grad=cross_entropy.clone())
        learner.rnn = SimpleNamespace(out=dropped, raw_out=raw)
        regularizer = RNNRegularizer(alpha=2.0, beta=1.0)
        regularizer.learn = learner
        regularizer.after_loss()
        expected = learner.loss_grad
        assert expected > cross_entropy
        found, _ = ours(ids, hidden)
        parts, hidden = ours.loss(ids, targets, hidden, alpha=2.0, beta=1.0)
        assert torch.allclose(found, logits, atol=1e-6)
        assert torch.allclose(parts.total, expected, atol=1e-6)
        assert torch.allclose(parts.cross_entropy, cross_entropy, atol=1e-6)


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore")
def test_classifier_equals_fastai_on_sorted_rows() -> None:
    pytest.importorskip("fastai", reason="peer: requirements/peers.txt")
    from fastai.text.models.awdlstm import AWD_LSTM, awd_lstm_clas_config
    from fastai.text.models.core import get_text_classifier

    config = {**awd_lstm_clas_config, "emb_sz": 12, "n_hid": 20, **FASTAI_DROPOUTS}
    # A rate of exactly 0 would remove fastai's head dropout and shift its layer numbers.
    config["output_p"] = 1e-9
    theirs = get_text_classifier(
        AWD_LSTM, 40, 3, seq_len=8, max_len=16, config=config, lin_ftrs=[50], ps=[0.1]
    )
    ours = TextClassifier(DRY, 3, bptt=8, max_len=16)
    state = {f"0.module.{k}": v for k, v in fastai_encoder_state(ours.encoder).items()}
    for layer, (norm, linear) in enumerate([(0, 2), (4, 6)]):
        for place, module in ((0, ours.head[norm]), (2, ours.head[linear])):
            for name, value in module.state_dict().items():
                state[f"1.layers.{layer}.{place}.{name}"] = value
    theirs.load_state_dict(state)
    # Lengths for which fastai is right. max_len reaches the same chunk in each long row, and the
    # longest is whole chunks: else fastai 2.8 counts a row that ends early as the last row, and
    # takes a short row's last vector from before its first token.
    lengths = [32, 30, 17, 16, 9, 3]
    rows = [draw_ids(1, n, n)[0] for n in lengths]
    # fastai's layout: whole chunks of padding in front, what is left of it at the end.
    width = max(lengths)
    fronts = [(width - n) // 8 * 8 for n in lengths]
    padded = torch.ones(len(rows), width, dtype=torch.long)
    for r, (row, front) in enumerate(zip(rows, fronts, strict=True)):
        padded[r, front : front + len(row)] = row
    theirs.eval()
    ours.eval()
    theirs.reset()
    with torch.no_grad():
        expected = theirs(padded)[0]
        alone = torch.cat([ours(row.unsqueeze(0)) for row in rows])
        found = ours(pad(rows), lengths)
    assert torch.allclose(found, alone, atol=1e-6)
    assert torch.allclose(found, expected, atol=1e-6)


@settings(derandomize=True, max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 24), min_size=1, max_size=4), st.integers(3, 9), st.integers(1, 24))
def test_a_rows_logits_depend_on_nothing_but_the_row(
    lengths: list[int], bptt: int, max_len: int
) -> None:
    torch.manual_seed(0)
    model = TextClassifier(CONFIG, 4, bptt=bptt, max_len=max_len).eval()
    rows = [draw_ids(1, n, index)[0] for index, n in enumerate(lengths)]
    with torch.no_grad():
        alone = torch.cat([model(row.unsqueeze(0), [len(row)]) for row in rows])
        found = model(nn.functional.pad(pad(rows), (0, 3), value=1))
    assert torch.allclose(found, alone, atol=1e-6)


def calls_of(patch: pytest.MonkeyPatch, target: object, name: str) -> list[tuple[Any, ...]]:
    """Return a list that gets the arguments of every call of target.name."""
    calls: list[tuple[Any, ...]] = []
    function = getattr(target, name)

    def run(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return function(*args, **kwargs)

    patch.setattr(target, name, run)
    return calls


def test_all_chunks_with_gradients_are_rows_of_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model = TextClassifier(CONFIG, 2, bptt=4, max_len=12)
    ids, lengths = draw_ids(3, 22), [22, 9, 5]
    looked_up = calls_of(monkeypatch, functional, "embedding_dropout")
    layers = calls_of(monkeypatch, functional, "lstm_chunks")
    pooled, output = model.encode(ids, lengths)
    numbers = [args[0].numel() for args in looked_up if args[1].shape[1] == CONFIG.embed_size]
    # Old: 12 columns of one row, as one call. Kept: 4 of two rows, 4 of three, and 2 of three that
    # are filled up to 4.
    assert numbers == [12, 8 + 12 + 12]
    assert [(list(args[0].shape[:2]), args[3]) for args in layers] == [
        ([4, 8], [2, 3, 3])
    ] * CONFIG.n_layers
    assert output.shape[:2] == (10, 3)
    torch.autograd.backward(pooled.sum())
    assert model.encoder.embedding.weight.grad is not None


def test_gradients_are_those_of_chunks_run_one_after_the_other() -> None:
    torch.manual_seed(2)
    model = TextClassifier(CONFIG, 2, bptt=4, max_len=12).eval().double()
    ids, lengths = draw_ids(3, 22), [22, 9, 5]
    pooled, output = model.encode(ids, lengths)
    names = [name for name, p in model.encoder.named_parameters() if p.requires_grad]
    parameters = [p for p in model.encoder.parameters() if p.requires_grad]
    weight = torch.randn(pooled.shape, dtype=torch.float64)
    found = torch.autograd.grad((pooled * weight).sum(), parameters)
    plan = chunks.plan_chunks(lengths, 22, 4, 12)
    rows = plan.on_device(ids.device)
    aligned = chunks.align_chunks(ids, rows, plan.chunks[-1][0].stop, CONFIG.pad_id)
    state, outputs = None, []
    for k, (columns, n_rows) in enumerate(plan.chunks):
        state = resize_state(state, n_rows) if state else None
        y, state = model.encoder(aligned[:n_rows, columns], state)
        if k >= plan.first_kept:
            outputs.append(nn.functional.pad(y, (0, 0, 0, 3 - n_rows)))
    alone = torch.cat(outputs)
    assert torch.allclose(output, alone, atol=1e-12)
    pool = functional.concat_pool(alone.transpose(0, 1), rows.start, rows.end)[rows.place]
    expected = torch.autograd.grad((pool * weight).sum(), parameters)
    for name, a, b in zip(names, found, expected, strict=True):
        assert torch.allclose(a, b, atol=1e-12), name


def test_without_gradients_chunks_run_together_and_give_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = TextClassifier(CONFIG, 2, bptt=4, max_len=12).eval()
    ids, lengths = draw_ids(3, 62), [62, 60, 5]
    expected = model(ids, lengths)  # with gradients: only the old chunks run together
    runs = calls_of(monkeypatch, model.encoder, "run")
    with torch.no_grad():
        assert torch.allclose(model(ids, lengths), expected, atol=1e-6)
        # Old: 4 columns of one row and 48 of two. Kept: 4 of two rows and 8 of three.
        assert [list(args[0].shape[:2]) for args in runs] == [[4, 1], [48, 2], [4, 2], [8, 3]]
        runs.clear()
        monkeypatch.setattr(chunks, "JOINED_TOKENS", 32)
        assert torch.allclose(model(ids, lengths), expected, atol=1e-6)
        assert max(args[0].shape[0] * args[0].shape[1] for args in runs) <= 32


def test_old_chunks_run_without_gradients() -> None:
    model = TextClassifier(DRY, 2, bptt=4, max_len=8)
    ids = torch.cat([torch.arange(2, 22), torch.arange(22, 30)]).unsqueeze(0).repeat(2, 1)
    parts, _ = model.loss(ids, torch.tensor([28, 28]), torch.tensor([0, 1]), 2.0, 1.0)
    parts.total.backward()
    grad = model.encoder.embedding.weight.grad
    assert grad is not None
    assert grad[2:22].abs().max() == 0
    assert (grad[22:30].abs().amax(dim=1) > 0).all()


def test_parameter_counts_are_those_of_fastai() -> None:
    with torch.device("meta"):
        language_model = LanguageModel(AWDLSTMConfig(30_000))
        classifier = TextClassifier(AWDLSTMConfig(30_000), 2)
    assert sum(p.numel() for p in language_model.parameters()) == 32_303_280
    assert sum(p.numel() for p in classifier.parameters()) == 32_335_880


def test_saved_models_keep_the_names_of_their_parameters() -> None:
    kinds = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    rnns = [f"encoder.rnns.{layer}.{kind}" for layer in range(3) for kind in kinds]
    expected = ["decoder_bias", "encoder.embedding.weight", *rnns]
    assert list(LanguageModel(CONFIG).state_dict()) == expected
    assert list(TextClassifier(CONFIG, 2).state_dict())[:13] == expected[1:]


def test_layer_groups_hold_every_parameter_once_in_order() -> None:
    language_model, classifier = LanguageModel(CONFIG), TextClassifier(CONFIG, 2)
    assert list(language_model.layer_groups()) == ["rnn0", "rnn1", "rnn2", "embedding"]
    assert list(classifier.layer_groups()) == ["embedding", "rnn0", "rnn1", "rnn2", "head"]
    for model in (language_model, classifier):
        grouped = [p for group in model.layer_groups().values() for p in group]
        assert sorted(map(id, grouped)) == sorted(map(id, model.parameters()))


def test_state_runs_on_detached_and_can_be_resized() -> None:
    model = LanguageModel(CONFIG).eval()
    ids = draw_ids(3, 10)
    whole, _ = model(ids)
    first, state = model(ids[:, :6])
    second, _ = model(ids[:, 6:], state)
    assert torch.allclose(torch.cat([first, second], dim=1), whole, atol=1e-6)
    assert not any(x.requires_grad for pair in state for x in pair)
    larger = resize_state(state, 5)
    assert larger[0][0].shape == (5, 20)
    assert larger[0][0][3:].abs().max() == 0
    assert torch.equal(resize_state(larger, 3)[0][0], state[0][0])


def test_dropouts_act_in_training_and_follow_the_seed() -> None:
    model = LanguageModel(CONFIG)
    ids = draw_ids(3, 10)
    torch.manual_seed(5)
    first = model(ids)[0]
    assert not torch.allclose(first, model(ids)[0])
    torch.manual_seed(5)
    assert torch.equal(first, model(ids)[0])


def test_decoder_is_tied_to_the_embedding_without_a_shared_entry() -> None:
    model = LanguageModel(CONFIG)
    assert len({value.data_ptr() for value in model.state_dict().values()}) == len(
        model.state_dict()
    )
    model(draw_ids(2, 5))[0].sum().backward()
    grad = model.encoder.embedding.weight.grad
    assert grad is not None
    assert (grad.abs().amax(dim=1) > 0).all()  # every row, through the decoder


def test_models_copy_pickle_and_average() -> None:
    model = TextClassifier(CONFIG, 3)
    ids = draw_ids(4, 12)
    parts, _ = model.loss(ids, torch.full((4,), 12), torch.tensor([0, 1, 2, 0]), 2.0, 1.0)
    parts.total.backward()
    model.eval()
    expected = model(ids)
    averaged = torch.optim.swa_utils.AveragedModel(model)
    averaged.update_parameters(model)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), averaged):
        assert torch.equal(twin.eval()(ids), expected)


def test_eval_models_compile() -> None:
    language_model, classifier = LanguageModel(CONFIG).eval(), TextClassifier(CONFIG, 3).eval()
    ids = draw_ids(4, 12)
    compiled = torch.compile(language_model, fullgraph=True)
    assert torch.allclose(compiled(ids)[0], language_model(ids)[0], atol=1e-6)
    lengths = [12, 12, 12, 12]
    compiled = torch.compile(classifier, fullgraph=True)
    assert torch.allclose(compiled(ids, lengths), classifier(ids, lengths), atol=1e-6)


def test_rows_without_tokens_and_misfit_lengths_are_refused() -> None:
    model = TextClassifier(CONFIG, 3).eval()
    ids = torch.ones(2, 4, dtype=torch.long)
    ids[0] = 5
    with pytest.raises(ValueError, match=r"lengths\[1\]: expected 1..4 tokens, found 0"):
        model(ids)
    with pytest.raises(ValueError, match="expected 2, one for each row of ids, found 1"):
        model(ids, [4])


@pytest.mark.parametrize("bptt", [3, 72])
def test_token_outside_the_vocabulary_is_named_by_row_and_position(bptt: int) -> None:
    ids = draw_ids(3, 8)
    targets = ids.clone()
    ids[2, 6] = 777
    expected = f"expected 0..{CONFIG.vocab_size - 1}, one for each row of the table; found 777"
    language_model = LanguageModel(CONFIG)
    classifier = TextClassifier(CONFIG, 2, bptt=bptt)
    for name, call in {
        "ids": lambda: language_model(ids),
        "ids ": lambda: language_model.loss(ids, targets),
        "ids  ": lambda: classifier(ids, [8, 8, 8]),
        "targets": lambda: language_model.loss(targets, ids),
    }.items():
        with pytest.raises(ValueError, match=re.escape(f"{name.strip()}: {expected} at [2, 6]")):
            call()
    with pytest.raises(ValueError, match=re.escape("targets: expected shape [3, 8] like ids")):
        language_model.loss(targets, targets[:, :3])


def test_targets_that_do_not_count_may_be_minus_100() -> None:
    torch.manual_seed(0)
    model = LanguageModel(DRY)
    ids = draw_ids(2, 6)
    targets = ids.clone()
    targets[:, 3:] = -100
    parts, _ = model.loss(ids, targets)
    logits, _ = model(ids)
    expected = nn.functional.cross_entropy(logits[:, :3].flatten(0, 1), targets[:, :3].flatten())
    assert torch.allclose(parts.total, expected)
