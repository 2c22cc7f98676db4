"""A training in TensorBoard. Needs the extra: pip install "ulmfit_fast[tensorboard]"."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ulmfit_fast.loggers.metrics import MetricLogger

try:
    from torch.utils.tensorboard import SummaryWriter
except ImportError as error:
    raise ImportError(
        'TensorBoardLogger needs tensorboard: pip install "ulmfit_fast[tensorboard]"'
    ) from error


class TensorBoardLogger(MetricLogger):
    """Writes TensorBoard's event files.

    Args:
        folder: for the files; made where it is missing. `tensorboard --logdir FOLDER` shows them.
        config: of the run, shown among the texts.
        steps_before: as for MetricLogger.
        warn: as for MetricLogger.
    """

    def __init__(
        self,
        folder: str | Path,
        config: Mapping[str, Any] | None = None,
        *,
        steps_before: Mapping[str, int] | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__("tensorboard", steps_before=steps_before, warn=warn)
        self._writer: Any = SummaryWriter(str(folder))
        if config:
            # Indented by four: a block of code in Markdown, whatever is in it.
            lines = json.dumps(config, indent=1).splitlines()
            self._writer.add_text("config", "\n".join(f"    {line}" for line in lines))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Write one scalar for each metric."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def finish(self) -> None:
        """Write what is still in memory, and close the file."""
        self._writer.close()
