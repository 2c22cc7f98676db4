"""`ulmfit-fast lr-find`: a learning-rate range test, its curve and the option to paste."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from ulmfit_fast.bench.figure import check_plot
from ulmfit_fast.commands import text_plot
from ulmfit_fast.commands.base import default_base, given_base
from ulmfit_fast.commands.cache import cache_folder
from ulmfit_fast.commands.choices import (
    Base,
    Choices,
    Settings,
    check_settings,
    choose,
    count_words,
)
from ulmfit_fast.commands.data import Files, TrainingData, read_general, read_training_data
from ulmfit_fast.commands.terminal import Terminal, count, listing
from ulmfit_fast.commands.waiting import showing_progress
from ulmfit_fast.errors import InputError
from ulmfit_fast.text import Texts, TextStream
from ulmfit_fast.training.config import StageConfig, StageName
from ulmfit_fast.training.range_tasks import Rates, find_rate_for
from ulmfit_fast.training.range_test import RangeTest
from ulmfit_fast.training.trainer import ULMFiTTrainer

StageChoice = Literal["pretrain", "language-model", "classifier"]


@dataclass(frozen=True)
class LrFindOptions:
    """Options of `lr-find`.

    Attributes:
        files: what to read.
        settings: what the user decided.
        stage: "pretrain" is that of the verb of this name, the others are those of train; None
            takes the classifier where there is a base, else the language model.
        base: folder of a language model to start from; None chooses as train does.
        rates: lowest, highest, and steps between.
        plot: picture to write.
        cache: folder for numericalized texts; None is the user's cache folder.
        no_cache: whether to keep none.
    """

    files: Files
    settings: Settings
    stage: StageChoice | None
    base: Path | None
    rates: Rates
    plot: Path | None
    cache: Path | None = None
    no_cache: bool = False


def lr_find(options: LrFindOptions, terminal: Terminal) -> None:
    """Test learning rates on the steps that a stage would take, and suggest one.

    Raises:
        InputError: an option, a file or a model cannot be used.
        TrainingError: the loss burst before there was a curve.
    """
    check_plot(options.plot)
    check_settings(options.settings)
    data = None
    chosen = given_base(options.base, options.settings, None)
    if options.stage != "pretrain":
        data = read_training_data(options.files, options.settings.seed)
        chosen = chosen or default_base([*data.train.texts, *data.unlabelled])
    base = chosen.base if chosen else None
    stage = options.stage or ("classifier" if base else "language-model")
    if stage == "classifier" and base is None:
        raise InputError(
            "--stage classifier needs the language model that the classifier starts from: give "
            "one with --base, such as the folder of a run of train or pretrain"
        )
    texts, labels = _read(options.files) if data is None else _of_stage(data, stage)
    choices = _choose(options.settings, base, stage, texts, n_rows=len(labels or ()))
    cache = cache_folder(options.cache, is_wanted=not options.no_cache)
    trainer = _make_trainer(choices, base, cache)
    _say_plan(options, stage, base, choices, texts, terminal)
    wanted = labels if stage == "classifier" else None
    with showing_progress(terminal) as bar:
        progress = None if bar is None else partial(bar, "range test")
        found = find_rate_for(trainer, texts, wanted, options.rates, progress)
    command = _command(options, stage, found)
    _say_result(found, command, terminal)
    if options.plot is not None:
        from ulmfit_fast.bench.rate_plot import draw_range_test

        draw_range_test(options.plot, found)
        terminal.say(f"picture   {options.plot}")
    terminal.result({**asdict(found), "has_burst": found.has_burst, "command": command})


def _of_stage(data: TrainingData, stage: StageChoice) -> tuple[Texts, list[str]]:
    """Return the texts of a stage of train, and the labels of the table."""
    if stage == "classifier":
        return data.train.texts, data.train.labels
    return [*data.train.texts, *data.unlabelled], data.train.labels


def _read(files: Files) -> tuple[Texts, list[str] | None]:
    """Return the texts as pretrain reads them."""
    table = read_general(files)
    return (table if isinstance(table, TextStream) else table.texts), None


def _choose(
    settings: Settings, base: Base | None, stage: StageChoice, texts: Texts, *, n_rows: int
) -> Choices:
    """Decide what was left open as train and pretrain do."""
    lm: StageName = "pretrain" if base is None else "language_model"
    n_words = {} if stage == "classifier" else {lm: count_words(texts)}
    return choose(settings, n_words, n_rows, lm, base)


def _make_trainer(choices: Choices, base: Base | None, cache: Path | None) -> ULMFiTTrainer:
    if base is not None:
        return ULMFiTTrainer.load(
            base.folder, config=choices.config, device=choices.device, cache_dir=cache
        )
    return ULMFiTTrainer(
        choices.config, size=choices.size, tokenizer_kind=choices.tokenizer,
        device=choices.device, cache_dir=cache,
    )  # fmt: skip


def _say_plan(
    options: LrFindOptions,
    stage: StageChoice,
    base: Base | None,
    choices: Choices,
    texts: Texts,
    terminal: Terminal,
) -> None:
    config = choices.config
    name: StageName = "classifier"
    if stage != "classifier":
        name = "language_model" if base else "pretrain"
    settings: StageConfig = getattr(config, name)
    start = f"from {options.base or base.name}" if base else "from scratch"
    rows = f"{settings.batch_size} texts"
    if stage != "classifier":
        rows = f"{settings.batch_size} x {config.bptt} tokens"
    rates = options.rates
    terminal.say(f"data      {options.files.train}: {count(len(texts), 'text')}")
    terminal.say(f"stage     {stage}, {start}, {choices.size}, recipe {config.recipe}")
    terminal.say(f"device    {choices.device} ({choices.why_device}), {choices.precision.name}")
    terminal.say(
        f"test      {rates.n_steps} steps of {rows}, rates from {rates.lowest:g} to "
        f"{rates.highest:g}"
    )


def _say_result(found: RangeTest, command: str, terminal: Terminal) -> None:
    suggestions = found.suggestions
    n_done = len(found.rates)
    why = "; the loss burst there" if found.has_burst else ""
    terminal.say(f"done      {count(n_done, 'step')}, the last at {found.rates[-1]:.2g}{why}")
    terminal.say(f"layers    {listing(found.layers, 12)} (first phase of the stage)")
    terminal.say()
    marks = {"v": suggestions.valley, "s": suggestions.steep, "m": suggestions.minimum}
    for line in text_plot.curve(found.rates, found.losses, marks, blocks=text_plot.has_blocks()):
        terminal.say(line)
    terminal.say()
    terminal.say(f"v valley  {suggestions.valley:.2g}, down the longest fall: the one to take")
    terminal.say(f"s steep   {suggestions.steep:.2g}, where the loss falls fastest")
    terminal.say(f"m minimum {suggestions.minimum:.2g}, a tenth of where it is smallest")
    terminal.say(f"use       {command}")


def _command(options: LrFindOptions, stage: StageChoice, found: RangeTest) -> str:
    """Return the command that trains as was tested, at the rate that was found."""
    files, settings = options.files, options.settings
    verb, base, rate = "train", "--base", "--lr"
    if stage == "pretrain":
        verb, base = "pretrain", "--from"
    if stage == "language-model":
        rate = "--lm-lr"
    words = ["ulmfit-fast", verb, files.train]
    words += [base, str(options.base)] if options.base else []
    for column in files.text_columns:
        words += ["--text-column", column]
    given = {
        "--label-column": files.label_column if verb == "train" else None,
        "--encoding": files.encoding,
        "--size": settings.size,
        "--tokenizer": settings.tokenizer,
        "--preset": settings.preset,
        "--batch-size": settings.batch_size,
        "--precision": settings.precision,
        "--device": settings.device,
        "--seed": settings.seed or None,
    }
    for option, value in given.items():
        words += [] if value is None else [option, str(value)]
    if files.header is not None:
        words.append("--header" if files.header else "--no-header")
    for path in files.unlabelled if verb == "train" else ():
        words += ["--unlabelled", path]
    return shlex.join([*words, rate, f"{found.suggestions.valley:.2g}"])
