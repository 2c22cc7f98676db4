"""Train one language model in float32 and in bfloat16, and compare the loss curves.

    python benchmarks/precision_curves.py --text wiki.train.txt.xz [--steps 2000] [--size tiny]

writes benchmarks/results/accuracy/precision-curves--<cpu or cuda>--<yyyymmdd>.json and prints the
curves and their distance. Both runs are the trainer's own loop with one seed: the same weights at
the start, batches, masks and rates. A curve is smoothed by the mean of the last WINDOW steps;
distances are relative to float32's.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import machine
import torch
from torch import Tensor

from ulmfit_fast import TrainConfig
from ulmfit_fast.text import read_table, train_tokenizer
from ulmfit_fast.text.batches import LMStream
from ulmfit_fast.text.corpus import Corpus
from ulmfit_fast.text.tokenizer import Tokenizer
from ulmfit_fast.training.device import choose_device
from ulmfit_fast.training.loop import Fit
from ulmfit_fast.training.observer import Observer, Step
from ulmfit_fast.training.progress import ConsoleProgress
from ulmfit_fast.training.sizes import SIZES, model_size, new_language_model
from ulmfit_fast.training.tasks import LanguageModelTask

SCHEMA = 1
CASE = "precision-curves"
PRECISIONS = ("fp32", "bf16")
#: Steps that a smoothed loss is the mean of, and steps from one to the next in the record.
WINDOW, THINNED = 100, 20


class FirstBatches:
    """A number of batches as one epoch, of as many of a stream's epochs as they take."""

    def __init__(self, stream: LMStream, n: int) -> None:
        self.stream = stream
        self.n = n
        self.corpus = stream.corpus
        self.batch_size = stream.batch_size
        self.rows, self.world_size = stream.rows, stream.world_size

    def n_batches(self, epoch: int) -> int:
        return self.n

    def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        epochs = (self.stream.batches(each) for each in itertools.count())
        return itertools.islice(itertools.chain.from_iterable(epochs), start, self.n)


class Losses(Observer):
    """Keeps every loss and when it was told."""

    def __init__(self) -> None:
        self.of: list[float] = []
        self.times: list[float] = []
        self.description = ""

    def stage_started(self, stage: str, n_steps: int, description: str) -> None:
        self.description = description

    def step(self, step: Step) -> None:
        self.of.append(step.loss)
        self.times.append(time.perf_counter())


def settings(options: argparse.Namespace, precision: str) -> TrainConfig:
    """Return the paper's recipe at the sizes of the run."""
    config = TrainConfig.preset(
        "paper", seed=options.seed, bptt=options.bptt, precision=precision, patience=0
    )
    return config.with_stage("pretrain", epochs=1, batch_size=options.batch_size)


def train(
    corpus: Corpus, tokenizer: Tokenizer, options: argparse.Namespace, precision: str
) -> tuple[dict[str, Any], list[float]]:
    """Train in one precision; return what the record says of it, and the loss of every step."""
    config, device = settings(options, precision), choose_device(options.device)
    losses = Losses()
    torch.manual_seed(options.seed)
    size = model_size(options.size)
    dropouts = config.pretrain.dropouts.scaled(size.drop_mult)
    model = new_language_model(size, tokenizer, dropouts).to(device)
    stream = LMStream(
        corpus, options.batch_size, options.bptt, seed=options.seed, variable=config.variable_bptt
    )
    task = LanguageModelTask(model, FirstBatches(stream, options.steps), None, config, "pretrain")
    fit = Fit(task, config, [losses, ConsoleProgress()], from_scratch=True)
    fit.read_every = 1
    result = fit.run()
    found = {
        "precision": precision,
        "description": losses.description,
        "seconds": round(result.seconds, 2),
        "n_tokens": result.n_tokens,
        "tokens_per_s": round(result.n_tokens / result.seconds, 1),
        "skipped_steps": result.epochs[0].get("skipped_steps", 0),
    }
    return found, losses.of


def smoothed(losses: Sequence[float], window: int) -> Tensor:
    """Return the mean of every window of losses; float64, shape [steps - window + 1]."""
    return torch.tensor(losses, dtype=torch.float64).unfold(0, window, 1).mean(dim=1)


def distances(fp32: Sequence[float], bf16: Sequence[float]) -> dict[str, Any]:
    """Return how far bfloat16's curve is from float32's, relative to it."""
    window = min(WINDOW, len(fp32))
    base, other = smoothed(fp32, window), smoothed(bf16, window)
    relative = (other - base) / base
    at = int(relative.abs().argmax())
    raw = torch.tensor(bf16, dtype=torch.float64) / torch.tensor(fp32, dtype=torch.float64) - 1
    return {
        "window": window,
        "largest": float(relative.abs()[at]),
        "largest_at_step": at + window,
        "final": float(relative[-1].abs()),
        "mean_signed": float(relative.mean()),
        "largest_of_a_single_step": float(raw.abs().max()),
        "final_loss": {"fp32": float(base[-1]), "bf16": float(other[-1])},
    }


def thinned(losses: Sequence[float]) -> dict[str, list[float]]:
    """Return every THINNED-th smoothed loss, with its step."""
    window = min(WINDOW, len(losses))
    steps = range(window, len(losses) + 1, THINNED)
    values = smoothed(losses, window)
    return {"step": list(steps), "loss": [round(float(values[s - window]), 5) for s in steps]}


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Return the record of a run in both precisions."""
    texts = read_table(str(options.text), labelled=False).texts[: options.documents]
    config = settings(options, "fp32")
    tokenizer = train_tokenizer(
        texts, kind="word", max_vocab=config.max_vocab, min_freq=config.min_freq
    )
    corpus = Corpus.build(texts, tokenizer)
    origin = machine.origin(f"python benchmarks/{CASE.replace('-', '_')}.py")
    command = str(origin["command"]).replace(str(options.text), options.text.name)
    runs, curves = [], {}
    for precision in PRECISIONS:
        found, curves[precision] = train(corpus, tokenizer, options, precision)
        runs.append(found)
    return {
        "schema": SCHEMA,
        **origin,
        "command": command,
        "machine": machine.describe(options.device),
        "text": {
            "name": options.text.name,
            "n_documents": len(texts),
            "n_tokens": corpus.n_tokens,
            "vocabulary": len(tokenizer.vocab),
        },
        "size": options.size,
        "recipe": config.recipe,
        "steps": options.steps,
        "batch_size": options.batch_size,
        "bptt": options.bptt,
        "seed": options.seed,
        "runs": runs,
        "distance": distances(curves["fp32"], curves["bf16"]),
        "curves": {name: thinned(losses) for name, losses in curves.items()},
    }


def lines(record: dict[str, Any]) -> list[str]:
    """Return what a reader of the terminal wants to know of a record."""
    texts = []
    fp32, bf16 = (record["curves"][name] for name in PRECISIONS)
    rows = list(zip(fp32["step"], fp32["loss"], bf16["loss"], strict=True))
    for step, one, other in rows[:: max(1, len(rows) // 10)]:
        texts.append(f"step {step:6}  fp32 {one:.4f}  bf16 {other:.4f}  {other / one - 1:+.3%}")
    for run in record["runs"]:
        texts.append(f"{run['precision']}: {run['seconds']} s, {run['tokens_per_s']} tokens/s")
    found = record["distance"]
    where = f"at step {found['largest_at_step']}, over {found['window']} steps"
    texts.append(f"largest difference {found['largest']:.3%} ({where}), final {found['final']:.3%}")
    return texts


def main(arguments: list[str] | None = None) -> int:
    found = argparse.ArgumentParser(description="Compare loss curves in float32 and bfloat16.")
    found.add_argument("--text", type=Path, required=True, help="a text a line; .gz or .xz too")
    found.add_argument("--steps", type=int, default=2000)
    found.add_argument("--size", choices=tuple(SIZES), default="tiny")
    found.add_argument("--batch-size", type=int, default=16)
    found.add_argument("--bptt", type=int, default=70)
    found.add_argument("--seed", type=int, default=0)
    found.add_argument("--documents", type=int, help="take only so many of the text's")
    found.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    results = machine.ROOT / "benchmarks" / "results" / "accuracy"
    found.add_argument("--results", type=Path, default=results)
    options = found.parse_args(arguments)
    record = compare(options)
    sys.stdout.write("\n".join(lines(record)) + "\n")
    today = datetime.now(UTC).strftime("%Y%m%d")
    options.results.mkdir(parents=True, exist_ok=True)
    file = options.results / f"{CASE}--{options.device}--{today}.json"
    file.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
