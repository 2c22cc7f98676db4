"""The report of a run: made at its end, or anew by `ulmfit-fast report`, which needs no torch."""

from __future__ import annotations

import shlex
import traceback
import webbrowser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ulmfit_fast.commands.invocation import is_debugging
from ulmfit_fast.commands.run_folder import check_finished, write_whole
from ulmfit_fast.commands.terminal import Terminal, count
from ulmfit_fast.report.html import write_report

if TYPE_CHECKING:
    from ulmfit_fast.commands.data import TrainingData
    from ulmfit_fast.training.trainer import ULMFiTTrainer

#: Texts and labels by the name of the part.
Parts = Mapping[str, tuple[Sequence[str], Sequence[str]]]
REPORT, EXAMINATION = "report.html", "examination.json"
# What a defect of examination or report ends in, the memory of a GPU that is full among it. The
# model is saved by then: each is said, and none may end the run as a failure.
FAILURES = (
    ArithmeticError, AttributeError, ImportError, LookupError, MemoryError, OSError, RuntimeError,
    TypeError, ValueError,
)  # fmt: skip


def report(run_folder: Path, out: Path | None, terminal: Terminal, *, is_opened: bool) -> None:
    """Write the report of a finished run anew, and open it if that is wanted.

    Raises:
        InputError: no run is there, or one of its files is damaged.
        OSError: the report cannot be written.
    """
    check_finished(run_folder)
    path = write_report(run_folder, out)
    n_bytes = path.stat().st_size
    terminal.say(f"report          {path}  ({n_bytes / 1e6:.1f} MB)")
    terminal.result({"report": str(path), "n_bytes": n_bytes})
    if is_opened and not webbrowser.open(path.resolve().as_uri()):
        terminal.warn(f"no browser could be started: open {path} in one")


def make_report(trainer: ULMFiTTrainer, parts: Parts, folder: Path, terminal: Terminal) -> None:
    """Examine a run's classifier and write examination.json and report.html into its folder.

    What fails is a warning, with --debug after its traceback: the run's folder is whole already.

    Args:
        trainer: with the run's classifier, if parts has any.
        parts: texts and labels of "train", "valid", "test" and "unlabelled", as far as there are;
            without any there is no examination.
        folder: of the finished run, with run.json.
        terminal: where to say it.
    """
    try:
        if parts:
            n = sum(len(texts) for texts, _ in parts.values())
            terminal.note(f"  report: examining {count(n, 'text')}")
            _examine(trainer, parts, folder)
        write_report(folder)
    except FAILURES as error:
        if is_debugging():
            traceback.print_exc()
        message = str(error) or type(error).__name__
        terminal.warn(
            f"the model is saved, but its report failed: {message}; to try again: "
            f"ulmfit-fast report {shlex.quote(str(folder))}"
        )


def parts_of(data: TrainingData | None) -> Parts:
    """Return the parts of a run's data; none where no classifier was trained."""
    if data is None:
        return {}
    labelled = {"train": data.train, "valid": data.valid, "test": data.test}
    parts: dict[str, tuple[Sequence[str], Sequence[str]]] = {
        name: (part.texts, part.labels) for name, part in labelled.items() if part is not None
    }
    if data.unlabelled:
        parts["unlabelled"] = (data.unlabelled, [])
    return parts


def _examine(trainer: ULMFiTTrainer, parts: Parts, folder: Path) -> None:
    from ulmfit_fast.interpret.examination_json import to_json
    from ulmfit_fast.interpret.examine import examine
    from ulmfit_fast.interpret.parts import Part

    examination = examine(trainer, {name: Part(*part) for name, part in parts.items()})
    write_whole(folder / EXAMINATION, to_json(examination))
