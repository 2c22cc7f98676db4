"""A training in trackio. Needs the extra: pip install "ulmfit_fast[trackio]"."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ulmfit_fast.loggers.tracked_run import TrackedRunLogger

try:
    from trackio import finish, init
except ImportError as error:
    raise ImportError('TrackioLogger needs trackio: pip install "ulmfit_fast[trackio]"') from error


class TrackioLogger(TrackedRunLogger):
    """A run of trackio, on this machine or in a Space (TRACKIO_SPACE_ID).

    Args:
        name: of the run; None has trackio invent one.
        config: of the run.
        project: None takes TRACKIO_PROJECT, else ulmfit_fast.
        resume: whether to go on with a run of this name, if there is one.
        steps_before: as for MetricLogger.
        warn: as for MetricLogger.

    Raises:
        InputError: trackio cannot begin a run.
    """

    def __init__(
        self,
        name: str | None = None,
        config: Mapping[str, Any] | None = None,
        *,
        project: str | None = None,
        resume: bool = False,
        steps_before: Mapping[str, int] | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        begin = partial(
            init,
            project=project or os.environ.get("TRACKIO_PROJECT") or "ulmfit_fast",
            name=name,
            config=dict(config or {}),
            resume="allow" if resume else "never",
            embed=False,
        )
        # The run's own finish would leave it current, to be finished once more at the exit.
        super().__init__("trackio", begin, end=finish, steps_before=steps_before, warn=warn)
