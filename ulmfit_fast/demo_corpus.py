"""The demo's texts: docstrings that every machine with Python, numpy and torch already has.

A document is the prose of one docstring, read from source files with `ast`: nothing is imported.
Its class is the package it comes from. Names that would give the class away are masked.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import re
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ulmfit_fast.errors import InputError

# numpy, torch and the standard-library packages with the most docstrings (tkinter, idlelib and
# distutils have more, but are not in every installation).
PACKAGES = ("asyncio", "email", "logging", "multiprocessing", "numpy", "torch", "unittest", "xml")
# Names under which documentation imports them: np.array, nn.Linear, F.relu, ET.parse, mp.Queue.
ALIASES = frozenset({"np", "ma", "nn", "f", "optim", "dist", "et", "etree", "mp"})
BARE_ALIASES = frozenset({"np", "nn"})  # these say the package without a dot, too
MASK = "thing"

WORDS_IN_TEXT = (6, 100)  # shorter says nothing, longer is cut
WORDS_IN_GENERAL_TEXT = (6, 400)
MAX_TEXTS_PER_PACKAGE = 900  # numpy and torch have thousands: the rest of theirs is general text
LABELLED_PER_PACKAGE = 60
KEY_CHARACTERS = 40  # texts that begin with the same characters are in the same part
SPLIT = "2"  # another word, another split: the settings were chosen on an earlier one
SHARED_WORDS = 8  # so many words in a row of a held-out text, and a training text is left out
TEST_SHARE, VALID_SHARE = 0.25, 0.10

# Tests, installed packages, and the build tools that only some versions of numpy carry.
_LEFT_OUT = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "testing", "distutils", "f2py"}
)
_DOTTED_NAME = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
_ROLE = re.compile(r":[a-z][a-z:]*:`~?([^`<]*)(?:<[^`]*>)?`")
_UNDERLINE = re.compile(r"^\s*([-=~^*#])\1{2,}\s*$")
_SECTION = re.compile(
    r"^\s*(args?|arguments?|parameters?|params|keyword arg\w*|inputs?|outputs?|returns?|raises?"
    r"|yields?|examples?|usage|notes?|warnings?|references?|see also|attributes?|shape)\s*:{0,2}$",
    re.IGNORECASE,
)
_FIELD = re.compile(r"^\s*(:\w+[^:]*:|\.\. |@\w+)")
_DOCTEST = re.compile(r"^\s*(>>>|\.\.\. ?)")


@dataclass(frozen=True)
class Texts:
    """Documents and, one for each, the package it comes from."""

    texts: list[str]
    labels: list[str]

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class DemoCorpus:
    """The parts of the corpus.

    No text of the first three begins with the same KEY_CHARACTERS characters as a valid or test
    text, or has SHARED_WORDS words in a row with one; no test text begins like a valid one.

    Args:
        general: texts of other modules, for pretraining.
        labelled: the training texts whose label the classifier may see.
        unlabelled: the other training texts, for the language model alone.
        valid: texts to choose on.
        test: texts to report on, used once.
    """

    general: list[str]
    labelled: Texts
    unlabelled: Texts
    valid: Texts
    test: Texts


@dataclass(frozen=True)
class Sources:
    """Where the Python files are.

    Args:
        packages: class name -> folder of its package.
        library: folder of the standard library, whose other modules are the general text.
    """

    packages: dict[str, Path]
    library: Path


def find_sources() -> Sources:
    """Find the packages' folders without importing them.

    Raises:
        InputError: one has no folder with sources here.
    """
    folders: dict[str, Path] = {}
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        locations = spec.submodule_search_locations if spec else None
        if not locations:
            raise InputError(
                f"demo: the Python files of {package!r} were not found, and the demo's texts are "
                "their docstrings; install Python with its standard library as .py files"
            )
        folders[package] = Path(locations[0])
    return Sources(packages=folders, library=Path(sysconfig.get_path("stdlib")))


def build_demo_corpus(sources: Sources) -> DemoCorpus:
    """Read the docstrings and split them; the same files give the same corpus on every run."""
    by_package = {name: _documents(_files(folder)) for name, folder in sources.packages.items()}
    general = _documents(_library_files(sources))
    parts: dict[str, list[_Labelled]] = {"train": [], "valid": [], "test": []}
    for package, documents in _without_shared(by_package).items():
        ordered = sorted(documents, key=lambda document: _digest(document.text))
        for document in ordered[:MAX_TEXTS_PER_PACKAGE]:
            parts[_part(document.text)].append((document.text, package))
        general += ordered[MAX_TEXTS_PER_PACKAGE:]
    held_out = _Leaks(text for text, _ in parts["valid"] + parts["test"])
    train = [(text, package) for text, package in parts["train"] if text not in held_out]
    labelled, unlabelled = _split_labelled(train)
    return DemoCorpus(
        general=[
            document.whole
            for document in general
            if document.text not in held_out and document.whole not in held_out
        ],
        labelled=_texts(labelled),
        unlabelled=_texts(unlabelled),
        valid=_texts(parts["valid"]),
        test=_texts(parts["test"]),
    )


_Labelled = tuple[str, str]  # text, package


@dataclass(frozen=True)
class _Document:
    text: str  # the opening prose
    whole: str  # everything but examples, for the language model


def _files(folder: Path) -> Iterator[Path]:
    """Public modules: no tests, and no part of the path below the folder starts with one '_'."""
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).parts
        if not _LEFT_OUT.intersection(parts) and not any(map(_is_private, parts)):
            yield path


def _is_private(name: str) -> bool:
    return name.startswith("_") and name not in ("__init__.py", "_core")  # numpy's own is public


def _library_files(sources: Sources) -> Iterator[Path]:
    """Every file of the standard library that no class is made of."""
    for path in sorted(sources.library.rglob("*.py")):
        parts = path.relative_to(sources.library).parts
        if not _LEFT_OUT.intersection(parts) and parts[0] not in sources.packages:
            yield path


def _documents(paths: Iterable[Path]) -> list[_Document]:
    """One document a docstring, without exact repeats, in the order of the files."""
    documents: dict[str, _Document] = {}
    for path in paths:
        for docstring in _docstrings(path):
            lines = [_ROLE.sub(r"\1", line) for line in docstring.splitlines()]
            text = _clean(_opening(lines), WORDS_IN_TEXT)
            if text:
                whole = _clean(_without_examples(lines), WORDS_IN_GENERAL_TEXT)
                documents.setdefault(text, _Document(text, whole))
    return list(documents.values())


def _docstrings(path: Path) -> Iterator[str]:
    """Docstrings of a file; a file that this Python cannot parse has none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's files
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node)
            if docstring:
                yield docstring


def _opening(lines: list[str]) -> list[str]:
    """Lines up to the first section, field list or example."""
    for index, line in enumerate(lines):
        underlined = index + 1 < len(lines) and _UNDERLINE.match(lines[index + 1])
        if underlined or _SECTION.match(line) or _FIELD.match(line) or _DOCTEST.match(line):
            return lines[:index]
    return lines


def _without_examples(lines: list[str]) -> list[str]:
    return [line for line in lines if not _DOCTEST.match(line) and not _UNDERLINE.match(line)]


def _clean(lines: list[str], n_words: tuple[int, int]) -> str:
    """Masked text on one line, cut at the upper limit; empty when under the lower one."""
    encodable = " ".join(lines).encode("utf-8", "replace").decode()  # no lone surrogates
    words = _DOTTED_NAME.sub(_mask, encodable).split()
    return " ".join(words[: n_words[1]]) if len(words) >= n_words[0] else ""


def _mask(match: re.Match[str]) -> str:
    name = match.group().lower()
    first, dot, _ = name.partition(".")
    is_alias = first in (ALIASES if dot else BARE_ALIASES)
    return MASK if is_alias or any(package in name for package in PACKAGES) else match.group()


def _without_shared(by_package: dict[str, list[_Document]]) -> dict[str, list[_Document]]:
    """Drop texts that stand in more than one package: they have no right answer."""
    n_packages = Counter(d.text for documents in by_package.values() for d in documents)
    return {
        package: [document for document in documents if n_packages[document.text] == 1]
        for package, documents in by_package.items()
    }


def _key(text: str) -> str:
    return " ".join(text.lower().split())[:KEY_CHARACTERS]


def _runs(text: str) -> Iterator[str]:
    words = text.lower().split()
    for start in range(len(words) - SHARED_WORDS + 1):
        yield " ".join(words[start : start + SHARED_WORDS])


class _Leaks:
    """`text in leaks`: the text would tell a model something of the held-out texts."""

    def __init__(self, held_out: Iterable[str]) -> None:
        texts = list(held_out)
        self._keys = frozenset(map(_key, texts))
        self._runs = frozenset(run for text in texts for run in _runs(text))

    def __contains__(self, text: str) -> bool:
        return _key(text) in self._keys or not self._runs.isdisjoint(_runs(text))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _part(text: str) -> str:
    """Part of the split, decided by how the text begins alone."""
    position = int(_digest(SPLIT + _key(text))[:8], 16) / 16**8
    if position < TEST_SHARE:
        return "test"
    return "valid" if position < TEST_SHARE + VALID_SHARE else "train"


def _split_labelled(train: list[_Labelled]) -> tuple[list[_Labelled], list[_Labelled]]:
    """Give each package's first LABELLED_PER_PACKAGE texts a label; the others go without."""
    n_seen: Counter[str] = Counter()
    labelled: list[_Labelled] = []
    unlabelled: list[_Labelled] = []
    for text, package in train:
        n_seen[package] += 1
        side = labelled if n_seen[package] <= LABELLED_PER_PACKAGE else unlabelled
        side.append((text, package))
    return labelled, unlabelled


def _texts(documents: list[_Labelled]) -> Texts:
    return Texts([text for text, _ in documents], [package for _, package in documents])
