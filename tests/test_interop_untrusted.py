"""Files of strangers: nothing in them runs, whichever way they come in."""

from __future__ import annotations

import builtins
import contextlib
import io
import os
import pickle
import subprocess
import tarfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_runs import run
from fastai_files import V1, old_language_model, vocab_of, write_pair

from ulmfit_fast import InputError
from ulmfit_fast.interop import archives, download
from ulmfit_fast.interop.checkpoints import load_fastai, read_vocab, read_weights


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        """Return the call."""
        return self.function, self.arguments


class Built(dict):
    """Pickles as a call whose result gets a state by another call."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __reduce__(self) -> tuple[Any, ...]:
        """Return an empty dict and the state."""
        return OrderedDict, (), {"a": self.inner}


def by_hand(code: str) -> bytes:
    """Return a pickle of protocol 0 that calls builtins.exec, without any class of ours."""
    return b"cbuiltins\nexec\n(S" + repr(code).encode() + b"\ntR."


def payloads(marker: Path) -> dict[str, Any]:
    """Return objects and raw pickles that make a file, if anything in them is run."""
    touch, code = f"touch {marker}", f"open({str(marker)!r}, 'w').close()"
    system = Call(os.system, touch)
    return {
        "os.system": system,
        "eval": Call(builtins.eval, f"__import__('os').system({touch!r})"),
        "exec": Call(builtins.exec, code),
        "subprocess": Call(subprocess.call, ["touch", str(marker)]),
        "open": Call(builtins.open, str(marker), "w"),
        "getattr": Call(Path.touch, marker),
        "in a list": [system],
        "in a tuple": ("xxunk", system),
        "in a dict": {"0.encoder.weight": system},
        "beside tensors": {**old_language_model("v1"), "x": system},
        "under model": {"model": {"0.encoder.weight": system}},
        "in opt": {"model": old_language_model("v1"), "opt": system},
        "as a key": {Call(os.system, touch): 1},
        "as a state": Built(system),
        "import": Call(builtins.__import__, "antigravity_of_nobody"),
        "map": Call(map, os.system, [touch]),
        "partial": Call(__import__("functools").partial, os.system, touch),
        "raw exec": by_hand(code),
        "raw exec after a list": b"(lp0\n."[:4] + by_hand(code),
        "raw INST": f"(S{touch!r}\nios\nsystem\n.".encode(),
        "raw persistent id": b"Pcode\n.",
        "raw EXT": b"\x80\x02\x82\x01.",
    }


NAMES = list(payloads(Path("marker")))


def pickled(value: Any) -> bytes:
    return value if isinstance(value, bytes) else pickle.dumps(value)


def as_zip(value: Any) -> bytes:
    """Return what torch.save writes; a raw pickle in place of its own."""
    if isinstance(value, bytes):
        return value
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def as_legacy(value: Any) -> bytes:
    """Return what torch.save wrote before it wrote zip files."""
    if isinstance(value, bytes):
        return value
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def archive_of(folder: Path, files: dict[str, bytes], name: str = "model.tgz") -> Path:
    path = folder / name
    with tarfile.open(path, "w:gz") as archive:
        for member, data in files.items():
            info = tarfile.TarInfo(member)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def good(folder: Path) -> tuple[bytes, bytes]:
    """Return a model and its vocabulary that load."""
    file = write_pair(folder / "good", old_language_model("v1"), vocab_of(V1))
    return file.read_bytes(), (file.parent / "itos.pkl").read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_no_payload_runs_through_any_path(tmp_path: Path, name: str) -> None:
    marker = tmp_path / "ran"
    value = payloads(marker)[name]
    model, vocab = good(tmp_path)
    (tmp_path / "v.pkl").write_bytes(pickled(value))
    (tmp_path / "good.pth").write_bytes(model)
    paths: dict[str, Callable[[], Any]] = {
        "vocabulary": lambda: read_vocab(tmp_path / "v.pkl"),
        "vocabulary of a model": lambda: load_fastai(
            tmp_path / "good.pth", vocab=tmp_path / "v.pkl"
        ),
        "pickle as weights": lambda: read_weights(pickled(value), "w.pth"),
        "zip": lambda: read_weights(as_zip(value), "w.pth"),
        "legacy": lambda: read_weights(as_legacy(value), "w.h5"),
        "archive, vocabulary": lambda: load_fastai(
            archive_of(tmp_path, {"lm.pth": model, "itos.pkl": pickled(value)})
        ),
        "archive, weights": lambda: load_fastai(
            archive_of(tmp_path, {"lm.pth": as_zip(value), "itos.pkl": vocab})
        ),
    }
    for path, load in paths.items():
        with pytest.raises(InputError) as error:
            load()
        assert not marker.exists(), path
        assert "\n" not in str(error.value), path


def test_the_payloads_are_live(tmp_path: Path) -> None:
    ran = []
    for name, value in payloads(tmp_path / "ran").items():
        marker = tmp_path / "ran"
        with contextlib.suppress(Exception):
            pickle.loads(pickled(value))
        if marker.exists():
            ran.append(name)
            marker.unlink()
    assert len(ran) >= 16, ran


def with_member(folder: Path, **changes: Any) -> Path:
    """Return an archive whose second entry has other attributes."""
    model, vocab = good(folder)
    path = folder / "model.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name, data in (("lm.pth", model), ("itos.pkl", vocab)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            if name == "itos.pkl":
                for key, value in changes.items():
                    setattr(info, key, value)
            archive.addfile(info, io.BytesIO(data) if info.isfile() else None)
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "../itos.pkl"}, "points outside of the archive"),
        ({"name": "/etc/itos.pkl"}, "points outside of the archive"),
        ({"name": "a/../../itos.pkl"}, "points outside of the archive"),
        ({"name": "a\\itos.pkl"}, "points outside of the archive"),
        ({"type": tarfile.SYMTYPE, "linkname": "/etc/passwd", "size": 0}, "is a link or device"),
        ({"type": tarfile.LNKTYPE, "linkname": "lm.pth", "size": 0}, "is a link or device"),
        ({"type": tarfile.FIFOTYPE, "size": 0}, "is a link or device"),
        ({"name": "itos.txt"}, "expected one .pkl file in it, found 0"),
        ({"name": "second.pth"}, "expected one .pth or .h5 file in it, found 2"),
    ],
)
def test_entries_that_reach_elsewhere_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as error:
        load_fastai(with_member(tmp_path, **changes))
    assert message in str(error.value)


def test_an_entry_that_claims_to_be_huge_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "LARGEST_FILE", 100)
    with pytest.raises(InputError, match=r"has [\d,]+ bytes; refused"):
        load_fastai(with_member(tmp_path))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_an_archive_that_is_cut_short_is_refused(tmp_path: Path, share: float) -> None:
    path = with_member(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match=r"damaged or cut short|cut short"):
        load_fastai(path)


def test_a_published_name_must_have_the_published_content(tmp_path: Path) -> None:
    path = with_member(tmp_path).rename(tmp_path / "wt103-fwd.tgz")
    with pytest.raises(InputError, match="but the published file has 105,067,061"):
        load_fastai(path)


def test_a_published_size_is_not_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = with_member(tmp_path).rename(tmp_path / "wt103-fwd.tgz")
    size = archives.Published(path.stat().st_size, "0" * 32)
    monkeypatch.setitem(archives.PUBLISHED, "wt103-fwd.tgz", size)
    with pytest.raises(InputError, match="its MD5 is"):
        load_fastai(path)


def test_without_a_network_an_address_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "SECONDS", 1)
    with pytest.raises(InputError, match="cannot be fetched"):
        download.download("http://127.0.0.1:9/wt103-fwd.tgz", tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_an_address_is_fetched_once_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = with_member(tmp_path)
    asked = []

    def urlopen(address: str, timeout: float) -> Any:
        asked.append(address)
        return io.BytesIO(path.read_bytes())

    monkeypatch.setattr(download.urllib.request, "urlopen", urlopen)
    for _ in range(2):
        found = download.download("https://example.org/a/model.tgz?x=1", tmp_path / "cache")
    assert found == tmp_path / "cache" / "model.tgz"
    assert len(asked) == 1
    assert load_fastai(found).language_model is not None
    with pytest.raises(InputError, match="the published file has"):
        download.download("https://example.org/wt103-bwd.tgz", tmp_path / "cache")
    assert sorted(p.name for p in (tmp_path / "cache").iterdir()) == ["model.tgz"]


def test_commands_refuse_in_one_line_and_write_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    marker = tmp_path / "ran"
    archive = archive_of(tmp_path, {"lm.pth": good(tmp_path)[0], "i.pkl": by_hand("1")})
    before = sorted(p.name for p in tmp_path.iterdir())
    (tmp_path / "t.txt").write_text("a text\nanother text\n")
    for arguments in (["convert", archive, "ours"], ["pretrain", "t.txt", "--from", archive]):
        result = run(*arguments)
        assert result.exit_code == 2
        assert result.stderr.count("\n") == 1
        assert "was not run" in result.stderr
    assert not marker.exists()
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "t.txt") == before
