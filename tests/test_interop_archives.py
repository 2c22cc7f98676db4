"""Archives of strangers: entries that reach elsewhere, bombs, damage; the published ones."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hostile_files import archive_of, good

from ulmfit_fast import InputError
from ulmfit_fast.interop import archives
from ulmfit_fast.interop.checkpoints import load_fastai


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
    monkeypatch.setattr(archives, "LARGEST", 100)
    with pytest.raises(InputError, match=r"has [\d,]+ bytes; refused"):
        load_fastai(with_member(tmp_path))


def test_archives_that_unpack_to_too_much_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "LARGEST", 3 << 20)
    many = archive_of(tmp_path, {f"{i}.txt": bytes(1 << 20) for i in range(5)})
    with pytest.raises(InputError, match=r"unpacks to more than 3,145,728 bytes; refused"):
        load_fastai(many)
    entries = {f"{i}.txt": b"" for i in range(archives.MOST_ENTRIES + 1)}
    with pytest.raises(InputError, match="more than 1,000 entries"):
        load_fastai(archive_of(tmp_path, entries))
    path = tmp_path / "header.tgz"
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("lm.pth")
        info.pax_headers = {"comment": "a" * (2 << 20)}  # read at once by tarfile
        archive.addfile(info)
    with pytest.raises(InputError, match="unpacks to more than"):
        load_fastai(path)


def test_a_sparse_entry_is_refused(tmp_path: Path) -> None:
    path = with_member(tmp_path, type=tarfile.GNUTYPE_SPARSE)
    with pytest.raises(InputError, match=r"refused|damaged"):
        load_fastai(path)


def test_what_macos_leaves_beside_a_file_is_passed_over(tmp_path: Path) -> None:
    model, vocab = good(tmp_path)
    files = {"wt/._lm.pth": b"x", "wt/lm.pth": model, "wt/._i.pkl": b"x", "wt/i.pkl": vocab}
    assert load_fastai(archive_of(tmp_path, files)).language_model is not None


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
