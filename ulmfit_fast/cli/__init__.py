"""The command line `ulmfit-fast`: reads options, then imports what does the work.

One file a verb. Torch and the package are imported after the options are read, so that --help
answers at once. What the user can mend is one line on standard error, `error: ...`, and status 2.
"""

from __future__ import annotations

import click

from ulmfit_fast import __version__
from ulmfit_fast.cli.group import Verbs

VERBS = (
    "demo", "train", "predict", "evaluate", "pretrain", "info", "doctor", "export", "convert",
    "generate", "lr-find", "bench",
)  # fmt: skip


@click.group(cls=Verbs, verbs=VERBS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ulmfit-fast")
def main() -> None:
    """Train, use and inspect ULMFiT text classifiers.

    First steps: `ulmfit-fast demo`, then `ulmfit-fast train FILE`.
    """
