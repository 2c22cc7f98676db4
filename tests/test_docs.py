"""The pages say what is so: their links, commands, options, settings and code."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from cli_runs import write_rows
from conftest import ROOT
from markdown_pages import (
    COMMAND,
    PAGES,
    Block,
    anchors,
    blocks,
    commands,
    links,
    name_of,
    prose,
    references,
    spans,
)

from ulmfit_fast import TrainConfig, cli
from ulmfit_fast.cli import status
from ulmfit_fast.encoder import Dropouts
from ulmfit_fast.training import config as config_module
from ulmfit_fast.training import defaults, sizes

#: Pages that the site makes out of files of the repository.
MADE = {"changelog.md", "contributing.md", "examples.md"}
#: Parts of the API have pages that the site makes.
MADE_FOLDER = ROOT / "docs" / "api"
#: Options of other programs that pages name.
FOREIGN_OPTIONS = {
    *("--no-build-isolation", "--no-deps", "--numprocesses"),
    *("--quiet", "--strict"),
    # torchrun's
    *("--max-restarts", "--nnodes", "--nproc-per-node", "--rdzv-backend", "--rdzv-endpoint"),
    "--shutdown-timeout",
}
#: Libraries of extras: a block that needs one is not run where it is not installed.
EXTRAS = {"fastai", "sklearn", "huggingface_hub", "pandas"}
LIBRARY_OF = {
    "ulmfit_fast.interop.fastai": "fastai",
    "ulmfit_fast.interop.hub": "huggingface_hub",
    "ulmfit_fast.interop.sklearn": "sklearn",
}
#: Pages whose blocks run one after the other, as a reader would type them.
RUN = ("index", "python", "tuning", "resume", "pytorch", "fastai")


def all_blocks(language: str) -> list[Block]:
    return [block for page in PAGES for block in blocks(page) if block.language == language]


# Links


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_and_anchors_exist(page: Path) -> None:
    for target in links(page):
        if re.match(r"[a-z]+:", target):
            assert target.startswith("https://"), f"{name_of(page)}: {target}"
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if file.parent == MADE_FOLDER and not file.exists():
            assert importlib.util.find_spec(f"ulmfit_fast.{file.stem}"), f"{page}: {target}"
            continue
        if file.parent == ROOT / "docs" and file.name in MADE:
            continue  # the site's own test follows it
        assert file.exists(), f"{name_of(page)}: {target} does not exist"
        if anchor:
            assert anchor in anchors(file), f"{name_of(page)}: {target} has no such heading"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_names_that_pages_link_to_exist(page: Path) -> None:
    for full_name in references(page):
        parts = full_name.split(".")
        n_module = next(n for n in range(len(parts), 0, -1) if is_module(".".join(parts[:n])))
        found: Any = importlib.import_module(".".join(parts[:n_module]))
        for name in parts[n_module:]:
            assert hasattr(found, name), f"{name_of(page)}: there is no {full_name}"
            found = getattr(found, name)


def is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


# Commands


def parse(arguments: list[str]) -> None:
    """Read a command's arguments as the command line does, without running it."""
    verb, *rest = arguments
    context = click.Context(cli.main, info_name=COMMAND)
    command = cli.main.get_command(context, verb)
    assert command is not None, f"no verb {verb}"
    with suppress(click.exceptions.Exit):  # --help
        command.make_context(verb, rest, parent=context)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_in_blocks_parse(page: Path) -> None:
    for block in blocks(page):
        if block.language == "python":
            continue
        for arguments in commands(block.text):
            if arguments[0].startswith("-") or arguments[0].isupper():
                continue
            try:
                parse(arguments)
            except click.UsageError as error:
                pytest.fail(f"{block.name}: {COMMAND} {' '.join(arguments)}: {error.message}")


def known_options() -> dict[str, set[str]]:
    """Return the options of every verb."""
    context = click.Context(cli.main)
    found = {}
    for verb in cli.main.list_commands(context):
        command = cli.main.get_command(context, verb)
        assert command is not None
        given = [name for parameter in command.params for name in parameter.opts]
        also = [name for parameter in command.params for name in parameter.secondary_opts]
        found[verb] = {*given, *also, "--help"}
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_verbs_and_options_in_the_prose_exist(page: Path) -> None:
    known = known_options()
    every = set().union(*known.values()) | FOREIGN_OPTIONS
    if page.name == "log.md":
        return  # what was, not what is
    for span in spans(page):
        options = re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", span)
        words = span.removeprefix(f"{COMMAND} ").split()
        verb = words[0] if words and words[0] in known else None
        if span.startswith(f"{COMMAND} ") and not words[0].isupper():
            assert verb or words[0].startswith("-"), f"{name_of(page)}: `{span}`: no such verb"
        allowed = known[verb] | FOREIGN_OPTIONS if verb else every
        for option in options:
            if span.startswith(("make ", "pytest ", "python ")):
                continue
            assert option in allowed, f"{name_of(page)}: `{span}`: there is no {option}"


def test_every_exit_status_is_explained() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    table = re.search(r"\| exit status \|.*?\n\n", page, re.DOTALL)
    assert table is not None
    cells = [line.split("|")[1] for line in table[0].splitlines() if line]
    said = {int(number) for cell in cells for number in re.findall(r"\d+", cell)}
    assert said == {int(number) for number in re.findall(r"\b\d+\b", status.STATUSES)}


def test_a_wrong_command_is_found() -> None:
    wrong = [["train", "a.csv", "--epoch-count", "3"], ["trian", "a.csv"], ["predict", "a"]]
    for arguments in wrong:
        with pytest.raises((click.UsageError, AssertionError)):
            parse(arguments)
    text = "echo a | .venv/bin/ulmfit-fast predict runs/a - > b.csv   # c\n$ ulmfit-fast demo"
    assert list(commands(text)) == [["predict", "runs/a", "-"], ["demo"]]


# Settings


def tables_of_settings() -> Iterator[tuple[str, str, str]]:
    """Yield (field, recipe, value) of every row of the tuning guide's tables of settings."""
    columns: list[str] = []
    for line in prose(ROOT / "docs" / "tuning.md").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] == "field":
            columns = cells
        elif not line.startswith("|"):
            columns = []
        elif columns and not cells[0].startswith("---"):
            for recipe in ("paper", "fastai"):
                yield cells[0].strip("`"), recipe, cells[columns.index(recipe)]


def shown(value: object) -> str:
    """Write a setting as the tables have it."""
    if isinstance(value, Dropouts):
        chances = (value.output, value.hidden, value.input, value.embed, value.weight)
        return " ".join(f"{chance:g}" for chance in chances)
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def test_the_tuning_guide_has_every_setting_with_its_value() -> None:
    found = set()
    for field, recipe, value in tables_of_settings():
        setting: Any = TrainConfig.preset(recipe)
        for name in field.split("."):
            setting = getattr(setting, name)
        assert shown(setting) == value, f"{field} of {recipe}"
        found.add(field)
    fields = TrainConfig.preset().to_dict()
    stages = ("pretrain", "language_model", "classifier")
    expected = {f"{stage}.{name}" for stage in stages for name in fields[stage]}
    expected |= fields.keys() - {*stages, "recipe"}
    assert found == expected


def test_the_tuning_guide_has_every_size() -> None:
    text = prose(ROOT / "docs" / "tuning.md")
    for name, size in sizes.SIZES.items():
        values = (size.embed_size, size.hidden_size, size.n_layers, size.drop_mult)
        assert f"| {name} | {' | '.join(map(str, values))} |" in text


# Python


@pytest.mark.filterwarnings("ignore")  # fastai's own
@pytest.mark.parametrize("block", all_blocks("python"), ids=lambda block: block.name)
def test_python_compiles_and_its_imports_resolve(block: Block) -> None:
    tree = ast.parse(block.text, filename=block.name)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                needs(alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            needs(node.module)
            module = importlib.import_module(node.module)
            for alias in node.names:
                if alias.name == "ULMFiTClassifier":
                    pytest.importorskip("sklearn")
                is_there = alias.name == "*" or hasattr(module, alias.name)
                assert is_there, f"{block.name}: {node.module} has no {alias.name}"


def needs(module: str) -> None:
    """Skip a test where a library of an extra is not installed; fail where another module is."""
    library = LIBRARY_OF.get(module, module.partition(".")[0])
    if library in EXTRAS:
        pytest.importorskip(library)
    assert is_module(module), f"there is no module {module}"


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every recipe train for an epoch, and every model be small."""
    for name, preset in config_module.PRESETS.items():
        small = replace(preset, min_freq=1, precision="fp32")
        for stage in ("pretrain", "language_model", "classifier"):
            small = small.with_stage(stage, epochs=1, batch_size=8)
        monkeypatch.setitem(config_module.PRESETS, name, small)
    for name, size in sizes.SIZES.items():
        small_size = replace(size, embed_size=8, hidden_size=12, n_layers=2)
        monkeypatch.setitem(sizes.SIZES, name, small_size)
    for stage in list(defaults.DEFAULT_EPOCHS):
        monkeypatch.setitem(defaults.DEFAULT_EPOCHS, stage, 1)


def surroundings(page: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Make what a page's reader has: files in this folder, and names."""
    if page in ("index", "python", "resume"):
        write_rows(Path("reviews.csv"), 40, extra=[("a text without label", "")])
        return {}
    if page == "fastai":
        pytest.importorskip("fastai")
        import fastai_files
        from fastai.text.models.core import _model_meta
        from fastai_models import SIZES, language_data

        from ulmfit_fast.interop import archives
        from ulmfit_fast.interop.fastai import AWD_LSTM

        monkeypatch.setattr(archives, "PUBLISHED", {})  # this one is made here
        for name, size in SIZES.items():
            monkeypatch.setitem(_model_meta[AWD_LSTM]["config_lm"], name, size)
        made = fastai_files.old_language_model("v1")
        file = fastai_files.write_pair(Path("made"), made, fastai_files.vocab_of(fastai_files.V1))
        pack(file.parent, Path("wt103-fwd.tgz"))
        return {"dls": language_data()}
    return {}


def pack(folder: Path, archive: Path) -> None:
    """Pack the files of a folder as fastai's archives are."""
    import tarfile

    with tarfile.open(archive, "w:gz") as tar:
        for file in sorted(folder.iterdir()):
            tar.add(file, arcname=f"wt103-fwd/{file.name}")


@pytest.mark.filterwarnings("ignore")  # fastai's own
@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("page", RUN)
def test_python_of_a_page_runs_from_top_to_bottom(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = surroundings(page, monkeypatch)
    found = [b for b in blocks(ROOT / "docs" / f"{page}.md") if b.language == "python"]
    assert found
    for block in found:
        if "ULMFiTClassifier" in block.text:
            pytest.importorskip("sklearn")
        code = compile("\n" * (block.line - 1) + block.text, name_of(block.page), "exec")
        exec(code, names)
