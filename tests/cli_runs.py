"""Small data and a way to call the command line, shared by its tests."""

import csv
import json
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path

from click.testing import CliRunner, Result

from ulmfit_fast import cli

Row = tuple[str, str]  # text, label
SHORT = ["--size", "tiny", "--lm-epochs", "1", "--epochs", "2", "--batch-size", "16", "--no-report"]
SHORT_FROM_BASE = SHORT[2:]  # a base has its size
WORDS = {"pos": "good great fine lovely superb", "neg": "bad awful poor dull weak"}
# The default cache of every command run here, so that none is left in the user's.
CACHE = tempfile.TemporaryDirectory(prefix="ulmfit-fast-test-")
FILLING = ("the", "film", "was", "and", "a", "story", "told", "by", "an", "actor", "who", "plays")


def write_rows(path: Path, n: int, *, seed: int = 0, extra: Sequence[Row] = ()) -> None:
    draw = random.Random(seed)
    rows = []
    for i in range(n):
        label = ("pos", "neg")[i % 2]
        words = draw.sample(FILLING, 5) + draw.choices(WORDS[label].split(), k=3)
        rows.append((" ".join(words), label))
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("review", "label"), *rows, *extra])


def run(*arguments: str | Path, stdin: str | bytes | None = None) -> Result:
    runner = CliRunner(env={"XDG_CACHE_HOME": CACHE.name})
    result = runner.invoke(cli.main, [str(a) for a in arguments], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def succeed(*arguments: str | Path, stdin: str | bytes | None = None) -> Result:
    result = run(*arguments, stdin=stdin)
    assert result.exit_code == 0, result.stderr
    return result


def json_of(result: Result) -> dict:
    return json.loads(result.stdout)


def files_under(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def train_small(place: Path) -> Path:
    """Return the folder of a finished run."""
    write_rows(place / "train.csv", 60)
    succeed("train", place / "train.csv", "--out", place / "run", *SHORT)
    return place / "run"
