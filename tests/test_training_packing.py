"""Packed weights: how far they may be from the model's, and what is refused."""

from __future__ import annotations

import json
import lzma
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.torch import save

from ulmfit_fast import InputError, TrainConfig, ULMFiTTrainer
from ulmfit_fast.training import packing
from ulmfit_fast.training.checkpoint import load_model, sha256
from ulmfit_fast.training.packing import PACKINGS, SCALE, dequantize, pack, quantize, unpack

FLOAT32_ROUNDING = 2.0**-23
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
MATRICES = arrays.arrays("float32", arrays.array_shapes(min_dims=2, max_dims=2), elements=FINITE)
TEXTS = [f"one good film and {word} more of it" for word in ("two", "three", "four")] * 20


def unpacked(tensors: dict[str, torch.Tensor], kind: str) -> dict[str, torch.Tensor]:
    stream, n_bytes = pack(tensors, kind)
    return unpack(stream, kind, n_bytes, "file")


# --- rounding


@settings(max_examples=200, deadline=None)
@given(MATRICES)
def test_no_weight_moves_by_more_than_half_a_level_of_its_row(matrix) -> None:
    weights = torch.from_numpy(matrix)
    values, scales = quantize(weights)
    assert int(values.to(torch.int16).abs().max()) <= 127
    # The scale itself is rounded to float32, and so is the product.
    allowed = scales.double() / 2 + 2 * FLOAT32_ROUNDING * weights.double().abs().amax(dim=1)
    moved = (dequantize(values, scales).double() - weights.double()).abs().amax(dim=1)
    assert bool((moved <= allowed).all()), (moved, allowed)
    largest = weights.double().abs().amax(dim=1)
    least = 2.0**-149  # float32's smallest step
    assert bool((scales.double() <= largest / 127 * (1 + FLOAT32_ROUNDING) + least).all())


@settings(max_examples=100, deadline=None)
@given(FINITE, st.integers(1, 9))
def test_rows_of_one_value_come_back(value: float, width: int) -> None:
    weights = torch.full((2, width), value, dtype=torch.float32)
    values, scales = quantize(weights)
    # abs: a scale below the normal numbers is rounded to a whole multiple of 2^-149.
    assert dequantize(values, scales)[0].tolist() == pytest.approx(
        [value] * width, rel=2 * FLOAT32_ROUNDING, abs=127 * 2.0**-150
    )
    if value == 0.0:
        assert scales.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("kind", PACKINGS)
def test_only_matrices_are_rounded_and_the_result_is_always_the_same(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "matrix": torch.randn(20, 30, generator=generator),
        "zeros": torch.zeros(4, 3),
        "empty": torch.zeros(3, 0),
        "vector": torch.randn(30, generator=generator),
        "count": torch.tensor(7),
        "scalar": torch.tensor(math.pi),
    }
    found = unpacked(tensors, kind)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(found[name], tensor) == (name != "matrix")
    assert pack(tensors, kind) == pack(dict(reversed(tensors.items())), kind)
    # What was rounded once is rounded to itself.
    again = unpacked(found, kind)
    assert torch.allclose(again["matrix"], found["matrix"], rtol=FLOAT32_ROUNDING, atol=0)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("kind", PACKINGS)
@pytest.mark.parametrize("shape", [(2, 3), (3,)])
def test_values_that_are_not_finite_are_refused(
    value: float, kind: str, shape: tuple[int, ...]
) -> None:
    tensor = torch.zeros(shape)
    tensor.view(-1)[-1] = value
    with pytest.raises(InputError, match=r"cannot pack decoder_bias: .* not finite; train again"):
        pack({"decoder_bias": tensor}, kind)


def test_other_precisions_and_packings_are_refused() -> None:
    with pytest.raises(InputError, match=r"cannot pack w: it is torch\.float64"):
        pack({"w": torch.zeros(2, 2, dtype=torch.float64)}, "int8")
    with pytest.raises(InputError, match="no packing 'int4': choose one of int8, bf16"):
        pack({}, "int4")
    with pytest.raises(InputError, match="its weights are nearly all alike"):
        pack({"w": torch.zeros(4096, 4096)}, "int8")


# --- folders


@pytest.fixture(scope="module")
def trainer() -> ULMFiTTrainer:
    config = TrainConfig.preset("fastai", min_freq=1).with_stage("pretrain", epochs=1, batch_size=4)
    trainer = ULMFiTTrainer(config, size="tiny", device="cpu")
    trainer.pretrain(TEXTS)
    return trainer


@pytest.mark.parametrize("kind", PACKINGS)
def test_a_packed_language_model_is_nearly_the_model(
    trainer: ULMFiTTrainer, tmp_path: Path, kind: str
) -> None:
    trainer.save(tmp_path / "whole")
    trainer.save(tmp_path / "packed", packing=kind)
    sizes = {
        name: sum(file.stat().st_size for file in (tmp_path / name).glob("model.*"))
        for name in ("whole", "packed")
    }
    assert sizes["packed"] < {"int8": 0.27, "bf16": 0.51}[kind] * sizes["whole"]
    loaded = ULMFiTTrainer.load(tmp_path / "packed", device="cpu")
    assert loaded.tokenizer is not None
    assert trainer.tokenizer is not None
    ids = torch.from_numpy(trainer.tokenizer.encode(TEXTS[:1])[0]).long().unsqueeze(0)
    logits = []
    for model in (trainer.language_model, loaded.language_model):
        assert model is not None
        logits.append(model(ids)[0].detach())
        # Tied: one table of embeddings, which the decoder reads.
        assert "decoder.weight" not in model.state_dict()
    assert 0 < float((logits[0] - logits[1]).abs().max()) < 0.1
    # Saved again without a packing it is an ordinary folder, and keeps every bit.
    loaded.save(tmp_path / "again")
    assert sorted(p.name for p in (tmp_path / "again").iterdir()) == sorted(
        p.name for p in (tmp_path / "whole").iterdir()
    )
    tensors, header, _ = load_model(tmp_path / "again")
    assert header["format_version"] == 1
    assert "packing" not in header
    for name, tensor in load_model(tmp_path / "packed")[0].items():
        assert torch.equal(tensors[name], tensor)


def test_an_earlier_release_refuses_a_packed_folder_by_its_version(
    trainer: ULMFiTTrainer, tmp_path: Path
) -> None:
    """It compared format_version with 1 before it looked for any other file."""
    trainer.save(tmp_path / "m", packing="int8")
    header = json.loads((tmp_path / "m" / "config.json").read_text())
    assert (header["format"], header["format_version"]) == ("ulmfit_fast", 2)
    assert header["packing"] == "int8"
    assert json.loads((tmp_path / "m" / "manifest.json").read_text()).keys() == {
        "model.safetensors.xz",
        "config.json",
        "tokenizer.json",
    }


# --- damage


def rewrite(folder: Path, *, stream: bytes | None = None, **entries: object) -> None:
    """Change a packed model as somebody would who also writes the manifest."""
    header = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**header, **entries}))
    if stream is not None:
        (folder / "model.safetensors.xz").write_bytes(stream)
    names = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({n: sha256(folder / n) for n in names}))


def weights_of(folder: Path) -> bytes:
    return (folder / "model.safetensors.xz").read_bytes()


BOMB = lzma.compress(bytes(2**26), preset=0)  # 64 MiB of zeros in 10 KiB
MISFITS = {
    "scale/w": torch.ones(3),
    "w": torch.ones(2, 5, dtype=torch.int8),
}


@pytest.mark.parametrize(
    ("stream", "entries", "message"),
    [
        (None, {"packing": "int4"}, "config.json: no packing 'int4'"),
        (None, {"packing": None}, "config.json: no packing None"),
        (None, {"unpacked_bytes": None}, "config.json: has no unpacked_bytes"),
        (None, {"unpacked_bytes": True}, "config.json: has no unpacked_bytes"),
        (None, {"unpacked_bytes": 10}, "does not unpack to the 10 bytes"),
        (None, {"unpacked_bytes": -1}, "unpack to -1, which weights do not"),
        (None, {"unpacked_bytes": 10**12}, "unpack to 1,000,000,000,000, which weights do not"),
        (None, {"format_version": 1}, "model.safetensors is missing"),
        (b"", {}, "unpack to 0"),
        (b"no xz at all", {}, "cannot be unpacked"),
        (BOMB, {}, "does not unpack to the"),
        (BOMB, {"unpacked_bytes": 2**26}, "unpack to 67,108,864, which weights do not"),
        ("half", {}, "does not unpack to the"),
        ("twice", {}, "does not unpack to the"),
        (lzma.compress(bytes(100)), {"unpacked_bytes": 100}, "not readable"),
        (
            lzma.compress(save(MISFITS)),
            {"unpacked_bytes": len(save(MISFITS))},
            "w and its scales do not fit",
        ),
    ],
)  # fmt: skip
def test_damage_is_named_in_one_line(
    trainer: ULMFiTTrainer,
    tmp_path: Path,
    stream: bytes | str | None,
    entries: dict[str, object],
    message: str,
) -> None:
    folder = tmp_path / "m"
    trainer.save(folder, packing="int8")
    whole = weights_of(folder)
    if stream == b"":
        entries = {"unpacked_bytes": 0}
    content = {"half": whole[: len(whole) // 2], "twice": whole * 2}.get(stream, stream)  # type: ignore[call-overload]
    rewrite(folder, stream=content, **entries)
    with pytest.raises(InputError) as raised:
        load_model(folder)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_bit_that_flipped_is_found_by_the_manifest(
    trainer: ULMFiTTrainer, tmp_path: Path
) -> None:
    trainer.save(tmp_path / "m", packing="int8")
    content = bytearray(weights_of(tmp_path / "m"))
    content[len(content) // 2] ^= 4
    (tmp_path / "m" / "model.safetensors.xz").write_bytes(content)
    with pytest.raises(InputError, match=r"model\.safetensors\.xz: damaged"):
        load_model(tmp_path / "m")


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_change_of_a_stream_is_an_input_error_or_tensors(data: st.DataObject) -> None:
    tensors = {"w": torch.linspace(-1, 1, 60).view(6, 10), "b": torch.zeros(3)}
    stream, n_bytes = pack(tensors, "int8")
    changed = bytearray(stream)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(changed) - 1))
        changed[place] ^= 1 << data.draw(st.integers(0, 7))
    found, said = {}, ""
    try:
        found = unpack(bytes(changed), "int8", n_bytes, "file")
    except InputError as error:
        said = str(error)
    assert bool(found) != bool(said)
    assert "\n" not in said


def test_a_decompressor_gets_no_more_memory_than_weights_need() -> None:
    content = save({"w": torch.zeros(3)})
    wide = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 2**28}]
    stream = lzma.compress(content, filters=wide)
    assert packing.MOST_MEMORY < 2**28
    with pytest.raises(InputError, match="cannot be unpacked"):
        unpack(stream, "int8", len(content), "file")


def test_names_of_scales_are_no_names_of_tensors(trainer: ULMFiTTrainer) -> None:
    assert trainer.language_model is not None
    assert not [name for name in trainer.language_model.state_dict() if SCALE in name]
