"""Pictures as files: which kinds there are, and how they look."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ulmfit_fast.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".svg", ".png", ".pdf")
OURS, PEER, OTHER, MARK = "#1b6ca8", "#d1603d", "#eeb79f", "#333333"
_STYLE: Any = {
    "svg.hashsalt": "ulmfit_fast",
    "svg.fonttype": "none",  # text that can be selected
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
}
_NO_DATE: dict[str, dict[str, Any]] = {
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None},
    ".png": {},
}


def check_plot(path: Path | None) -> None:
    """Raise InputError unless a picture can be written there, before anything is measured."""
    if path is None:
        return
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"--plot {path}: give a file that ends with {', '.join(SUFFIXES)}")
    if path.is_dir() or not path.absolute().parent.is_dir():
        what = "is a folder" if path.is_dir() else "its folder does not exist"
        raise InputError(f"--plot {path}: {what}; give another file")


@contextmanager
def drawing(path: Path, width: float, height: float) -> Iterator[Figure]:
    """Yield an empty figure, and write it at the end.

    The same figure gives the same file.

    Args:
        path: file to write; its ending says of which kind.
        width: inches.
        height: inches.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
        yield figure
        metadata = _NO_DATE[path.suffix.lower()]
        figure.savefig(path, dpi=150, facecolor="white", metadata=metadata)
