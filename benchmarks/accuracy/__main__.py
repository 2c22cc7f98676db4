"""The driver of the accuracy figures; see --help."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import ulmfit_fast
from ulmfit_fast.errors import InputError, TrainingStopped

from . import ablations, baselines, language_model, low_shot, plot, pretrain, table, tasks
from .presets import PRESETS, Preset, quick
from .record import RESULTS, Unit, run, say

HELP = """\
Measure the accuracy of ulmfit_fast: one JSON for each (task, variant, seed).

  language-model  WikiText-2 (and PTB with --ptb): NT-ASGD, Adam, Adam with averaging
  prepare         ids of the Wikipedia parts, so that pretraining needs no tokenizing
  pretrain        a language model from them, measured on WikiText-2; saved to --work/bases
  base            measure --base on WikiText-2
  trec, imdb, ag  test error of ULMFiT
  ablations       tables 4 to 7 of the paper on TREC-6 and a part of IMDb
  low-shot        error against the number of labels
  baselines       TF-IDF, bag of n-grams, fastai, sentence embeddings, on the same rows
  table, plot     docs/accuracy.md and its figures, from the records
  list            what a task would measure, and what of it is there

A record that is there with the same settings is not measured again. A run that was killed goes on
with the same command, from the checkpoints in --work."""

Units = Callable[[argparse.Namespace, Preset], Iterator[Unit]]
TASKS: dict[str, Units] = {
    "language-model": language_model.units,
    "pretrain": pretrain.units,
    "base": pretrain.base_units,
    **{name: partial(tasks.units, name=name) for name in ("trec", "imdb", "ag")},
    "ablations": ablations.units,
    "low-shot": low_shot.units,
    "baselines": baselines.units,
}


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy", description=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    found.add_argument("task", choices=(*TASKS, "prepare", "table", "plot", "list"))
    found.add_argument("of", nargs="*", metavar="TASK", help="tasks that list shall list")
    found.add_argument("--data", type=Path, default=Path("../shared/data"))
    found.add_argument("--preset", choices=tuple(PRESETS), default="tiny")
    found.add_argument("--work", type=Path, default=Path("build/accuracy"), help="checkpoints")
    found.add_argument("--results", type=Path, default=RESULTS)
    found.add_argument(
        "--base",
        type=Path,
        help="folder of a pretrained language model, or none; the package's own where it has one",
    )
    found.add_argument("--base-backward", type=Path, help="one of reversed words")
    found.add_argument("--ptb", type=Path, help="folder of ptb.train.txt, .valid.txt, .test.txt")
    found.add_argument("--sentence-model", type=Path, help="folder of model.onnx, tokenizer.json")
    found.add_argument("--seeds", type=seeds, default=(), help="such as 0,1,2")
    found.add_argument("--only", nargs="+", default=(), help="variants")
    found.add_argument("--dataset", nargs="+", default=(), help="data sets of a task of several")
    found.add_argument("--parts", nargs="+", choices=("AA", "AB", "AC", "AD"))
    found.add_argument("--direction", choices=("forward", "backward"), default="forward")
    found.add_argument("--device", help="such as cpu or cuda; a GPU where there is one")
    found.add_argument("--checkpoint-every", type=float, default=300.0, metavar="SECONDS")
    found.add_argument("--quick", action="store_true", help="does it run? nothing is learnt")
    found.add_argument("--check", action="store_true", help="table: fail where it is not current")
    return found


def seeds(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


def base_of(given: Path | None) -> Path | None:
    """Return the folder of the pretrained model: given, by its name in the package, or its own.

    Args:
        given: folder or name; None takes the package's `english` where it has it; `none` is none.
    """
    own = Path(ulmfit_fast.__file__).parent / "pretrained"
    named = own / (given or "english")
    if given is not None and (given.exists() or not named.exists()):
        return None if str(given) == "none" else given
    return named if (named / "manifest.json").is_file() else None


def wanted(options: argparse.Namespace, preset: Preset, task: str) -> Iterator[Unit]:
    """Yield the units of a task that --only has not left out."""
    for unit in TASKS[task](options, preset):
        if not options.only or any(unit.variant.startswith(name) for name in options.only):
            yield unit


def work(options: argparse.Namespace) -> int:
    """Do the task; return the exit status."""
    preset = PRESETS[options.preset]
    preset = quick(preset) if options.quick else preset
    if options.task == "table":
        return table.main(options.results, check=options.check)
    if options.task == "plot":
        return plot.main(options.results)
    if options.task == "prepare":
        say(f"prepared: {pretrain.prepare(options, preset).folder}")
        return 0
    if options.task == "list":
        for task in options.of or TASKS:
            if task not in TASKS:
                raise InputError(f"no task {task!r} to list: choose of {', '.join(TASKS)}")
            for unit in wanted(options, preset, task):
                there = "there" if unit.file(options.results).is_file() else "-"
                sys.stdout.write(f"{task:16}{unit.name:50}{there}\n")
        return 0
    n_measured = sum(run(unit, options) for unit in wanted(options, preset, options.task))
    say(f"{options.task}: {n_measured} measured")
    return 0


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    options.arguments = sys.argv[1:] if arguments is None else arguments
    options.base = base_of(options.base)
    try:
        return work(options)
    except InputError as error:
        say(f"accuracy: {error}")
        return 2
    except TrainingStopped as stopped:
        say(f"accuracy: {stopped}")
        return 130


if __name__ == "__main__":
    sys.exit(main())
