"""Every public name says what it is, and what its parameters mean."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

import ulmfit_fast

PACKAGE = ROOT / "ulmfit_fast"
Function = ast.FunctionDef | ast.AsyncFunctionDef
#: Modules of which users call more than the names that a package lists.
USED = (
    "ulmfit_fast.schedule",
    "ulmfit_fast.training.defaults",
    "ulmfit_fast.training.observer",
    "ulmfit_fast.training.evaluation",
)
#: Packages whose __all__ is what users call.
PACKAGES = ("functional", "modules", "optim", "reference", "text", "doctor")


def public_files() -> list[Path]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        names = path.relative_to(PACKAGE).with_suffix("").parts
        if not any(name.startswith("_") and name != "__init__" for name in names):
            found.append(path)
    return found


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def public_nodes(node: ast.Module | ast.ClassDef) -> Iterator[ast.ClassDef | Function]:
    """Yield public classes, functions and methods."""
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if child.name.startswith("_"):
                continue
            yield child
            if isinstance(child, ast.ClassDef):
                yield from public_nodes(child)


def is_described_elsewhere(node: ast.ClassDef | Function) -> bool:
    """Tell variants of one function, and setters, whose first definition has the docstring."""
    decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
    return any(d.endswith("overload") or d.endswith(".setter") for d in decorators)


@pytest.mark.parametrize("path", public_files(), ids=name_of)
def test_every_public_name_has_a_docstring(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), f"{name_of(path)}: the module has no docstring"
    for node in public_nodes(tree):
        if not is_described_elsewhere(node):
            assert ast.get_docstring(node), f"{name_of(path)}:{node.lineno}: {node.name} has none"


def names_of_users() -> list[tuple[str, Any]]:
    """Return (full name, object) of the classes and functions that users call."""
    homes = [(home, name) for name, home in ulmfit_fast._HOME.items()]
    for part in PACKAGES:
        package = f"ulmfit_fast.{part}"
        homes += [(package, name) for name in importlib.import_module(package).__all__]
    for module in USED:
        found = vars(importlib.import_module(module)).items()
        homes += [(module, n) for n, v in found if getattr(v, "__module__", "") == module]
    chosen = {}
    for module, name in homes:
        value = getattr(importlib.import_module(module), name)
        if getattr(value, "_is_protocol", False):
            continue
        if (inspect.isclass(value) or inspect.isfunction(value)) and not name.startswith("_"):
            chosen[f"{value.__module__}.{value.__qualname__}"] = value
    return sorted((n, v) for n, v in chosen.items() if n.startswith("ulmfit_fast."))


@pytest.mark.parametrize("name_and_value", names_of_users(), ids=lambda pair: pair[0])
def test_parameters_of_what_users_call_are_described(name_and_value: tuple[str, Any]) -> None:
    name, value = name_and_value
    about = inspect.getdoc(value) or ""
    if inspect.isfunction(value):
        check_parameters(name, value, about)
        return
    if "__init__" in vars(value):
        check_parameters(name, value.__init__, about)
    for method, function in vars(value).items():
        function = getattr(function, "__func__", function)  # of a classmethod
        is_inherited = any(hasattr(base, method) for base in value.__bases__)
        if inspect.isfunction(function) and not method.startswith("_") and not is_inherited:
            check_parameters(f"{name}.{method}", function, f"{inspect.getdoc(function)}\n{about}")


def check_parameters(name: str, function: Any, about: str) -> None:
    """Assert that the docstring of a function of several parameters names each

    Of a method, and of the class around it, a line of the class's docstring is as good: Shape: of a
    module, Attributes: of a dataclass.
    """
    given = [p for p in inspect.signature(function).parameters if p not in ("self", "cls")]
    if len(given) < 2:
        return
    is_method = "." in function.__qualname__
    said = about if is_method else about.partition("Args:")[2] or about
    missing = [p for p in given if not re.search(rf"(?<![\w.]){p}(?!\w)", said)]
    assert not missing, f"{name}: its docstring does not say what {missing} are"
