"""A small classifier behind HTTP, in this process or in one of its own, shared by its tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from conftest import ROOT
from small_training import draw_texts, small_config

from ulmfit_fast import ULMFiTTrainer
from ulmfit_fast.training.evaluation import Prediction

JSON = {"Content-Type": "application/json"}


def small_trainer(precision: str = "fp32", labels: Sequence[str] = ("a", "b")) -> ULMFiTTrainer:
    """Return a trainer whose classifier had one epoch."""
    texts, _ = draw_texts(24)
    config = small_config(precision=precision).with_stage("classifier", epochs=1)
    trainer = ULMFiTTrainer(config, size="tiny", device="cpu")
    trainer.train_classifier(texts, [labels[i % len(labels)] for i in range(len(texts))])
    return trainer


class WordModel:
    """Answers with a text's own words as probabilities; tells what it was called with.

    A word of a text is a token. What `during` does happens in every batch.
    """

    labels = ("text",)

    def __init__(self, during: Callable[[], object] = lambda: None) -> None:
        self.batches: list[list[str]] = []
        self.encoded: list[list[str]] = []
        self.during = during
        self._texts: dict[int, str] = {}

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        self.encoded.append(list(texts))
        found = []
        for text in texts:
            number = len(self._texts)
            self._texts[number] = text
            found.append(np.full(len(text.split()), number, dtype=np.int32))
        return found

    def classify(self, ids: Sequence[np.ndarray]) -> list[Prediction]:
        texts = [self._texts[int(i[0])] for i in ids]
        self.batches.append(texts)
        self.during()
        return [Prediction(text, {text: 1.0}) for text in texts]


@dataclass
class Running:
    """A server in a process of its own."""

    url: str
    process: subprocess.Popen[str]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def local_url(self) -> str:
        """The address for this machine, whatever the server listens on."""
        return f"http://127.0.0.1:{self.port}"

    def stop(self, sign: int = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal, and return the exit status and what the process said on standard error."""
        self.process.send_signal(sign)
        _, said = self.process.communicate(timeout=30)
        return self.process.returncode, said


MAIN = "from ulmfit_fast.cli import main; main()"


@contextmanager
def serving(model: Path, *options: str, code: str = MAIN) -> Iterator[Running]:
    """Run `ulmfit-fast serve` on a free port."""
    command = [sys.executable, "-c", code, "serve", str(model), "--port", "0", "--json", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, text=True, **pipes) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, process.communicate()[1]
            yield Running(json.loads(line)["url"], process)
        finally:
            if process.poll() is None:
                process.kill()


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait until a condition holds."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)
