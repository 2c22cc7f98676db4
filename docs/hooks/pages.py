"""Pages of the site that come from the code: the API, the command line, changes, contributing.

mkdocs calls the on_... functions (mkdocs.yml, hooks). Nothing that is made here is committed.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "ulmfit_fast"
sys.path[:0] = [str(Path(__file__).parent), str(ROOT)]

import command_line  # noqa: E402  (its place was added to the path)

#: Files of the repository that are pages too, by their name in docs/.
TAKEN = {
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "examples.md": "examples/README.md",
}
#: The command line's modules are described by cli.md.
ELSEWHERE = {"cli"}
#: Parts that nobody needs who does not change this library.
INSIDE = {"chunks", "commands", "demo", "demo_corpus", "kernels"}
#: Parts in the order of the reference; others follow in alphabetical order.
FIRST = ("training", "text", "model", "encoder", "modules", "functional", "optim", "schedule")


def parts() -> dict[str, list[str]]:
    """Return the public modules of each part of the package, the part itself first."""
    found: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        names = path.relative_to(PACKAGE).with_suffix("").parts
        if names[-1] == "__init__":
            names = names[:-1]
        if names and not any(name.startswith("_") for name in names) and names[0] not in ELSEWHERE:
            found.setdefault(names[0], []).append(".".join(("ulmfit_fast", *names)))
    ranks = {part: rank for rank, part in enumerate(FIRST)}
    order = sorted(found, key=lambda part: (part in INSIDE, ranks.get(part, len(FIRST)), part))
    return {part: offered_first(part, found[part]) for part in order}


def offered_first(part: str, modules: list[str]) -> list[str]:
    """Return a part's modules, those first that define what ulmfit_fast or the part offers."""
    package = f"ulmfit_fast.{part}"
    homes = {home.rpartition(".")[0] for _, home in public_names(package)}
    homes |= {package, *package_names().values()}
    return sorted(modules, key=lambda module: (module not in homes, module))


def package_names() -> dict[str, str]:
    """Return the modules that the names of the package itself come from."""
    import ulmfit_fast  # which loads nothing but itself

    return {**ulmfit_fast._HOME, **ulmfit_fast._HOME_WITH_EXTRA}


def tree_of(module: str) -> ast.Module:
    """Return the syntax tree of a module or package."""
    return ast.parse(source_of(module))


def source_of(module: str) -> str:
    """Return the source of a module or package."""
    path = ROOT.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return file.read_text(encoding="utf-8")


def summary(node: Any) -> str:
    """Return the first line of a docstring."""
    return (ast.get_docstring(node) or "").partition("\n")[0]


def home_of(module: str, name: str) -> str | None:
    """Return the full name of what a module defines or imports under a name, or None."""
    found = None
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return f"{module}.{name}"
        if isinstance(node, ast.ImportFrom) and name in [alias.name for alias in node.names]:
            above = module.split(".") if node.level else []
            found = ".".join([*above, *([node.module] if node.module else [])])
    return home_of(found, name) if found and found.startswith("ulmfit_fast") else None


def public_names(module: str) -> Iterator[tuple[str, str]]:
    """Yield (name, full name) of the classes and functions that a package offers.

    They stand in its __all__, or else among the names of ulmfit_fast.
    """
    for name, place in package_names().items():
        is_here = place.startswith(f"{module}.") and "__all__" not in source_of(module)
        if module == "ulmfit_fast" or is_here:
            yield name, home_of(place, name) or f"{place}.{name}"
    if module == "ulmfit_fast":
        return
    for node in tree_of(module).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            for name in ast.literal_eval(node.value):
                home = home_of(module, name)
                if home is not None:
                    yield name, home


def names_table(module: str) -> str:
    """Return a table of a package's public names, or nothing where it has none."""
    rows = [(name, home, described(home)) for name, home in public_names(module)]
    lines = [f"| [`{name}`][{home}] | {text} |" for name, home, text in rows]
    return "\n".join(["| name | what it is |", "|---|---|", *lines, ""]) if lines else ""


def described(full_name: str) -> str:
    """Return the first line of the docstring of a class or function."""
    module, _, name = full_name.rpartition(".")
    nodes = [node for node in ast.walk(tree_of(module)) if getattr(node, "name", None) == name]
    return cell(summary(nodes[0])) if nodes else ""


def cell(text: str) -> str:
    """Return a text as it may stand in a table."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def api_page(part: str, modules: list[str]) -> str:
    """Return the page of a part: what it is, its public names, then every module."""
    package = f"ulmfit_fast.{part}"
    lines = [f"# {package}", ""]
    inner = [module for module in modules if module != package]
    if not inner:
        return "\n".join([*lines, f"::: {package}", "    options:", "      heading_level: 2", ""])
    lines += [ast.get_docstring(tree_of(package)) or "", "", names_table(package), ""]
    for module in inner:
        lines += [f"::: {module}", ""]
    return "\n".join(lines)


def api_table() -> str:
    """Return the table of all parts, for api/index.md."""
    head = ["| part | what it is |", "|---|---|"]
    rows = {False: list(head), True: list(head)}
    for part in parts():
        text = cell(summary(tree_of(f"ulmfit_fast.{part}")))
        rows[part in INSIDE].append(f"| [`{part}`]({part}.md) | {text} |")
    names = names_table("ulmfit_fast")
    return "\n".join(
        [
            "## Names of the package itself\n", names,
            "## Parts\n", *rows[False], "",
            "## For those who change this library\n", *rows[True], "",
        ]
    )  # fmt: skip


def on_config(config: Any) -> Any:
    """Put the pages of the API in the navigation."""
    pages: list[Any] = ["api/index.md"]
    inside: list[Any] = []
    for part in parts():
        (inside if part in INSIDE else pages).append({f"ulmfit_fast.{part}": f"api/{part}.md"})
    pages.append({"Inside": inside})
    for entry in config.nav:
        if "API" in entry:
            entry["API"] = pages
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are no file in docs/."""
    for name, source in TAKEN.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=text))
    for part, modules in parts().items():
        page = api_page(part, modules)
        files.append(File.generated(config, f"api/{part}.md", content=page))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fill the places that are made from code, and turn links out of docs/ into links in it."""
    if page.file.src_uri == "cli.md":
        return markdown.replace("<!-- commands -->", command_line.all_verbs())
    if page.file.src_uri == "api/index.md":
        return markdown.replace("<!-- parts -->", api_table())
    for name, source in TAKEN.items():
        markdown = re.sub(
            rf"\]\((?:\.\./)+{re.escape(source)}(#[^)]*)?\)", rf"]({name}\1)", markdown
        )
    return markdown


def on_page_content(html: str, **_: Any) -> str:
    """Mark short code, which site.css keeps in one line."""
    return re.sub(r"<code>(?=[^<]{1,24}</code>)", '<code class="short">', html)
