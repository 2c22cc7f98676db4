"""`ulmfit-fast completion`: prints what makes a shell complete verbs, options, files and models."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from ulmfit_fast.cli.options import debug_option

#: What click looks for in the environment; it follows from the program's name.
VARIABLE = "_ULMFIT_FAST_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@debug_option
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that completes verbs, options, files and models in SHELL.

    Install it once, then open a new shell:

    \b
    bash (4.4 or later)
      mkdir -p ~/.local/share/bash-completion/completions
      ulmfit-fast completion bash \\
        > ~/.local/share/bash-completion/completions/ulmfit-fast
    or, without the package bash-completion, in ~/.bashrc
      eval "$(ulmfit-fast completion bash)"

    \b
    zsh, in ~/.zshrc after compinit
      eval "$(ulmfit-fast completion zsh)"

    \b
    fish
      ulmfit-fast completion fish \\
        > ~/.config/fish/completions/ulmfit-fast.fish

    Example: ulmfit-fast completion bash
    """  # noqa: D301 - \b is click's mark for a paragraph that is not wrapped
    found = get_completion_class(shell)
    assert found is not None, "click has the three"
    script = found(ctx.find_root().command, {}, "ulmfit-fast", VARIABLE)
    click.echo(script.source_template % script.source_vars(), nl=False)
