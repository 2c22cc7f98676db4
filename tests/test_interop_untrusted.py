"""Files of strangers: nothing in them runs, whichever way they come in."""

from __future__ import annotations

import contextlib
import functools
import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_runs import run
from fastai_files import V1, old_language_model, vocab_of, write_pair
from hostile_files import (
    NAMES,
    NOT_LIVE,
    Reduced,
    as_legacy,
    as_zip,
    by_hand,
    payloads,
    pickled,
    sources,
)

from ulmfit_fast import InputError
from ulmfit_fast.interop.checkpoints import load_fastai, read_vocab
from ulmfit_fast.interop.layouts import from_fastai
from ulmfit_fast.interop.weights import read_weights


@pytest.mark.parametrize("name", NAMES)
def test_no_payload_runs_through_any_path(tmp_path: Path, name: str) -> None:
    marker = tmp_path / "ran"
    value = payloads(marker)[name]
    loads: dict[str, Callable[[], Any]] = {
        path: functools.partial(load_fastai, source, vocab=vocab)
        for path, (source, vocab) in sources(tmp_path, value).items()
    }
    loads["vocabulary alone"] = lambda: read_vocab(tmp_path / "v.pkl")
    assert len(loads) == 22
    for path, load in loads.items():
        with pytest.raises(InputError) as error:
            load()
        assert not marker.exists(), path
        assert "\n" not in str(error.value), path


def test_the_payloads_are_live(tmp_path: Path) -> None:
    """In every form: a payload that its container broke would prove nothing."""
    ran: dict[str, list[str]] = {}
    marker = tmp_path / "ran"
    of_all = payloads(marker)
    assert list(of_all) == NAMES
    for name, value in of_all.items():
        forms = {
            "pickle": lambda value=value: pickle.loads(pickled(value)),
            "zip": lambda value=value: torch.load(io.BytesIO(as_zip(value)), weights_only=False),
            "legacy": lambda value=value: torch.load(
                io.BytesIO(as_legacy(value)), weights_only=False
            ),
        }
        for form, load in forms.items():
            with contextlib.suppress(Exception):
                found = load()
                if name == "os.popen":
                    found.read()
                if name == "copyreg":
                    found.wait()
            if marker.exists():
                ran.setdefault(form, []).append(name)
                marker.unlink()
    assert {form: set(NAMES) - set(names) for form, names in ran.items()} == dict.fromkeys(
        ("pickle", "zip", "legacy"), NOT_LIVE
    )


@pytest.mark.parametrize("name", ["os.system", "in opt", "raw exec", "raw STACK_GLOBAL"])
def test_commands_refuse_in_one_line_and_write_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.txt").write_text("a text\nanother text\n")
    of_all = sources(tmp_path, payloads(tmp_path / "ran")[name])
    before = sorted(p.name for p in tmp_path.iterdir())
    for source, vocab in of_all.values():
        beside = ["--vocab", vocab] if vocab else []
        commands = [["convert", source, "ours", *beside]]
        if not vocab:
            commands += [["pretrain", "t.txt", "--from", source], ["pretrain", "--from", source]]
        for arguments in commands:
            result = run(*arguments)
            assert result.exit_code == 2
            assert result.stderr.count("\n") == 1
            assert result.stdout == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def with_forged_numbers() -> bytes:
    """Return a model beside a number of numpy whose type claims to hold an address of an object."""

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    def dtype(name: str) -> bytes:
        return b"cnumpy\ndtype\n(" + text(name) + b"\x89\x88tR"

    field = b"}" + text("a") + b"(" + dtype("O8") + b"K\x00ts"
    state = b"(K\x03" + text("<") + b"N(" + text("a") + b"t" + field + b"K\x08K\x08K\x04tb"
    address = b"c_codecs\nencode\n(" + text("A" * 8) + text("latin1") + b"tR"
    number = b"cnumpy._core.multiarray\nscalar\n(" + dtype("V8") + state + address + b"tR"
    return b"\x80\x02}" + text("opt") + number + b"s."


def test_numbers_of_an_optimizer_never_reach_numpy() -> None:
    with pytest.raises(InputError, match="opt: expected a tensor, found _OfTheOptimizer"):
        read_weights(as_zip(with_forged_numbers()), "lm.pth")


@pytest.mark.parametrize("method", ["items", "get", "keys"])
def test_a_dict_with_attributes_of_its_own_is_read_as_a_dict(method: str) -> None:
    state = old_language_model("v1")
    hostile = Reduced(OrderedDict, (), {method: 1}, None, iter(state.items()))
    assert list(read_weights(as_zip(hostile), "lm.pth")) == list(state)


@pytest.mark.parametrize("method", ["dim", "numel", "detach", "to", "shape"])
def test_a_tensor_with_attributes_of_its_own_is_read_as_a_tensor(method: str) -> None:
    state, saved = old_language_model("v1"), old_language_model("v1")
    with contextlib.suppress(AttributeError):  # of shape, which no attribute can hide
        setattr(saved["1.decoder.bias"], method, 1)
    found = from_fastai(read_weights(as_zip(saved), "lm.pth"), "lm.pth")
    assert torch.equal(found.tensors["decoder_bias"], state["1.decoder.bias"])


def test_what_was_refused_is_named() -> None:
    with pytest.raises(InputError, match=r"holds more than tensors \(exec\); nothing in"):
        read_weights(as_zip(by_hand("1")), "lm.pth")


def test_weights_that_unpack_to_too_much_are_refused(tmp_path: Path) -> None:
    packed, source = io.BytesIO(), io.BytesIO()
    torch.save({"0.encoder.weight": torch.zeros(1 << 20)}, source)
    with (
        zipfile.ZipFile(source) as old,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(InputError, match="unpacks to more than its size"):
        read_weights(packed.getvalue(), "lm.pth")
    state = old_language_model("v1")
    state["1.decoder.bias"] = torch.zeros(1).expand(10**12)  # four bytes in the file
    with pytest.raises(InputError, match="1,000,000,000,000 values are claimed, fewer stored"):
        load_fastai(write_pair(tmp_path / "wide", state, vocab_of(V1)))
