"""`ulmfit-fast demo`: the three stages on texts of this machine, and what each is worth."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy
import torch

from ulmfit_fast import __version__, pretrained
from ulmfit_fast.commands.held_out import split_texts
from ulmfit_fast.commands.report import evaluation_values
from ulmfit_fast.commands.run_folder import RunFolder
from ulmfit_fast.commands.run_report import REPORT, make_report
from ulmfit_fast.commands.terminal import Terminal
from ulmfit_fast.commands.train import observing, write_json
from ulmfit_fast.demo_corpus import (
    LABELLED_PER_PACKAGE,
    MASK,
    DemoCorpus,
    build_demo_corpus,
    find_sources,
)
from ulmfit_fast.errors import InputError
from ulmfit_fast.interpret.statistics import wilson_interval
from ulmfit_fast.model import Dropouts
from ulmfit_fast.training.config import TrainConfig
from ulmfit_fast.training.documents import token_streams
from ulmfit_fast.training.evaluation import Evaluation, Prediction
from ulmfit_fast.training.loop import StageResult
from ulmfit_fast.training.tasks import LanguageModelTask
from ulmfit_fast.training.trainer import ULMFiTTrainer

# Written for this purpose: no docstring has it.
SENTENCE = (
    "Wait until every task of the group has finished, then return what the coroutines gave back."
)
# With stage 1 on docstrings. The size "tiny" halves these. Chosen on another split
# of this corpus (demo_corpus.SPLIT), 480 labels, 736 texts, 2026-11-23:
# - a language model this small learns more with next to no dropout and strong weight decay, which
#   also keeps its embeddings short enough to move in stage 3;
# - the classifier on top of it needs strong dropout (accuracy 0.76; with a quarter of it 0.66);
# - from scratch the same dropout hurts (0.49), so the baseline gets the light one that suits it.
LM_DROPOUTS = Dropouts(output=0.05, hidden=0.05, input=0.05, embed=0.01, weight=0.05)
CLASSIFIER_DROPOUTS = Dropouts(output=0.8, hidden=0.8, input=0.8, embed=0.6, weight=0.8)
SCRATCH_DROPOUTS = Dropouts(output=0.2, hidden=0.2, input=0.2, embed=0.1, weight=0.2)


@dataclass(frozen=True)
class Settings:
    """How the demo trains.

    Attributes:
        base: name of the model of the package that stage 1 is; None trains stage 1.
        size: of the models.
        language_model: of stages 1 and 2.
        classifier: of stage 3.
        scratch: of the same classifier without stages 1 and 2.
    """

    base: str | None
    size: str
    language_model: TrainConfig
    classifier: TrainConfig
    scratch: TrainConfig


@dataclass(frozen=True)
class DemoResult:
    """What the demo found.

    Attributes:
        stages: results of the stages that were trained: three, or two on a model of the package.
        base_perplexity: of that model on the texts to choose on; None without one.
        ulmfit: the classifier on the test texts.
        scratch: the same classifier without stages 1 and 2.
        majority: the test texts' largest class, and how many texts it has.
        prediction: for SENTENCE.
        seconds: of everything.
    """

    stages: list[StageResult]
    base_perplexity: float | None
    ulmfit: Evaluation
    scratch: Evaluation
    majority: tuple[str, int]
    prediction: Prediction
    seconds: float

    @property
    def beats_both(self) -> bool:
        """Whether the classifier is right more often than both baselines."""
        return self.ulmfit.accuracy > max(self.scratch.accuracy, self.majority[1] / self.ulmfit.n)


def settings_of(seed: int, *, from_scratch: bool) -> Settings:
    """Return the settings: stages 1 and 2 by 1cycle, stage 3 by the paper's gradual unfreezing.

    Args:
        seed: of everything random.
        from_scratch: whether stage 1 is trained here, on docstrings.
    """
    lm = TrainConfig.preset("fastai", seed=seed, bptt=40, max_vocab=5_000, min_freq=2)
    classifier = TrainConfig.preset("paper", seed=seed, bptt=40, alpha=0.0, beta=0.0, patience=0)
    if not from_scratch:
        # Wikipedia's words are not those of docstrings: at best 0.65 on the other split.
        lm = lm.with_stage("language_model", epochs=4, lr=0.01, batch_size=16)
        classifier = classifier.with_stage("classifier", epochs=20, lr=0.01, batch_size=16)
        scratch = classifier.with_stage("pretrain", lr=0.006)
        scratch = scratch.with_stage("classifier", dropouts=SCRATCH_DROPOUTS)
        return Settings(pretrained.DEFAULT, "small", lm, classifier, scratch)
    lm = replace(lm, weight_decay=0.3)
    lm = lm.with_stage("pretrain", epochs=3, lr=0.01, batch_size=32, dropouts=LM_DROPOUTS)
    lm = lm.with_stage("language_model", epochs=5, lr=0.01, batch_size=16, dropouts=LM_DROPOUTS)
    classifier = replace(classifier, lr_decay=1.3).with_stage(
        "classifier", epochs=30, lr=0.01, batch_size=16, dropouts=CLASSIFIER_DROPOUTS
    )
    # All layers at once, at the rate that suits it.
    scratch = classifier.with_stage("pretrain", lr=0.006)
    scratch = scratch.with_stage("classifier", dropouts=SCRATCH_DROPOUTS)
    return Settings(None, "tiny", lm, classifier, scratch)


def run_demo(out: Path, seed: int, terminal: Terminal, *, from_scratch: bool = True) -> None:
    """Build the corpus, train, compare, save and say where everything is.

    Args:
        out: folder of the run; an earlier run there is replaced.
        seed: of everything random.
        terminal: where to say it.
        from_scratch: whether stage 1 is trained here, on docstrings.

    Raises:
        InputError: Python's source files are missing, out is taken by something else, or the
            package has no model to begin with.
        TrainingError: the loss is not finite.
    """
    started = time.perf_counter()
    folder, settings = RunFolder(out, overwrite=True), settings_of(seed, from_scratch=from_scratch)
    if settings.base is not None and settings.base not in pretrained.names():
        raise InputError(
            f"demo: this installation has no model {settings.base!r}; train one here: "
            "leave --english out"
        )
    terminal.say("Reading docstrings of the Python standard library, numpy and torch ...")
    corpus = build_demo_corpus(find_sources())
    say_corpus(corpus, settings, terminal)
    with folder.fill() as place:
        result = train_and_compare(corpus, settings, place, started)
        summary = summarize(result, corpus, settings, out)
        write_json(place / "run.json", summary)
    parts = {"train": corpus.labelled, "valid": corpus.valid, "test": corpus.test}
    make_report(
        ULMFiTTrainer.load(out / "model", device="cpu"),
        {name: (part.texts, part.labels) for name, part in parts.items()}, out, terminal,
    )  # fmt: skip
    say_result(result, settings, out, terminal)
    terminal.result(summary)


def say_corpus(corpus: DemoCorpus, settings: Settings, terminal: Terminal) -> None:
    """Say what the texts are, so that the figures can be judged."""
    n_classes = len(set(corpus.labelled.labels))
    terminal.say(
        f"Task: tell from its opening words which of {n_classes} packages a docstring comes from "
        f"(package names and their abbreviations are replaced by {MASK!r})."
    )
    terminal.say(
        f"Few labels, as is usual: {len(corpus.labelled)} labelled texts (up to "
        f"{LABELLED_PER_PACKAGE} a class), {len(corpus.unlabelled):,} more without label for the "
        f"language model, {len(corpus.valid)} to choose on, {len(corpus.test)} to test on once."
    )
    if settings.base is None:
        n = f"{len(corpus.general):,}"
        terminal.say(f"General text for stage 1: {n} docstrings of other modules.")
    else:
        terminal.say(f"Stage 1 is done: the model {settings.base!r}, which comes with ulmfit_fast.")
    terminal.say()


def train_and_compare(
    corpus: DemoCorpus, settings: Settings, place: Path, started: float
) -> DemoResult:
    """Train with and without the first two stages; save the models and logs in a folder."""
    labelled, valid, test = corpus.labelled, corpus.valid, corpus.test
    stages, base_perplexity = [], None
    with observing(place / "metrics.jsonl") as observers:
        if settings.base is None:
            trainer = ULMFiTTrainer(
                settings.language_model, size=settings.size, device="cpu", observers=observers
            )
            seed = settings.language_model.seed
            stages.append(trainer.pretrain(*split_texts(corpus.general, "general text", seed)))
        else:
            trainer = ULMFiTTrainer.load(
                pretrained.folder(settings.base), config=settings.language_model, device="cpu",
                observers=observers,
            )  # fmt: skip
            base_perplexity = perplexity_on(trainer, valid.texts)
        stages.append(trainer.finetune_lm(labelled.texts + corpus.unlabelled.texts, valid.texts))
        trainer.save(place / "language_model", "language_model")
        tokenizer = trainer.tokenizer
        trainer.config = settings.classifier
        stages.append(
            trainer.train_classifier(labelled.texts, labelled.labels, valid.texts, valid.labels)
        )
        trainer.save(place / "model", "classifier")
    with observing(place / "scratch.jsonl") as observers:
        scratch = ULMFiTTrainer(
            settings.scratch, size=settings.size, device="cpu", observers=observers
        )
        scratch.tokenizer = tokenizer  # the same vocabulary
        scratch.train_classifier(labelled.texts, labelled.labels, valid.texts, valid.labels)
    return DemoResult(
        stages=stages,
        base_perplexity=base_perplexity,
        ulmfit=trainer.evaluate(test.texts, test.labels),
        scratch=scratch.evaluate(test.texts, test.labels),
        majority=Counter(sorted(test.labels)).most_common(1)[0],
        prediction=trainer.predict([SENTENCE])[0],
        seconds=time.perf_counter() - started,
    )


def perplexity_on(trainer: ULMFiTTrainer, texts: Sequence[str]) -> float:
    """Return the perplexity of a trainer's language model on texts."""
    model, tokenizer, config = trainer.language_model, trainer.tokenizer, trainer.config
    assert model is not None
    assert tokenizer is not None
    streams = token_streams(tokenizer, texts, texts, "language_model", config)
    return LanguageModelTask(model, *streams, config, "language_model").validate()["perplexity"]


def say_result(result: DemoResult, settings: Settings, out: Path, terminal: Terminal) -> None:
    """Print the table, one prediction, and where to look next."""
    *before, finetune, classifier = result.stages
    n = result.ulmfit.n
    label, n_majority = result.majority
    terminal.say()
    rows: list[tuple[str, str, StageResult | None, str]]
    if settings.base is None:
        rows = [("stage 1", "language model, general text", before[0], perplexities(before[0]))]
    else:
        figure = f"perplexity {result.base_perplexity:.0f} on these texts, lower is better"
        rows = [("stage 1", f"language model {settings.base!r}", None, figure)]
    rows += [
        ("stage 2", "language model, these texts", finetune, perplexities(finetune)),
        ("stage 3", "classifier", classifier, accuracy(round(result.ulmfit.accuracy * n), n)),
        ("", "same classifier without 1 and 2", None,
         accuracy(round(result.scratch.accuracy * n), n)),
        ("", f"always the largest class ({label})", None, accuracy(n_majority, n)),
    ]  # fmt: skip
    for stage, title, stage_result, figures in rows:
        seconds = f"{stage_result.seconds:5.0f} s" if stage_result else ""
        terminal.say(f"  {stage:8s} {title:34s} {seconds:>7s}   {figures}")
    if result.beats_both:
        terminal.say(f"  The three stages beat both baselines on {n} texts none of them has seen.")
        terminal.say(f"  {how_sure(result)}")
    else:
        terminal.say("  The three stages do NOT beat both baselines in this run: do not trust it.")
    terminal.say()
    terminal.say(f'  "{SENTENCE}"')
    best = sorted(result.prediction.probabilities.items(), key=lambda item: -item[1])[:3]
    terminal.say("  -> " + ", ".join(f"{name} {probability:.0%}" for name, probability in best))
    terminal.say()
    terminal.say(f"  model    {out / 'model'}      language model  {out / 'language_model'}")
    if (out / REPORT).is_file():
        terminal.say(f"  report   {out / REPORT}")
    terminal.say(f"  log      {out / 'metrics.jsonl'}      figures  {out / 'run.json'}")
    command = "ulmfit-fast" if shutil.which("ulmfit-fast") else os.path.relpath(sys.argv[0])
    terminal.say(f'  try      echo "Parse the header." | {command} predict {out} -')
    terminal.say(f"  yours    {command} train FILE --base {out}")
    terminal.say(f"  {result.seconds:.0f} s in all, on {torch.get_num_threads()} threads")


def how_sure(result: DemoResult) -> str:
    """Say whether the 95 % intervals of the classifier and the better baseline are apart."""
    n = result.ulmfit.n
    best = max(round(result.scratch.accuracy * n), result.majority[1])
    low, _ = wilson_interval(round(result.ulmfit.accuracy * n), n)
    _, high = wilson_interval(best, n)
    if low > high:
        return "The intervals are apart."
    return "The intervals overlap: another seed may give another margin (--seed)."


def perplexities(result: StageResult) -> str:
    """Return the perplexity on held-out texts after the first epoch and at the end."""
    first, best = result.epochs[0]["perplexity"], result.best["perplexity"]
    return f"perplexity {first:.0f} -> {best:.0f}, lower is better"


def accuracy(n_right: int, n: int) -> str:
    """Return an accuracy with its 95 % interval."""
    low, high = wilson_interval(n_right, n)
    return f"accuracy {n_right / n:.3f}  [{low:.3f}, {high:.3f}]"


def summarize(
    result: DemoResult, corpus: DemoCorpus, settings: Settings, out: Path
) -> dict[str, Any]:
    """Return everything the demo found as JSON values."""
    return {
        "kind": "demo",
        "out": str(out),
        "seed": settings.classifier.seed,
        "base": settings.base,
        "base_perplexity": result.base_perplexity,
        "seconds": round(result.seconds, 1),
        "beats_both_baselines": result.beats_both,
        "stages": [asdict(stage) for stage in result.stages],
        "test": evaluation_values(result.ulmfit),
        "test_from_scratch": evaluation_values(result.scratch),
        "majority": {"label": result.majority[0], "accuracy": result.majority[1] / result.ulmfit.n},
        "prediction": {"text": SENTENCE, **asdict(result.prediction)},
        "n_texts": {
            name: len(getattr(corpus, name))
            for name in ("general", "labelled", "unlabelled", "valid", "test")
        },
        "config": {
            "language_model": settings.language_model.to_dict(),
            "classifier": settings.classifier.to_dict(),
            "from_scratch": settings.scratch.to_dict(),
        },
        "versions": versions(),
        "n_threads": torch.get_num_threads(),
    }


def versions() -> dict[str, str]:
    """Return the versions that the texts and the figures depend on."""
    return {
        "ulmfit_fast": __version__,
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "torch": torch.__version__,
    }
