"""`ulmfit-fast serve`: a trained model behind HTTP."""

from __future__ import annotations

import os
import traceback
from dataclasses import dataclass, fields
from pathlib import Path

from ulmfit_fast.commands.apply import load_classifier
from ulmfit_fast.commands.terminal import Terminal
from ulmfit_fast.errors import InputError, one_line
from ulmfit_fast.serve.settings import Settings
from ulmfit_fast.training.precision import PrecisionName


@dataclass(frozen=True)
class ServeOptions(Settings):
    """Options of `serve`: limits and batches, and these.

    Attributes:
        model: folder of a classifier, or of the run that made it.
        host: address to listen on.
        port: 0 takes a free one.
        allowed_hosts: further names that requests to a local address may give as Host.
        device: None takes a GPU where torch sees one.
        precision: None takes the one that the model was trained with.
        access_log: whether every answer has its line.
        debug: whether errors of the model have their traceback.
    """

    model: Path = Path()
    host: str = "127.0.0.1"
    port: int = 8000
    allowed_hosts: tuple[str, ...] = ()
    device: str | None = None
    precision: PrecisionName | None = None
    access_log: bool = False
    debug: bool = False

    def settings(self) -> Settings:
        """Return limits and batches alone."""
        return Settings(**{f.name: getattr(self, f.name) for f in fields(Settings)})


def serve(options: ServeOptions, terminal: Terminal) -> None:
    """Serve a classifier until SIGTERM or SIGINT.

    Raises:
        InputError: a library is missing, or the model or the address cannot be used.
    """
    try:
        from ulmfit_fast.serve import server
        from ulmfit_fast.serve.app import Served
        from ulmfit_fast.serve.predictor import Predictor
    except ImportError as error:
        raise InputError(
            f'serve needs fastapi and uvicorn ({error}): pip install "ulmfit_fast[serve]"'
        ) from error
    bound = server.bind(options.host, options.port)  # before the model is read
    try:
        predictor = Predictor(load_classifier(options.model, options.device, options.precision))
        name = options.model.resolve().name
        if not server.is_local(bound):
            terminal.warn(
                f"--host {options.host}: everybody who reaches this machine can use the model; "
                "there is no authentication"
            )

        def tell_of_error(error: BaseException) -> None:
            terminal.warn(f"a batch failed: {type(error).__name__}: {one_line(error)}")
            if options.debug:
                traceback.print_exception(error)

        def announce() -> None:
            url = server.url_of(bound)
            what = (
                f"{len(predictor.labels)} classes, {predictor.precision.name} on {predictor.device}"
            )
            terminal.note(f"serving {name} ({what}) on {url}, Ctrl-C ends it")
            terminal.note(
                f"try it  curl {url}/predict -H 'Content-Type: application/json' "
                """-d '{"texts": ["a text"]}'"""
            )
            terminal.result({"url": url, "model": str(options.model), "pid": os.getpid()})

        server.run(
            Served(name, predictor, options.settings(), tell_of_error),
            bound,
            options.allowed_hosts,
            on_start=announce,
            access_log=terminal.note if options.access_log else None,
        )
    finally:
        bound.close()
    terminal.note("ended")
