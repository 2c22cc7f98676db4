"""What stands in Markdown pages: blocks of code, links, anchors, commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from conftest import ROOT

#: The pages that people read: those of the repository, and those of the site.
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "examples/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
COMMAND = "ulmfit-fast"


@dataclass(frozen=True)
class Block:
    """A fenced block of code.

    Attributes:
        page: its file.
        line: of the file, from 1, of its first line of code.
        language: "python", "" and so on.
        text: its lines.
    """

    page: Path
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        """Page and line, for messages."""
        return f"{name_of(self.page)}:{self.line}"


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(page: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a page."""
    opened: tuple[int, str] | None = None
    lines: list[str] = []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if not line.startswith("```"):
            lines.append(line)
        elif opened is None:
            opened, lines = (number + 1, line[3:].strip()), []
        else:
            yield Block(page, *opened, "\n".join(lines) + "\n")
            opened = None
    assert opened is None, f"{name_of(page)}: a block of code does not end"


def prose(page: Path) -> str:
    """Return a page whose blocks of code are empty lines, so that line numbers stay."""
    text = page.read_text(encoding="utf-8")
    return re.sub(
        r"^```.*?^```$", lambda m: "\n" * m[0].count("\n"), text, flags=re.MULTILINE | re.DOTALL
    )


def spans(page: Path) -> list[str]:
    """Return what stands as `code` in the prose of a page."""
    return re.findall(r"`([^`\n]+)`", prose(page))


def links(page: Path) -> list[str]:
    """Return the targets of [text](target) and ![text](target)."""
    text = re.sub(r"`[^`\n]*`", "code", prose(page))
    return re.findall(r"\]\(([^)\s]+)\)", text)


def references(page: Path) -> list[str]:
    """Return the full names in links to the API, [text][ulmfit_fast...]."""
    return re.findall(r"\]\[(ulmfit_fast[\w.]*)\]", prose(page))


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and mkdocs make them."""
    headings = re.findall(r"^#+ +(.+?) *$", prose(page), re.MULTILINE)
    plain = [re.sub(r"[`*]|\]\([^)]*\)|\[", "", heading).lower() for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


def commands(text: str) -> Iterator[list[str]]:
    """Yield the arguments of every ulmfit-fast command in a shell's lines, comments left out."""
    for line in text.splitlines():
        found = re.search(rf"(?:^|[|&;$\s/]){COMMAND}\s+(.+)", line)
        if found is not None and not found[1].startswith(("#", "0.")):
            words = shlex.split(found[1], comments=True)
            ends = [k for k, word in enumerate(words) if word in ("|", "&&", ";", ">", "&")]
            yield words[: ends[0]] if ends else words
