"""What a training run says before it starts, and the summary it leaves in run.json."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from ulmfit_fast import __version__, pretrained
from ulmfit_fast.commands.choices import Choices, count_words, describe_stage
from ulmfit_fast.commands.data import VALID_SHARE, TrainingData
from ulmfit_fast.commands.environment import environment
from ulmfit_fast.commands.invocation import command_line
from ulmfit_fast.commands.terminal import Terminal, count, listing, shorten
from ulmfit_fast.interpret.statistics import wilson_interval
from ulmfit_fast.text import SkippedRow, Texts
from ulmfit_fast.training.config import StageName
from ulmfit_fast.training.evaluation import Evaluation
from ulmfit_fast.training.loop import StageResult

N_SKIPPED_SHOWN = 5
N_CLASSES_SHOWN = 12


@dataclass(frozen=True)
class LanguageModelStage:
    """A stage before the classifier.

    Attributes:
        name: "pretrain" starts from scratch, "language_model" from what is there.
        texts: documents to train on.
        valid_texts: documents to measure on.
    """

    name: StageName
    texts: Texts
    valid_texts: Texts


@dataclass
class Run:
    """A run: what it reads and does, and what came out of it.

    Attributes:
        source: the training file.
        choices: settings.
        stages: language-model stages, in order.
        base: folder of the language model it starts from.
        why_base: of training, why it starts from base, or from scratch.
        start: what the user named to start from, where base is made of it for this run alone.
        data: of the classifier; None trains none.
        cache: folder for numericalized texts; None keeps none.
        skipped: rows that were left out, with their source.
        remarks: how files were read where that is not as the user may think.
        results: of each stage done.
        valid: the classifier on the validation part.
        test: the classifier on the test file.
        command: that began it; None: the one of now.
        seconds: wall time of training.
        peak_memory: bytes, as environment.peak_memory() counts them.
        has_report: whether report.html is written at the end.
        log_to: trackers that are told of the training.
        launch_id: of the call of torchrun that trains it; empty in one process.
    """

    source: str
    choices: Choices
    stages: list[LanguageModelStage]
    base: Path | None
    data: TrainingData | None
    why_base: str = ""
    start: str | None = None
    cache: Path | None = None
    skipped: list[tuple[str, SkippedRow]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    results: list[StageResult] = field(default_factory=list)
    valid: Evaluation | None = None
    test: Evaluation | None = None
    command: str | None = None
    seconds: float = 0.0
    peak_memory: dict[str, int] = field(default_factory=dict)
    has_report: bool = False
    log_to: tuple[str, ...] = ()
    launch_id: str = ""

    @property
    def base_name(self) -> str | None:
        """What the user may call the language model that the run starts from; None without one."""
        return self.start or (pretrained.name_of(self.base) if self.base else None)

    @property
    def epochs(self) -> dict[str, int]:
        """The stages in order, and the epochs of each."""
        names = [stage.name for stage in self.stages]
        if self.data is not None:
            names.append("classifier")
        return {name: getattr(self.choices.config, name).epochs for name in names}


def say_plan(run: Run, out: Path, terminal: Terminal) -> None:
    """Say what was found, what was chosen and why."""
    if run.data is not None:
        _say_data(run.data, terminal)
    else:
        terminal.fact("data", f"{run.source}: {len(run.stages[0].texts):,} documents, and "
                      f"{len(run.stages[0].valid_texts):,} held out to measure on")  # fmt: skip
    for remark in run.remarks:
        terminal.fact("read", remark)
    if run.skipped:
        where = out / "skipped.csv"
        terminal.fact("skipped", f"{count(len(run.skipped), 'row')}, listed in {where}")
        for line in skipped_rows(run.skipped):
            terminal.say(line)
    choices, config = run.choices, run.choices.config
    if run.data is not None:
        terminal.fact("base", f"{run.base_name or 'none'} ({run.why_base})")
    terminal.fact("model", f"{choices.size} ({choices.why_size}), {choices.tokenizer} tokens")
    graphs = ", CUDA graphs" if choices.cuda_graphs else ""
    shared = f", {choices.processes} processes" if choices.processes > 1 else ""
    terminal.fact("device", f"{choices.device} ({choices.why_device}){graphs}{shared}")
    terminal.fact("precision", f"{choices.precision.name} ({choices.precision.why})")
    terminal.fact("recipe", f"{config.recipe} ({choices.why_recipe}), seed {config.seed}")
    lines = _stage_lines(run)
    for number, line in enumerate(lines, 1):
        terminal.fact(f"stage {number}/{len(lines)}", line)
    cache = f"{run.cache} (numericalized texts; not with --no-cache)" if run.cache else "none"
    terminal.fact("cache", cache)
    terminal.fact("output", str(out))


def skipped_rows(skipped: Sequence[tuple[str, SkippedRow]]) -> list[str]:
    """Return a line for each of the first rows that were left out, given with their source."""
    return [
        f"          {source}, row {row.row}, column {row.column!r}: {shorten(row.reason)}"
        for source, row in skipped[:N_SKIPPED_SHOWN]
    ]


def _stage_lines(run: Run) -> list[str]:
    """Say what each stage trains, and for how long, in their order."""
    config, processes = run.choices.config, run.choices.processes
    lines = []
    for stage in run.stages:
        title = "language model, your texts"
        if stage.name == "pretrain" and (run.data is None or len(run.stages) > 1):
            title = "language model, general text"
        elif stage.name == "pretrain":
            title += ", from scratch"
        n_words = count_words(stage.texts)
        lines.append(f"{title}: {describe_stage(config, stage.name, n_words, processes)}")
    if run.data is not None:
        n_texts = len(run.data.train)
        lines.append(f"classifier: {describe_stage(config, 'classifier', n_texts, processes)}")
    return lines


def _say_data(data: TrainingData, terminal: Terminal) -> None:
    table = data.table
    n = len(data.train) + (len(data.valid) if data.is_held_out else 0)
    columns = listing([repr(column) for column in table.text_columns])
    terminal.fact(
        "data",
        f"{table.source}: {n:,} labelled rows; text from {columns}, label from "
        f"{table.label_column!r}",
    )
    counts = [f"{shorten(name, 30)} {count:,}" for name, count in data.classes.items()]
    terminal.fact("classes", f"{len(counts)}: {listing(counts, N_CLASSES_SHOWN)}")
    if data.unlabelled:
        extra = count(len(data.unlabelled), "text")
        terminal.fact("", f"{extra} without a label, for the language model")
    how = f"{VALID_SHARE:.0%} of each class held out" if data.is_held_out else data.valid.source
    terminal.fact("validate", f"{count(len(data.valid), 'row')} ({how})")
    if data.test is not None:
        terminal.fact("test", f"{count(len(data.test), 'row')} of {data.test.source}")
    for note in data.notes:
        terminal.warn(note)


def format_error(result: Evaluation) -> str:
    """Write an error with its 95 % interval and what it is counted on."""
    n_wrong = round(result.error * result.n)
    low, high = wilson_interval(n_wrong, result.n)
    return (
        f"{100 * result.error:.2f} %  (95 % interval {100 * low:.2f} to {100 * high:.2f}; "
        f"{n_wrong} of {result.n} wrong)"
    )


def summarize(run: Run, out: Path) -> dict[str, Any]:
    """Return the run's facts as JSON values."""
    summary: dict[str, Any] = {
        "kind": "train" if run.data else "pretrain",
        "out": str(out),
        "command": run.command or command_line(),
        "source": run.source,
        "base": run.base_name,
        "size": run.choices.size,
        "tokenizer": run.choices.tokenizer,
        "device": run.choices.device,
        "precision": run.choices.precision.name,
        "cuda_graphs": run.choices.cuda_graphs,
        "processes": run.choices.processes,
        "why": {
            "base": run.why_base,
            "size": run.choices.why_size,
            "device": run.choices.why_device,
            "recipe": run.choices.why_recipe,
            "precision": run.choices.precision.why,
        },
        "config": run.choices.config.to_dict(),
        "seconds": round(run.seconds, 3),
        "stages": [asdict(result) for result in run.results],
        "n_skipped": len(run.skipped),
        "remarks": run.remarks,
        "versions": {
            "ulmfit_fast": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "n_threads": torch.get_num_threads(),
        "environment": environment(),
        "peak_memory": run.peak_memory,
    }
    if run.launch_id:
        summary["launch"] = run.launch_id
    if run.data is not None:
        data = run.data
        summary["data"] = {
            "text_columns": list(data.table.text_columns),
            "label_column": data.table.label_column,
            "classes": data.classes,
            "n_train": len(data.train),
            "n_valid": len(data.valid),
            "n_test": len(data.test) if data.test else 0,
            "n_unlabelled": len(data.unlabelled),
            "notes": data.notes,
        }
    for name, result in (("valid", run.valid), ("test", run.test)):
        if result is not None:
            summary[name] = evaluation_values(result)
    return summary


def evaluation_values(result: Evaluation) -> dict[str, Any]:
    """Return an evaluation as JSON values, with the error's 95 % interval."""
    n_wrong = round(result.error * result.n)
    return {**asdict(result), "error_interval_95": wilson_interval(n_wrong, result.n)}
