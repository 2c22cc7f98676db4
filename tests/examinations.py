"""Examinations of any size whose figures agree with each other, and run folders around them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ulmfit_fast.interpret.examination import (
    Answer,
    Attribution,
    Calibration,
    CalibrationBin,
    ClassScores,
    Duplicate,
    Examination,
    Mistake,
    Neighbour,
    PartOverview,
    Suspect,
    TokenScore,
)
from ulmfit_fast.interpret.examination_json import to_json

WORDS = ["the", "a", "film", "story", "actor", "was", "is", "good", "bad", "dull", "fine", "long"]

# Texts and labels that a page must show and not obey.
HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(2)> \" ' & <b>",
    "<!--<script>",
    "]]> {{ 7 * 7 }} {% raw %} $x$ \\u003c",
    "controls \x00\x07\x1b[31m\x85\u2028\u2029 \ud800 end",
    "\u202eright to left\u202c \u05d0\u05d1\u05d2 \u0627\u0644\u0639",
    "emoji-free unicode: Zażółć 漢字 한국어",
    "",
    " \t\n ",
    "x" * 20_000,
]


def around(share: float, n: int) -> tuple[float, float]:
    half = 1 / np.sqrt(max(n, 1))
    return max(0.0, share - half), min(1.0, share + half)


def class_scores(name: str, right: int, n_true: int, n_answered: int) -> ClassScores:
    precision, recall = right / max(1, n_answered), right / max(1, n_true)
    f1 = 2 * right / max(1, n_true + n_answered)
    return ClassScores(
        name, n_true, precision, around(precision, n_answered), recall, around(recall, n_true),
        f1, around(f1, n_true + n_answered),
    )  # fmt: skip


def calibration(probabilities: np.ndarray, is_right: np.ndarray) -> Calibration:
    bins, error = [], 0.0
    for k in range(10):
        inside = (probabilities >= k / 10) & (probabilities < (k + 1) / 10)
        n = int(inside.sum())
        confidence = float(probabilities[inside].mean()) if n else float("nan")
        accuracy = float(is_right[inside].mean()) if n else float("nan")
        error += n / max(1, len(is_right)) * abs(confidence - accuracy) if n else 0.0
        bins.append(CalibrationBin(k / 10, (k + 1) / 10, n, confidence, accuracy))
    return Calibration(tuple(bins), error, 0.3)


def overview(name: str, labels: Sequence[str], n: int) -> PartOverview:
    edges = (0, 20, 40, 60, 80, 100, 120, 140, 1205)
    shares = np.array([0.05, 0.15, 0.3, 0.2, 0.1, 0.1, 0.06, 0.04])
    classes = {label: n // len(labels) for label in labels}
    counts = tuple(int(count) for count in np.round(n * shares))
    return PartOverview(name, n, classes, edges, counts, 61.0, 1204, n // 50, 0.043,
                        {"zyx": 12, "Kieślowski": 7})  # fmt: skip


def draw_examination(
    n: int = 200,
    labels: Sequence[str] = ("neg", "pos"),
    *,
    seed: int = 0,
    n_words: int = 30,
    texts: Sequence[str] = (),
    share_right: float = 0.8,
) -> Examination:
    """Draw answers, and count everything else from them; texts come from the front of all."""
    rng = np.random.default_rng(seed)
    C = len(labels)
    truth = rng.integers(C, size=n)
    answers = np.where(rng.random(n) < share_right, truth, rng.integers(C, size=n))
    probabilities = np.clip(rng.beta(6, 2, size=n), 1 / C, 0.999)
    is_right = truth == answers
    drawn = [" ".join(rng.choice(WORDS, size=n_words)) for _ in range(max(0, n - len(texts)))]
    all_texts = [*texts[:n], *drawn]
    confusion = np.zeros((C, C), dtype=int)
    np.add.at(confusion, (truth, answers), 1)
    wrong = sorted(np.flatnonzero(~is_right), key=lambda row: -probabilities[row])
    accuracy = float(is_right.mean()) if n else 0.0
    return Examination(
        "test", tuple(labels), n, accuracy, around(accuracy, n), 0.5,
        tuple(tuple(int(count) for count in row) for row in confusion),
        tuple(
            Answer(row, all_texts[row], int(truth[row]), int(answers[row]),
                   float(probabilities[row]))
            for row in range(n)
        ),
        tuple(
            class_scores(name, int(confusion[c, c]), int(confusion[c].sum()),
                         int(confusion[:, c].sum()))
            for c, name in enumerate(labels)
        ),
        calibration(probabilities, is_right),
        tuple(
            mistake(int(row), all_texts[row], labels[truth[row]], labels[answers[row]],
                    float(probabilities[row]), rng)
            for row in wrong[:40]
        ),
        tuple(
            Suspect("train", row, text, labels[0], labels[-1], 0.04)
            for row, text in enumerate(all_texts[:30])
        ),
        (overview("train", labels, 9 * n), overview("test", labels, n)),
        tuple(
            Duplicate("train", 3 * row, "test", row, text, (labels[0], labels[row % C]))
            for row, text in enumerate(all_texts[:8])
        ),
        {"train, test": min(n, 8)},
    )  # fmt: skip


def mistake(
    row: int, text: str, label: str, answer: str, probability: float, rng: np.random.Generator
) -> Mistake:
    words = text.split()
    pieces = [*words[:1], *(f" {word}" for word in words[1:])]
    tokens = tuple(TokenScore(piece, float(rng.normal(0, 0.3) ** 3)) for piece in pieces)
    nearest = tuple(Neighbour(k, label, text, 0.9 - k / 10) for k in range(3))
    attribution = Attribution(answer, tokens, "integrated_gradients", 0.02)
    return Mistake(row, text, label, answer, probability, attribution, nearest)


def log_lines(stages: Sequence[str] = ("pretrain", "classifier"), n_steps: int = 120) -> list[str]:
    """Write a log as JsonlLog does: rates that rise and fall, the lower layers frozen at first."""
    lines = []
    for stage in stages:
        lines.append({"event": "stage_started", "stage": stage, "time": 1.0, "n_steps": n_steps,
                      "description": "0.4 M parameters in fp32"})  # fmt: skip
        for step in range(1, n_steps + 1):
            rate = 0.01 * min(step, n_steps - step + 1) / n_steps
            frozen = stage == "classifier" and step <= n_steps // 4
            rates = {"embedding": 0.0 if frozen else rate / 4, "rnn0": 0.0 if frozen else rate / 2,
                     "head": rate}  # fmt: skip
            lines.append({"event": "step", "stage": stage, "time": 1.0 + step / 10, "step": step,
                          "epoch": 1 + 4 * (step - 1) // n_steps, "loss": 4 / (1 + step / 20),
                          "n_tokens": 640, "lr": rate, "rates": rates, "beta1": 0.8,
                          "tokens_per_s": 6_000.0 + step})  # fmt: skip
            if step % (n_steps // 4) == 0:
                loss = 1 + 10 / (20 + step)
                metrics = {"train_loss": loss, "valid_loss": loss, "accuracy": 0.5 + step / 1000}
                if stage != "classifier":
                    metrics["perplexity"] = float(np.exp(loss))
                lines.append({"event": "epoch_ended", "stage": stage, "time": 2.0,
                              "epoch": 4 * step // n_steps, **metrics})  # fmt: skip
        lines.append({"event": "stage_ended", "stage": stage, "time": 3.0, "seconds": 12.5,
                      **metrics})  # fmt: skip
    return [json.dumps(line) for line in lines]


def run_values(labels: Sequence[str] = ("neg", "pos")) -> dict:
    stage = {"epochs": 4, "lr": 0.01, "batch_size": 32, "clip": 0.3,
             "dropouts": {"output": 0.4, "hidden": 0.3}}  # fmt: skip
    return {
        "kind": "train", "out": "runs/reviews", "source": "reviews.csv", "base": None,
        "size": "tiny", "tokenizer": "word", "device": "cpu", "precision": "fp32",
        "why": {"size": "for the 10 words there are", "recipe": "--preset", "device": "no GPU"},
        "config": {"recipe": "paper", "seed": 3, "bptt": 70, "pretrain": stage,
                   "classifier": stage},
        "seconds": 25.0, "remarks": [], "n_skipped": 2, "n_threads": 2,
        "versions": {"ulmfit_fast": "0.1.0", "torch": "2.13.0", "python": "3.11.7"},
        "stages": [{"stage": "classifier", "seconds": 12.5, "n_tokens": 76_800}],
        "data": {"text_columns": ["review"], "label_column": "label", "n_train": 900,
                 "n_valid": 100, "n_test": 200, "n_unlabelled": 5, "notes": ["a note"],
                 "classes": dict.fromkeys(labels, 500)},
        "command": "ulmfit-fast train reviews.csv", "peak_memory": {"host_bytes": 2**30},
    }  # fmt: skip


def write_run(
    folder: Path,
    examination: Examination | None = None,
    run: dict | None = None,
    *,
    has_log: bool = True,
) -> Path:
    """Write a run's folder as `ulmfit-fast train` leaves it, without models.

    Pictures of the log take most of a report's time: tests of something else go without.
    """
    folder.mkdir(parents=True, exist_ok=True)
    values = run if run is not None else run_values()
    (folder / "run.json").write_text(json.dumps(values), encoding="utf-8")
    if has_log:
        (folder / "metrics.jsonl").write_text("\n".join(log_lines()) + "\n", encoding="utf-8")
    if examination is not None:
        (folder / "examination.json").write_text(to_json(examination), encoding="utf-8")
    return folder
