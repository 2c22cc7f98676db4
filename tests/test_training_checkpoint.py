"""Model directories: whole or not at all, and never silently wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ulmfit_fast import InputError
from ulmfit_fast.text.tokenizer import train_tokenizer
from ulmfit_fast.training import checkpoint
from ulmfit_fast.training.checkpoint import load_model, save_model

TOKENIZER = train_tokenizer(["one two three two one"] * 4, min_freq=1)


def write(path: Path, value: float) -> None:
    save_model(path, {"w": torch.full((3, 2), value)}, {"kind": "test"}, TOKENIZER)


def test_a_saved_model_comes_back(tmp_path: Path) -> None:
    write(tmp_path / "deep" / "m", 2.0)
    tensors, config, tokenizer = load_model(tmp_path / "deep" / "m")
    assert torch.equal(tensors["w"], torch.full((3, 2), 2.0))
    assert config["kind"] == "test"
    assert tokenizer.vocab == TOKENIZER.vocab
    assert sorted(p.name for p in (tmp_path / "deep" / "m").iterdir()) == [
        "config.json",
        "manifest.json",
        "model.safetensors",
        "tokenizer.json",
    ]


@pytest.mark.parametrize("call", ["write_bytes", "write_text", "rename", "fsync"])
@pytest.mark.parametrize("k", range(6))
def test_a_failing_disk_leaves_the_old_model_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, k: int
) -> None:
    path = tmp_path / "m"
    write(path, 1.0)
    calls = 0
    owner = checkpoint.os if call == "fsync" else Path
    original = getattr(owner, call)

    def fail_once(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        if calls == k + 1:
            raise OSError(28, "No space left on device")
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, call, fail_once)
    failed = False
    try:
        write(path, 2.0)
    except OSError:
        failed = True
    monkeypatch.undo()
    tensors, _, _ = load_model(path)
    # fsync of the parent is the last call: the new model is already in place there.
    assert float(tensors["w"][0, 0]) in (
        {1.0, 2.0} if failed and call == "fsync" else {2.0 - failed}
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m"]


def damage(path: Path, what: str) -> None:
    if what == "bit":
        data = bytearray((path / "model.safetensors").read_bytes())
        data[-1] ^= 1
        (path / "model.safetensors").write_bytes(bytes(data))
    elif what == "version":
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps({**config, "format_version": 99}))
    elif what == "format":
        (path / "config.json").write_text('{"architectures": ["Bert"]}')
    elif what == "json":
        (path / "config.json").write_text('{"format": "ulmf')
    elif what == "list":
        (path / "config.json").write_text("[]")
    else:
        (path / what).unlink()


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("bit", "model.safetensors: damaged"),
        ("version", "format version 99, but this ulmfit_fast reads versions 1 and 2"),
        ("format", "not a model of ulmfit_fast"),
        ("json", "config.json: not valid JSON"),
        ("list", "expected a JSON object, found list"),
        ("model.safetensors", "model.safetensors is missing, so the model is half written"),
        ("tokenizer.json", "tokenizer.json is missing, so the model is half written"),
        ("manifest.json", "manifest.json is missing, so the model is half written"),
        ("config.json", "not a model directory (it has no config.json)"),
    ],
)
def test_damage_is_named_in_one_line(tmp_path: Path, what: str, message: str) -> None:
    write(tmp_path / "m", 1.0)
    damage(tmp_path / "m", what)
    with pytest.raises(InputError) as raised:
        load_model(tmp_path / "m")
    assert message in str(raised.value)
    assert str(tmp_path / "m") in str(raised.value)
    assert "\n" not in str(raised.value)


def test_only_models_and_free_places_are_written_to(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("years of work")
    (tmp_path / "file").write_text("notes")
    for name in ("thesis", "file"):
        with pytest.raises(InputError, match=f"{name}: stands there and is not a model"):
            write(tmp_path / name, 1.0)
    assert (tmp_path / "thesis" / "thesis.tex").read_text() == "years of work"
    (tmp_path / "empty").mkdir()
    for value in (1.0, 2.0):
        write(tmp_path / "empty", value)
    assert float(load_model(tmp_path / "empty")[0]["w"][0, 0]) == 2.0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "file", "thesis"]


def test_a_model_of_another_kind_is_not_replaced_without_being_asked(tmp_path: Path) -> None:
    def save(kind: str, value: float, **more: bool) -> None:
        save_model(
            tmp_path / "m", {"w": torch.full((2,), value)}, {"kind": kind}, TOKENIZER, **more
        )

    save("language_model", 1.0)
    with pytest.raises(
        InputError, match="another kind stands there \\(language_model, and this is"
    ):
        save("classifier", 2.0)
    assert load_model(tmp_path / "m")[0]["w"].tolist() == [1.0, 1.0]
    save("language_model", 3.0)
    save("classifier", 4.0, overwrite=True)
    assert load_model(tmp_path / "m")[1]["kind"] == "classifier"


def test_wrong_places_are_named_and_the_right_one_suggested(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such model directory"):
        load_model(tmp_path / "nothing")
    write(tmp_path / "run" / "model", 1.0)
    with pytest.raises(InputError, match=r"did you mean .*run/model"):
        load_model(tmp_path / "run")


def test_every_single_bit_flip_is_detected(tmp_path: Path) -> None:
    write(tmp_path / "m", 1.0)
    file = tmp_path / "m" / "model.safetensors"
    whole = file.read_bytes()
    for bit in range(0, len(whole) * 8, 7):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        file.write_bytes(bytes(data))
        with pytest.raises(InputError, match="damaged"):
            load_model(tmp_path / "m")
