"""Language models that come with the package; loaded when they are asked for, by their name.

    english    subword model of English Wikipedia: english/MODEL_CARD.md

Where a model is wanted, its name stands for its folder, unless something of this name stands in the
working folder.
"""

from __future__ import annotations

from pathlib import Path

PLACE = Path(__file__).parent
#: What `ulmfit-fast train` starts from where nothing else is given and the texts are English.
DEFAULT = "english"


def names() -> list[str]:
    """Return the names of the models that this installation has, sorted."""
    return sorted(config.parent.name for config in PLACE.glob("*/config.json"))


def folder(name: str) -> Path:
    """Return the folder of a model of the package; nothing need be there."""
    return PLACE / name


def folder_of(path: str | Path) -> Path:
    """Return the folder of a model of the package for its name, and any other path as it is.

    A file or folder of this name in the working folder goes first.
    """
    path = Path(path)
    is_name = not path.exists() and str(path) in names()
    return folder(str(path)) if is_name else path


def name_of(path: Path) -> str:
    """Return what to call a model: its name for one of the package, else its path."""
    return path.name if path.parent == PLACE else str(path)
