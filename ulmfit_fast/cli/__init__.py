"""The command line `ulmfit-fast`: reads options, then imports what does the work.

One file a verb. Torch and the package are imported after the options are read, so that --help
answers at once. What the user can mend is one line on standard error, `error: ...`; the exit
statuses are in `cli/status.py`.
"""

from __future__ import annotations

import click

from ulmfit_fast import __version__
from ulmfit_fast.cli.group import Verbs
from ulmfit_fast.cli.status import STATUSES

VERBS = (
    "demo", "train", "check", "predict", "inspect", "evaluate", "pretrain", "report", "info",
    "doctor", "export", "convert", "serve", "generate", "lr-find", "bench", "completion",
)  # fmt: skip
#: How --help groups them. A verb may stand here before its file is written.
SECTIONS = {
    "First steps": ("demo", "doctor"),
    "Train": ("check", "train", "pretrain", "lr-find"),
    "Use a model": ("predict", "serve", "generate", "export", "convert"),
    "Understand a model": ("evaluate", "report", "inspect", "info"),
    "This machine": ("bench", "completion"),
}


@click.group(
    cls=Verbs,
    verbs=VERBS,
    sections=SECTIONS,
    subcommand_metavar="VERB [ARGS]...",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=STATUSES,
)
@click.version_option(__version__, prog_name="ulmfit-fast")
def main() -> None:
    """Train, use and inspect ULMFiT text classifiers.

    First steps: `ulmfit-fast demo`, then `ulmfit-fast train FILE`, a table of texts and labels.
    `ulmfit-fast VERB --help` has the options of a verb, and an example.
    """
