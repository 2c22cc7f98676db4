"""Texts for the examples that every machine has: docstrings of Python's standard library."""

from __future__ import annotations

import ast
import random
import sysconfig
from pathlib import Path

PACKAGES = ("asyncio", "logging", "unittest")


def docstrings(package: str) -> list[str]:
    """Return the docstrings of a package that have at least six words, each once."""
    folder = Path(sysconfig.get_path("stdlib")) / package
    texts: dict[str, None] = {}
    for path in sorted(folder.rglob("*.py")):
        if "test" in path.relative_to(folder).parts:
            continue
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                words = (ast.get_docstring(node) or "").split()
                if len(words) >= 6:
                    texts[" ".join(words[:60])] = None
    return list(texts)


def labelled_docstrings(n: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Return up to n docstrings of each package, shuffled, and the package of each."""
    rows = [(text, package) for package in PACKAGES for text in docstrings(package)[:n]]
    random.Random(seed).shuffle(rows)
    return [text for text, _ in rows], [package for _, package in rows]
