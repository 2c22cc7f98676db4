"""Files that would run something, in every form that a model or a vocabulary comes in."""

from __future__ import annotations

import builtins
import copyreg
import functools
import importlib
import io
import operator
import os
import pickle
import runpy
import subprocess
import tarfile
import timeit
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from fastai_files import V1, old_language_model, vocab_of, write_pair


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        """Return the call."""
        return self.function, self.arguments


class Reduced:
    """Pickles as any tuple that __reduce__ may return: with state, items or a setter of it."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def __reduce__(self) -> tuple[Any, ...]:
        """Return the parts."""
        return self.parts


def by_hand(code: str) -> bytes:
    """Return a pickle of protocol 0 that calls builtins.exec, without any class of ours."""
    return b"cbuiltins\nexec\n(S" + repr(code).encode() + b"\ntR."


def payloads(marker: Path) -> dict[str, Any]:
    """Return objects and raw pickles that make a file, if anything in them is run."""
    touch, code = f"touch {marker}", f"open({str(marker)!r}, 'w').close()"
    system = Call(os.system, touch)
    script = marker.with_name("script.py")
    script.write_text(code)
    return {
        "os.system": system,
        "os.popen": Call(os.popen, touch),
        "eval": Call(builtins.eval, f"__import__('os').system({touch!r})"),
        "exec": Call(builtins.exec, code),
        "subprocess": Call(subprocess.call, ["touch", str(marker)]),
        "open": Call(builtins.open, str(marker), "w"),
        "method": Call(Path.touch, marker),
        "getattr of an import": Call(
            operator.call,
            Call(builtins.getattr, Call(importlib.import_module, "os"), "system"),
            touch,
        ),
        "runpy": Call(runpy.run_path, str(script)),
        "timeit": Call(timeit.timeit, code, "pass", timeit.default_timer, 1),
        "methodcaller": Call(operator.methodcaller("touch"), marker),
        "partial": Call(functools.partial(os.system, touch)),
        "list of a map": Call(builtins.list, Call(builtins.map, os.system, [touch])),
        "in a list": [system],
        "in a tuple": ("xxunk", system),
        "in a dict": {"0.encoder.weight": system},
        "beside tensors": {**old_language_model("v1"), "x": system},
        "under model": {"model": {"0.encoder.weight": system}},
        "in opt": {"model": old_language_model("v1"), "opt": system},
        "as a key": {Call(os.system, touch): 1},
        "as a state": Reduced(OrderedDict, (), {"a": system}),
        "as an item": OrderedDict(a=system),
        "as a setter": Reduced(OrderedDict, (), touch, None, None, copied_system),
        "copyreg": Call(
            copyreg._reconstructor, subprocess.Popen, subprocess.Popen, ["touch", str(marker)]
        ),
        "raw exec": by_hand(code),
        "raw exec after a list": b"(lp0\n" + by_hand(code),
        "raw INST": f"(S{touch!r}\nios\nsystem\n.".encode(),
        "raw OBJ": b"(cos\nsystem\nV" + touch.encode() + b"\no.",
        "raw STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93(V" + touch.encode() + b"\ntR.",
        "raw persistent id": b"Pcode\n.",
        "raw EXT": b"\x80\x02\x82\x01.",
        "import": Call(builtins.__import__, "antigravity_of_nobody"),
    }


def copied_system(_: object, command: str) -> None:
    """Run a command, as the setter of a state: called with the object and the state."""
    os.system(command)


NAMES = [
    "os.system", "os.popen", "eval", "exec", "subprocess", "open", "method", "getattr of an import",
    "runpy", "timeit", "methodcaller", "partial", "list of a map", "in a list", "in a tuple",
    "in a dict", "beside tensors", "under model", "in opt", "as a key", "as a state", "as an item",
    "as a setter", "copyreg", "raw exec", "raw exec after a list", "raw INST", "raw OBJ",
    "raw STACK_GLOBAL", "raw persistent id", "raw EXT", "import",
]  # fmt: skip
NOT_LIVE = {"raw persistent id", "raw EXT", "import"}  # instructions alone, of which none is known


def pickled(value: Any) -> bytes:
    return value if isinstance(value, bytes) else pickle.dumps(value)


def as_zip(value: Any) -> bytes:
    """Return what torch.save writes, with any pickle in it."""
    buffer = io.BytesIO()
    torch.save({} if isinstance(value, bytes) else value, buffer)
    if not isinstance(value, bytes):
        return buffer.getvalue()
    changed = io.BytesIO()
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(changed, "w") as target:
        for name in source.namelist():
            is_pickle = name.endswith("data.pkl")
            target.writestr(name, value if is_pickle else source.read(name))
    return changed.getvalue()


def as_legacy(value: Any) -> bytes:
    """Return what torch.save wrote before it wrote zip files, with any pickle in it."""
    buffer = io.BytesIO()
    torch.save(
        {} if isinstance(value, bytes) else value, buffer, _use_new_zipfile_serialization=False
    )
    if not isinstance(value, bytes):
        return buffer.getvalue()
    return buffer.getvalue().replace(pickle.dumps({}, 2), value, 1)


def archive_of(folder: Path, files: dict[str, bytes], name: str = "model.tgz") -> Path:
    path = folder / name
    with tarfile.open(path, "w:gz" if name.endswith("gz") else "w") as archive:
        for member, data in files.items():
            info = tarfile.TarInfo(member)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def good(folder: Path) -> tuple[bytes, bytes]:
    """Return a model and its vocabulary that load."""
    file = write_pair(folder / "good", old_language_model("v1"), vocab_of(V1))
    return file.read_bytes(), (file.parent / "itos.pkl").read_bytes()


def sources(folder: Path, value: Any) -> dict[str, tuple[Path, Path | None]]:
    """Write a payload in every place where a model or a vocabulary is read from."""
    model, vocab = good(folder)
    found: dict[str, tuple[Path, Path | None]] = {}
    for form, data in (
        ("zip", as_zip(value)),
        ("legacy", as_legacy(value)),
        ("raw", pickled(value)),
    ):
        for suffix in (".pth", ".h5"):
            place = folder / f"{form}{suffix}.d"
            place.mkdir()
            (place / f"lm{suffix}").write_bytes(data)
            (place / "itos.pkl").write_bytes(vocab)
            found[f"{form} {suffix}"] = (place / f"lm{suffix}", None)
            found[f"{form} {suffix} in a folder"] = (place, None)
        for name in (f"{form}.tgz", f"{form}.tar"):
            found[name] = (archive_of(folder, {"lm.pth": data, "i.pkl": vocab}, name), None)
    (folder / "v.pkl").write_bytes(pickled(value))
    (folder / "good" / "itos.pkl").write_bytes(pickled(value))
    found["--vocab"] = (folder / "good" / "lm.pth", folder / "v.pkl")
    found["vocabulary beside"] = (folder / "good", None)
    both = archive_of(folder, {"lm.pth": model, "i.pkl": pickled(value)}, "vocab.tgz")
    found["vocabulary in an archive"] = (both, None)
    return found
