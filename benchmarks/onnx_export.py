"""Hold exported models against PyTorch on real texts: differences, sizes, and time of a text.

    python benchmarks/onnx_export.py --text imdb_train.csv.xz [--rows 2000] [--threads 1]

writes benchmarks/results/accuracy/onnx-export--<cpu>--<yyyymmdd>.json. One model is trained here,
for a few minutes, so that its logits mean something; the other has the real sizes and weights as
they are drawn, three times as large; it gets every eighth of the texts. These are held out from
training: half of them whole up to 1,500 tokens, the others cut to lengths from 1 on.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import machine
import numpy as np
import onnxruntime
import timing
import torch

from ulmfit_fast import AWDLSTMConfig, TextClassifier, TrainConfig, ULMFiTTrainer, read_table
from ulmfit_fast.interop.export_check import Ids, compare
from ulmfit_fast.interop.onnx import export_onnx, load_step, rounded_to_bf16
from ulmfit_fast.interop.torch_export import export_program, load_program
from ulmfit_fast.training.inference import InferenceCopy
from ulmfit_fast.training.precision import choose_precision
from ulmfit_fast.training.progress import ConsoleProgress

SCHEMA = 1
CASE = "onnx-export"
N_TEXTS, LONGEST = 200, 1500
#: Of the texts; the others are the longest of the table.
N_RANDOM = 180
#: Tokens of the texts whose time is taken, one text a call.
TIMED_LENGTHS = (20, 100, 300, 1000)
#: Name of a file's form, and the options of export_onnx that make it.
FORMS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16": {"precision": "bf16"},
    "int8": {"quantize": True},
    "bf16-int8": {"precision": "bf16", "quantize": True},
}
Call = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def trained_model(rows: Sequence[tuple[str, str]], options: argparse.Namespace) -> ULMFiTTrainer:
    """Train a language model and a classifier on some rows, shortly."""
    config = TrainConfig.preset("paper", seed=options.seed, max_vocab=20_000)
    config = config.with_stage("pretrain", epochs=options.epochs, batch_size=16)
    config = config.with_stage("classifier", epochs=3)
    trainer = ULMFiTTrainer(config, size=options.size, device="cpu", observers=[ConsoleProgress()])
    texts, labels = [text for text, _ in rows], [label for _, label in rows]
    trainer.pretrain(texts)
    trainer.train_classifier(texts, labels)
    return trainer


def drawn_model(seed: int) -> TextClassifier:
    """Return a classifier of the real sizes with weights three times as large as drawn."""
    torch.manual_seed(seed)
    model = TextClassifier(AWDLSTMConfig(5000), n_classes=2).eval()
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.mul_(3)
        for norm in (model.head[0], model.head[4]):
            norm.running_var.fill_(0.01)  # logits as large as a trained model's
    return model


def documents_of(trainer: ULMFiTTrainer, texts: Sequence[str]) -> list[Ids]:
    """Return the ids of texts: every other one cut, so that all lengths from 1 on are there."""
    ids = [each.astype(np.int64)[:LONGEST] for each in trainer.tokenizer.encode(texts)]
    lengths = np.geomspace(1, LONGEST, len(ids) // 2).round().astype(int)
    ids.sort(key=len)
    return [*ids[::2], *(each[:n] for each, n in zip(ids[1::2], lengths, strict=True))]


def within_vocabulary(documents: Sequence[Ids], size: int) -> list[Ids]:
    """Return documents with ids that a smaller vocabulary has, the others unknown."""
    return [np.where(ids < size, ids, 0) for ids in documents]


def file_case(
    source: ULMFiTTrainer | TextClassifier, form: str, folder: Path, documents: Sequence[Ids]
) -> dict[str, Any]:
    """Write one form of a model and hold it against the model on all documents."""
    model = source if isinstance(source, TextClassifier) else source.classifier
    model = model.eval().requires_grad_(False)
    start = time.perf_counter()
    if form == "torch-export":
        file = folder / f"{form}.pt2"
        export_program(source, file, overwrite=True)
        step: Any = load_program(file)[0]
    else:
        file = folder / f"{form}.onnx"
        export_onnx(source, file, overwrite=True, **FORMS[form])
        step = load_step(file)
    seconds = time.perf_counter() - start
    rounded = rounded_to_bf16(model) if form.startswith("bf16") else None
    return {
        "form": form,
        "bytes": file.stat().st_size,
        "export_and_check_s": round(seconds, 1),
        **asdict(compare(step, model, rounded, documents)),
    }


def calls_of(model: TextClassifier, folder: Path) -> dict[str, Call]:
    """Return what computes one batch, by name."""
    bf16, copies = choose_precision("bf16", torch.device("cpu")), InferenceCopy()

    def ours_in_bf16(ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        with bf16.computing():
            return copies.of(model, torch.bfloat16)(ids, lengths)

    calls: dict[str, Call] = {"ulmfit_fast fp32": model, "ulmfit_fast bf16": ours_in_bf16}
    for form in FORMS:
        calls[f"onnxruntime {form}"] = load_step(folder / f"{form}.onnx")
    return calls


@torch.no_grad()
def times(calls: dict[str, Call], vocab_size: int, rounds: int) -> list[dict[str, Any]]:
    """Take the time of one text a call, all in turns."""
    found = []
    for n in TIMED_LENGTHS:
        ids, lengths = torch.randint(3, vocab_size, (1, n)), torch.tensor([n])
        taken: dict[str, list[float]] = {name: [] for name in calls}
        for k in range(rounds + 2):
            for name, call in calls.items():
                ms = timing.call_ms(partial(call, ids, lengths), "cpu")
                if k >= 2:  # the first rounds warm up
                    taken[name].append(ms)
        found.append(
            {"n_tokens": n, "time_ms": {name: timing.summary(ms) for name, ms in taken.items()}}
        )
    return found


def accuracy(step: Call, documents: Sequence[Ids], wanted: Sequence[int]) -> float:
    """Return the share of documents whose class a file finds."""
    found = [
        int(step(torch.from_numpy(ids)[None], torch.tensor([len(ids)])).argmax())
        for ids in documents
    ]
    return float(np.mean(np.array(found) == np.array(wanted)))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return the record of both models."""
    torch.set_num_threads(options.threads)
    table = read_table(str(options.text), labelled=True)
    rows = list(zip(table.texts, table.labels, strict=True))
    random.Random(options.seed).shuffle(rows)
    rows[N_RANDOM:] = sorted(rows[N_RANDOM:], key=lambda row: -len(row[0]))
    held_out, rows = rows[:N_TEXTS], rows[N_TEXTS:]
    rows = random.Random(options.seed).sample(rows, min(len(rows), options.rows))
    origin = machine.origin(f"python benchmarks/{CASE.replace('-', '_')}.py")
    command = str(origin["command"]).replace(str(options.text), options.text.name)
    trainer = trained_model(rows, options)
    documents = documents_of(trainer, [text for text, _ in held_out])
    drawn = drawn_model(options.seed)
    models = {
        "trained": (trainer, documents),
        "drawn, 400/1152/3, V 5000": (drawn, within_vocabulary(documents[::8], 5000)),
    }
    whole = [each.astype(np.int64) for each in trainer.tokenizer.encode([t for t, _ in held_out])]
    classes = [trainer.labels.index(label) for _, label in held_out]
    found = []
    for name, (source, ids) in models.items():
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            files = [file_case(source, form, folder, ids) for form in (*FORMS, "torch-export")]
            model = source if isinstance(source, TextClassifier) else source.classifier
            calls = calls_of(model.eval(), folder)
            case: dict[str, Any] = {
                "model": name,
                "sizes": {k: v for k, v in asdict(model.config).items() if k != "dropouts"},
                "files": files,
                "times": times(calls, model.config.vocab_size, options.rounds),
            }
            if name == "trained":
                with torch.no_grad():
                    case["accuracy"] = {k: accuracy(c, whole, classes) for k, c in calls.items()}
            found.append(case)
    return {
        "schema": SCHEMA,
        **origin,
        "command": command,
        "machine": machine.describe("cpu"),
        "onnxruntime": onnxruntime.__version__,
        "threads": options.threads,
        "text": {
            "name": options.text.name, "n_trained_on": len(rows), "n_checked": len(documents),
            "tokens": [min(map(len, documents)), max(map(len, documents))],
        },
        "size": options.size,
        "epochs": options.epochs,
        "cases": found,
    }  # fmt: skip


def lines(record: dict[str, Any]) -> list[str]:
    """Return what a reader of the terminal wants to know of a record."""
    found = []
    for case in record["cases"]:
        found.append(case["model"])
        for file in case["files"]:
            found.append(
                f"  {file['form']:13} {file['bytes'] / 1e6:7.1f} MB  logits "
                f"{file['max_difference']:.1e} (largest {file['largest_logit']:.2f}), graph "
                f"{file['graph_difference']:.1e}, probabilities "
                f"{file['max_probability_difference']:.1e}, same class {file['agreement']:.1%}"
            )
        for row in case["times"]:
            times_ms = "  ".join(f"{k} {v['p50']:.1f}" for k, v in row["time_ms"].items())
            found.append(f"  {row['n_tokens']:5} tokens, ms: {times_ms}")
        found += [f"  accuracy {k} {v:.1%}" for k, v in case.get("accuracy", {}).items()]
    return found


def main(arguments: list[str] | None = None) -> int:
    found = argparse.ArgumentParser(description="Hold exported models against PyTorch.")
    found.add_argument("--text", type=Path, required=True, help="a table of texts and labels")
    found.add_argument("--rows", type=int, default=2000, help="to train on")
    found.add_argument("--size", default="tiny")
    found.add_argument("--epochs", type=int, default=1, help="of the language model")
    found.add_argument("--seed", type=int, default=0)
    found.add_argument("--threads", type=int, default=1)
    found.add_argument("--rounds", type=int, default=15)
    results = machine.ROOT / "benchmarks" / "results" / "accuracy"
    found.add_argument("--results", type=Path, default=results)
    options = found.parse_args(arguments)
    record = measure(options)
    sys.stdout.write("\n".join(lines(record)) + "\n")
    today = datetime.now(UTC).strftime("%Y%m%d")
    options.results.mkdir(parents=True, exist_ok=True)
    file = options.results / f"{CASE}--{machine.slug('cpu')}--{today}.json"
    file.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
