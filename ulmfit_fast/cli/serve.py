"""`ulmfit-fast serve`: its options."""

from __future__ import annotations

from typing import Any

import click

from ulmfit_fast.cli.options import (
    DEBUG,
    debug_option,
    device_option,
    json_option,
    model_argument,
    precision_option,
)
from ulmfit_fast.cli.values import terminal_of

_AT_LEAST_1 = click.IntRange(min=1)


@click.command()
@model_argument
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; another one than this serves others, too.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="0 takes a free one.",
)
@click.option(
    "--allow-host",
    "allowed_hosts",
    multiple=True,
    metavar="NAME",
    help="Name that requests to a local address may be sent to; may be repeated.",
)
@click.option("--max-texts", type=_AT_LEAST_1, default=256, show_default=True, help="Of a request.")
@click.option(
    "--max-characters", type=_AT_LEAST_1, default=100_000, show_default=True, help="Of a text."
)
@click.option(
    "--max-body-bytes", type=_AT_LEAST_1, default=2 * 2**20, show_default=True, help="Of a request."
)
@click.option(
    "--max-waiting",
    type=_AT_LEAST_1,
    default=128,
    show_default=True,
    help="Requests that wait; one more is answered 503.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=float,
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="For an answer.",
)
@click.option(
    "--max-wait-ms",
    type=float,
    default=2.0,
    show_default=True,
    metavar="MS",
    help="That a request waits for others to share its batch.",
)
@click.option(
    "--max-batch-tokens",
    type=_AT_LEAST_1,
    default=8_192,
    show_default=True,
    help="Of a batch; 1 makes a batch of every text.",
)
@device_option
@precision_option
@click.option("--access-log", is_flag=True, help="A line on standard error for every answer.")
@json_option
@debug_option
def serve(**values: Any) -> None:
    """Answer HTTP requests with the classes of texts, and have a page to try it.

    MODEL is the folder of a run or its model folder. POST /predict takes {"texts": ["..."]}; there
    are GET /health, GET / for a browser, and /openapi.json. Requests that come together share a
    batch. Ends with Ctrl-C or SIGTERM, when running requests are answered. There is no
    authentication.

    Example: ulmfit-fast serve runs/reviews --port 8000
    """  # fmt: skip
    from ulmfit_fast.commands.serve import ServeOptions, serve

    terminal = terminal_of(values)
    is_debug = bool(click.get_current_context().meta.get(DEBUG))
    serve(ServeOptions(**values, debug=is_debug), terminal)
