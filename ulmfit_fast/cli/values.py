"""Options that were read, in the types of what does the work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ulmfit_fast.commands.choices import Settings
    from ulmfit_fast.commands.data import Files
    from ulmfit_fast.commands.terminal import Terminal


def terminal_of(values: dict[str, Any]) -> Terminal:
    """Take --json, and return where to write."""
    from ulmfit_fast.commands.terminal import Terminal
    from ulmfit_fast.training.launch import is_first

    return Terminal(as_json=values.pop("as_json"), is_silent=not is_first())


def check_resume(ctx: click.Context, values: dict[str, Any]) -> None:
    """Take the options of checkpoints; raise UsageError if others stand beside --resume."""
    values["checkpoint_every_s"] = 60.0 * values.pop("checkpoint_every")
    values["time_limit_s"] = values.pop("time_limit")
    values["rank_timeout_s"] = values.pop("rank_timeout")
    if values["resume"] is None:
        return
    free = {"resume", "checkpoint_every", "time_limit", "rank_timeout", "as_json", "debug"}
    for param in ctx.command.params:
        given = ctx.get_parameter_source(param.name or "") is click.core.ParameterSource.COMMANDLINE
        if given and param.name not in free:
            name = param.opts[0] if param.opts[0].startswith("-") else str(param.name).upper()
            raise click.UsageError(f"--resume takes {name} from the run: leave it out")


def files_of(values: dict[str, Any]) -> Files:
    """Take the options that name files and columns."""
    from ulmfit_fast.commands.data import Files

    names = (
        "valid", "test", "unlabelled", "general", "text_columns", "label_column", "encoding",
        "header",
    )  # fmt: skip
    return Files(
        train=values.pop("file") or "",
        **{name: values.pop(name) for name in names if name in values},
    )


def settings_of(values: dict[str, Any]) -> Settings:
    """Take the options that decide how to train."""
    from ulmfit_fast.commands.choices import Settings
    from ulmfit_fast.training.launch import world_size

    names = (
        "preset", "size", "tokenizer", "device", "seed", "batch_size", "general_epochs",
        "lm_epochs", "epochs", "lm_lr", "lr", "precision", "cuda_graphs",
    )  # fmt: skip
    given = {name: values.pop(name) for name in names if name in values}
    return Settings(**given, processes=world_size())
