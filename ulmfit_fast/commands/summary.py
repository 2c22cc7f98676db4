"""What a run says when it is done: what came out, how good that is, and what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import click

from ulmfit_fast.commands.report import Run
from ulmfit_fast.commands.terminal import Terminal, shorten
from ulmfit_fast.interpret.statistics import wilson_interval
from ulmfit_fast.training.evaluation import Evaluation
from ulmfit_fast.training.loop import StageResult

# Of more classes than these only the weakest are shown, and the file of the run has all.
N_CLASSES_IN_TABLE = 12
N_WEAKEST = 5


def say_results(run: Run, out: Path, terminal: Terminal) -> None:
    """Say what came out, where it is, and what to do with it."""
    terminal.say()
    rows = [("stage", "time", "epochs", "figures")]
    for result in run.results:
        rows.append(
            (result.stage, _time(result.seconds), str(len(result.epochs)), _figures(result))
        )
    terminal.table(rows, left=(0, 3))
    measured = run.test or run.valid
    if run.data is not None and measured is not None:
        terminal.say()
        where = f"of {run.data.test.source}" if run.test and run.data.test else "held out"
        if run.test is None and not run.data.is_held_out:
            where = f"of {run.data.valid.source}"
        _say_quality(measured, run.data.classes, where, terminal)
        if run.test is None:
            terminal.fact("", "the best epoch was chosen on these texts, so the accuracy is a "
                              "little too good; --test FILE measures on others")  # fmt: skip
        terminal.say()
        say_classes(measured, terminal, most=N_CLASSES_IN_TABLE)
    terminal.say()
    for name, place in (
        ("model", "model" if run.data is not None else "language_model"),
        ("log", "metrics.jsonl"), ("figures", "run.json"), ("report", "report.html"),
    ):  # fmt: skip
        if name != "report" or (out / place).exists():
            terminal.say(f"{name:10s}{out / place}")
    for number, command in enumerate(next_commands(out, is_classifier=run.data is not None)):
        terminal.say(f"{'' if number else 'next':10s}{command}")


def next_commands(out: Path, *, is_classifier: bool) -> list[str]:
    """Return commands to paste, of the verbs that this program has."""
    folder = shlex.quote(str(out))
    if not is_classifier:
        commands = {"train": f"train FILE --base {folder}", "generate": f"generate {folder}"}
        return [f"ulmfit-fast {command}" for verb, command in commands.items() if verb in _verbs()]
    commands = {
        "predict": f"predict {folder} FILE", "inspect": f'inspect {folder} "A text of yours."',
        "report": f"report {folder} --open", "serve": f"serve {folder}",
    }  # fmt: skip
    return [f"ulmfit-fast {command}" for verb, command in commands.items() if verb in _verbs()]


def _verbs() -> set[str]:
    """Return the verbs of the program that runs; without one those that always are there."""
    context = click.get_current_context(silent=True)
    program = context.find_root().command if context is not None else None
    if context is None or not isinstance(program, click.Group):
        return {"train", "predict"}
    return set(program.list_commands(context))


def _say_quality(
    result: Evaluation, classes: dict[str, int], where: str, terminal: Terminal
) -> None:
    """Say the accuracy with its interval, against that of the largest class."""
    largest = max(classes, key=lambda name: (classes[name], name))
    n_largest = round(result.per_class.get(largest, {}).get("n", 0))
    low, _ = wilson_interval(round(result.accuracy * result.n), result.n)
    terminal.fact("accuracy", f"{format_accuracy(result)} on the texts {where}")
    share = n_largest / max(1, result.n)
    terminal.fact(
        "", f"against {100 * share:.2f} % for always answering '{shorten(largest, 30)}', the "
        "largest class"
    )  # fmt: skip
    if low <= share:
        terminal.warn(
            "the accuracy is not surely better than that of the largest class alone: give more "
            "labelled rows, train for more --epochs, or start from a --base"
        )


def say_classes(result: Evaluation, terminal: Terminal, *, most: int | None = None) -> None:
    """Print precision and recall of each class, and the commonest mistakes.

    Args:
        result: what to print.
        terminal: where to.
        most: of more classes than this only the weakest; None prints all.
    """
    names = list(result.per_class)
    shown = names
    if most is not None and len(names) > most:
        shown = sorted(names, key=lambda name: (result.per_class[name]["f1"], name))[:N_WEAKEST]
        terminal.say(f"the {len(shown)} weakest of {len(names)} classes:")
    rows = [("class", "texts", "precision", "recall", "F1")]
    for name in shown:
        values = result.per_class[name]
        shares = [f"{100 * values[key]:.1f} %" for key in ("precision", "recall", "f1")]
        rows.append((shorten(name), f"{values['n']:.0f}", shares[0], shares[1], shares[2]))
    terminal.table(rows)
    for n, true, answer in _mistakes(names, result.confusion)[:3]:
        terminal.say(f"  {n} of class {shorten(true)} were taken for {shorten(answer)}")


def _mistakes(
    names: Sequence[str], confusion: Sequence[Sequence[int]]
) -> list[tuple[int, str, str]]:
    """Return how often which class was taken for which, the commonest first."""
    found = [
        (-n, names[row], names[column])
        for row, counts in enumerate(confusion)
        for column, n in enumerate(counts)
        if row != column and n
    ]
    return [(-n, true, answer) for n, true, answer in sorted(found)]


def format_accuracy(result: Evaluation) -> str:
    """Write an accuracy with its 95 % interval and what it is counted on."""
    n_right = round(result.accuracy * result.n)
    low, high = wilson_interval(n_right, result.n)
    return (
        f"{100 * result.accuracy:.2f} %  (95 % interval {100 * low:.2f} to {100 * high:.2f}; "
        f"{n_right:,} of {result.n:,} right)"
    )


def _time(seconds: float) -> str:
    """Write a time with the unit that suits it."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours} h {m:02d} min" if hours else f"{m} min {s:02d} s"


def _figures(result: StageResult) -> str:
    """Say how good the model is that a stage left."""
    best = result.best
    if "perplexity" in best:
        first = result.epochs[0].get("perplexity", best["perplexity"])
        before = f"{first:.1f} -> " if len(result.epochs) > 1 else ""
        return f"perplexity {before}{best['perplexity']:.1f} (lower is better)"
    if "accuracy" in best:
        return f"accuracy {100 * best['accuracy']:.2f} %"
    return f"loss {best['train_loss']:.3f}" if "train_loss" in best else ""
