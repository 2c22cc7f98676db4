"""The reference of the command line, as Markdown, from the commands themselves."""

from __future__ import annotations

import re

import click

from ulmfit_fast.cli import SECTIONS, main


def all_verbs() -> str:
    """Return a table of the verbs, by the titles of --help, then the description of each."""
    context = click.Context(main, info_name="ulmfit-fast")
    there = main.list_commands(context)
    titled = {title: [v for v in verbs if v in there] for title, verbs in SECTIONS.items()}
    more = [verb for verb in there if not any(verb in verbs for verbs in SECTIONS.values())]
    lines = ["| | verb | |", "|---|---|---|"]
    for title, verbs in {**titled, "More": more}.items():
        for place, verb in enumerate(verbs):
            text = command_of(verb, context).get_short_help_str(limit=200)
            cells = ("" if place else title, f"[`{verb}`](#{verb})", escaped(text))
            lines.append(f"| {' | '.join(cells)} |")
    order = [verb for verbs in [*titled.values(), more] for verb in verbs]
    return "\n\n".join(["\n".join(lines), *(one_verb(verb, context) for verb in order)]) + "\n"


def command_of(verb: str, context: click.Context) -> click.Command:
    """Return the command of a verb.

    Raises:
        ValueError: there is no such verb.
    """
    command = main.get_command(context, verb)
    if command is None:
        raise ValueError(f"no verb {verb}")
    return command


def one_verb(verb: str, parent: click.Context) -> str:
    """Return heading, usage, description, example and options of a verb."""
    command = command_of(verb, parent)
    context = click.Context(command, info_name=verb, parent=parent)
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    text, example = split_example(f"{command.help or ''}\n\n{command.epilog or ''}")
    lines = [f"## {verb}", "", *paragraphs(text), "", "```", usage, "```", ""]
    if example:
        lines += ["Example:", "", "```", example, "```", ""]
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and record[1]:
            lines += [f"`{record[0]}`", f":   {escaped(record[1])}", ""]
    return "\n".join(lines)


def split_example(text: str) -> tuple[str, str]:
    """Return a help text without its last line `Example: ...`, and the example."""
    found = re.search(r"\s*(?:[\b]\s*)?Example:\s+(ulmfit-fast\s.*)\Z", text, re.DOTALL)
    if found is None:
        return text, ""
    return text[: found.start()], " ".join(found[1].split())


def paragraphs(text: str) -> list[str]:
    """Return a help text's paragraphs, without click's mark for lines to keep."""
    blocks = re.split(r"\n\s*\n", text.strip())
    return [line for block in blocks for line in (as_block(block), "")]


def as_block(block: str) -> str:
    """Return a paragraph; one whose lines click keeps becomes code."""
    kept, _, rest = block.strip().partition("\n")
    if kept.strip() == "\b":
        return "\n".join(f"    {line}" for line in rest.splitlines())
    return escaped(" ".join(block.split()))


def escaped(text: str) -> str:
    """Return a text in which nothing but `code` is Markdown or HTML."""
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(
        piece if piece.startswith("`") else re.sub(r"([\\*_\[\]<>|#])", r"\\\1", piece)
        for piece in pieces
    )
