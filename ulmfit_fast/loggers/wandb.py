"""A training in Weights & Biases. Needs the extra: pip install "ulmfit_fast[wandb]"."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ulmfit_fast.loggers.tracked_run import TrackedRunLogger

try:
    from wandb import init  # from: a folder named wandb, which it leaves where it ran, has no init
except ImportError as error:
    raise ImportError('WandbLogger needs wandb: pip install "ulmfit_fast[wandb]"') from error


class WandbLogger(TrackedRunLogger):
    """A run of wandb; `wandb login`, or WANDB_MODE=offline, comes before.

    Args:
        name: of the run; None has wandb invent one.
        config: of the run.
        project: None takes WANDB_PROJECT, else ulmfit_fast.
        run_id: of the run to go on with, or of a new one; None makes a new one.
        folder: for wandb's files; None takes WANDB_DIR, else the working directory.
        steps_before: as for MetricLogger.
        warn: as for MetricLogger.

    Raises:
        InputError: wandb cannot begin a run, as without a login.
    """

    def __init__(
        self,
        name: str | None = None,
        config: Mapping[str, Any] | None = None,
        *,
        project: str | None = None,
        run_id: str | None = None,
        folder: str | Path | None = None,
        steps_before: Mapping[str, int] | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        begin = partial(
            init,
            project=project or os.environ.get("WANDB_PROJECT") or "ulmfit_fast",
            name=name,
            config=dict(config or {}),
            id=run_id,
            resume="allow" if run_id else None,
            dir=folder,
        )
        super().__init__("wandb", begin, steps_before=steps_before, warn=warn)
