"""Weights and archives of fastai: the pickle of a .pth is changed inside its zip file."""

from __future__ import annotations

import io
import tarfile
import zipfile
from functools import cache

import torch
from fastai_files import V1, old_classifier, old_language_model, vocab_of

from fuzz.draws import Draw, edited_bytes, refuses
from fuzz.places import place
from ulmfit_fast.interop.archives import read_archive
from ulmfit_fast.interop.checkpoints import build_trainer
from ulmfit_fast.interop.layouts import from_fastai
from ulmfit_fast.interop.vocab_pickle import vocab_pickle
from ulmfit_fast.interop.weights import read_weights

INSTRUMENTED = ["ulmfit_fast.interop", "torch._weights_only_unpickler", "tarfile"]


@cache
def files() -> list[bytes]:
    """Return two states, whole models and their first tensors, now and as of before torch 1.6.

    A dozen tensors take torch 3 ms; what it does with a pickle shows with two as well.
    """
    model = old_language_model("v1")
    small = {"0.encoder.weight": torch.ones(2, 2), "1.decoder.bias": torch.ones(2)}
    found = []
    for state in (
        small,
        {"model": small, "opt": {"hypers": [{"lr": 0.1}]}},
        model,
        old_classifier("v1"),
    ):
        for is_zip in (True, False):
            buffer = io.BytesIO()
            torch.save(state, buffer, _use_new_zipfile_serialization=is_zip)
            found.append(buffer.getvalue())
    return found


@cache
def archive() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in (
            ("m/lm.pth", files()[0][:2000]),
            ("m/itos.pkl", vocab_pickle(vocab_of(V1))),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@cache
def entries(k: int) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(files()[k])) as source:
        return {name: source.read(name) for name in source.namelist()}


def rezipped(k: int, draw: Draw) -> bytes:
    """Return a zip file whose pickle is changed, and whose checksums are right."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        for name, content in entries(k).items():
            target.writestr(name, edited_bytes(content, draw) if name.endswith(".pkl") else content)
    return buffer.getvalue()


def seeds() -> list[bytes]:
    return [
        bytes([what, k, 0, *place_.to_bytes(2, "big"), how, 46, 9])
        for what in range(4)
        for k in (0, 1, 2, 3, 36, 37, 38, 39)
        for place_ in (0, 40, 300)
        for how in range(6)
    ]


def run(data: bytes) -> bool:
    """Read the weights that bytes describe; return whether they were refused."""
    draw = Draw(data)
    what, k = draw.below(5), draw.below(40)
    k = k % 4 if k < 36 else k - 32  # seldom a whole model
    if what == 3:
        path = place("archives") / "m.tar"
        path.write_bytes(edited_bytes(archive(), draw))
        return refuses(lambda: read_archive(path))
    if what == 4:
        content = draw.rest()
    else:
        content = rezipped(k & ~1, draw) if what < 2 else edited_bytes(files()[k], draw)

    def read() -> None:
        model = from_fastai(read_weights(content, "m.pth"), "m.pth")
        build_trainer(model, vocab_of(V1), None, "m.pth")

    return refuses(read)
