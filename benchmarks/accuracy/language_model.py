"""AWD-LSTM on WikiText-2 or PTB: words as published, NT-ASGD or Adam, all tokens measured.

Batches are awd-lstm-lm's: the text in order, cut into streams, steps of drawn length, the state
carried on within an epoch. The best weights by validation (10 streams, as there) are kept; test is
measured once, at the end, by one stream over all its tokens, and validation is measured so again.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ulmfit_fast.errors import InputError, TrainingError
from ulmfit_fast.model import AWDLSTMConfig, Dropouts, EncoderState, LanguageModel
from ulmfit_fast.text.batches import LMStream
from ulmfit_fast.text.corpus import Corpus
from ulmfit_fast.text.tokenizer import Tokenizer, WordTokenizer
from ulmfit_fast.training.device import choose_device, seeded
from ulmfit_fast.training.precision import choose_precision
from ulmfit_fast.training.resume import Checkpoints
from ulmfit_fast.training.snapshot import Snapshot, generators, set_generators
from ulmfit_fast.training.stage_state import below

from .data import read_text
from .nt_asgd import RECIPES, make_recipe
from .perplexity import token_nats
from .presets import PTB_DROPOUTS, WIKITEXT_DROPOUTS, Preset
from .record import Unit, say

EOS = "<eos>"
EVALUATION_STREAMS = 10
ALPHA, BETA = 2.0, 1.0
PARTS = ("train", "valid", "test")
#: Steps between two looks at the loss.
READ_EVERY = 20
#: Attributes of a training that are numbers.
PROGRESS = (
    *("epoch", "batch", "n_steps", "n_tokens", "epochs", "epoch_sum", "epoch_tokens", "seconds"),
)
#: File names of each corpus, dropouts, and streams of its batches where they are not 80.
CORPORA: dict[str, tuple[str, Dropouts, int]] = {
    "wikitext-2": ("wikitext-2_{}.txt", WIKITEXT_DROPOUTS, 80),
    "ptb": ("ptb.{}.txt", PTB_DROPOUTS, 20),
}

#: What a checkpoint of a trainer says of itself, and the library's reader asks for; of no use here.
FRAME: dict[str, Any] = {
    "index": 0, "stage": "language_model", "history": [], "model": {}, "train": {},
    "entry": {"stage": "language_model", "fingerprint": {}},
    "trainer": {
        "config": {}, "size": "base", "tokenizer_kind": "word", "device": "cpu",
        "cuda_graphs": False,
    },
}  # fmt: skip


class Words:
    """A corpus as published: words between spaces, `<eos>` at each line's end.

    Args:
        texts: of training, validation and test.

    Attributes:
        vocabulary: every word of the three parts, in the order of their first place.
        ids: int32 of each part.
    """

    def __init__(self, texts: dict[str, str]) -> None:
        index: dict[str, int] = {}
        self.ids: dict[str, np.ndarray] = {}
        for part in PARTS:
            lines = texts[part].split("\n")
            if not lines[-1].strip():
                lines.pop()
            words = (w for line in lines for w in (*line.split(), EOS))
            self.ids[part] = np.fromiter(
                (index.setdefault(word, len(index)) for word in words), np.int32
            )
        self.vocabulary = list(index)


def read_corpus(options: argparse.Namespace, corpus: str) -> Words:
    """Read a corpus; PTB from --ptb, as it is licensed.

    Raises:
        InputError: a file is missing.
    """
    folder, pattern = options.data, CORPORA[corpus][0]
    if corpus == "ptb":
        folder = options.ptb
    texts = {part: read_text(folder, pattern.format(part)) for part in PARTS}
    if options.quick:
        texts = {part: "\n".join(text.split("\n")[:60]) for part, text in texts.items()}
    return Words(texts)


class Training:
    """A language model in training: everything that a checkpoint holds.

    Args:
        words: corpus.
        settings: of the unit.
        device: where to train.
        checkpoints: where to save.
    """

    def __init__(
        self, words: Words, settings: dict[str, Any], device: str, checkpoints: Checkpoints
    ) -> None:
        self.words, self.settings, self.checkpoints = words, settings, checkpoints
        self.device = choose_device(device)
        self.precision = choose_precision("auto", self.device)
        sizes = settings["model"]
        config = AWDLSTMConfig(
            len(words.vocabulary), sizes["embed_size"], sizes["hidden_size"], sizes["n_layers"],
            0, Dropouts(**settings["dropouts"]),
        )  # fmt: skip
        self.model = LanguageModel(config).to(self.device)
        self.model.encoder.embedding.padding_idx = None  # every id is a word
        ids = words.ids["train"]
        self.stream = LMStream(
            Corpus(ids, np.array([0, len(ids)])), sizes["batch_size"], sizes["bptt"],
            seed=settings["seed"], shuffle=False, variable=True,
        )  # fmt: skip
        n_steps = sum(self.stream.n_batches(epoch) for epoch in range(sizes["epochs"]))
        self.recipe = make_recipe(settings["recipe"], self.model, sizes["bptt"], n_steps)
        self.epoch = self.batch = self.n_steps = self.n_tokens = self.epoch_tokens = 0
        self.unread = torch.zeros((), dtype=torch.float64, device=self.device)
        self.state: EncoderState | None = None
        self.best: dict[str, torch.Tensor] = {}
        self.best_loss = math.inf
        self.epochs: list[dict[str, float]] = []
        self.epoch_sum = self.seconds = 0.0
        self._began = time.perf_counter()

    def run(self) -> None:
        """Train to the end, saving on the way.

        Raises:
            TrainingStopped: a signal came; the state is saved.
            TrainingError: a loss is not finite.
        """
        stop = self.checkpoints.stop
        self._began = time.perf_counter() - self.seconds
        with stop.listening():
            while self.epoch < self.settings["model"]["epochs"]:
                with stop.held_back():
                    self._train_epoch()
                    loss = self.validate()
                    self._end_epoch(loss)

    def _train_epoch(self) -> None:
        self.model.train()
        with closing(self._batches()) as batches:
            for ids, targets in batches:
                with self.precision.computing():
                    parts, self.state = self.model.loss(ids, targets, self.state, ALPHA, BETA)
                parts.total.backward()
                self.recipe.step(ids.shape[1])
                self.unread += parts.cross_entropy.double() * ids.numel()
                self.epoch_tokens += ids.numel()
                self.n_tokens += ids.numel()
                self.n_steps += 1
                self.batch += 1
                if self.n_steps % READ_EVERY == 0:
                    self._read()
                self._keep()
        self._read()

    def _read(self) -> None:
        """Add up the losses since the last time; waits for a GPU.

        Raises:
            TrainingError: one of them is not finite.
        """
        self.epoch_sum += self.unread.item()
        self.unread.zero_()
        if not math.isfinite(self.epoch_sum):
            raise TrainingError(f"epoch {self.epoch + 1}: a loss is not finite: lower the rate")

    def _batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for ids, targets in self.stream.batches(self.epoch, self.batch):
            yield ids.to(self.device), targets.to(self.device)

    def validate(self) -> float:
        """Return nats a token of the validation part, by the averaged weights if there are."""
        with self.recipe.averaged():
            nats = token_nats(
                self.model, self.words.ids["valid"], self.precision, streams=EVALUATION_STREAMS
            )
            loss = nats.double().mean().item()
            if not math.isfinite(loss):
                raise TrainingError(f"epoch {self.epoch + 1}: the validation loss is {loss}")
            if loss < self.best_loss:
                self.best_loss = loss
                self.best = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        return loss

    def _end_epoch(self, loss: float) -> None:
        self.seconds = time.perf_counter() - self._began
        train_loss = self.epoch_sum / self.epoch_tokens
        found = {"train_loss": train_loss, "valid_loss": loss, "seconds": round(self.seconds, 2)}
        self.epochs.append(found)
        averages = self.recipe.averaging_since is not None
        self.recipe.epoch_ended(loss)
        self.epoch, self.batch, self.state = self.epoch + 1, 0, None
        self.epoch_sum, self.epoch_tokens = 0.0, 0
        say(
            f"  epoch {self.epoch}: validation perplexity {math.exp(min(loss, 700.0)):.2f}"
            f"{' (averaged)' if averages else ''}, {self.seconds:.0f} s"
        )
        self._keep()

    def _keep(self) -> None:
        """Save where it is time to; raise TrainingStopped where it was asked for."""
        asked = self.checkpoints.stop.is_asked(1.5 * self.checkpoints.saving_s)
        if asked or self.checkpoints.is_due():
            self.checkpoints.write(self.snapshot(), f"language_model-step-{self.n_steps}")
        if asked:
            raise self.checkpoints.stopped(f"epoch {self.epoch + 1}, batch {self.batch}")

    def snapshot(self) -> Snapshot:
        """Return everything that goes on."""
        self._read()
        self.seconds = time.perf_counter() - self._began
        optimizer = self.recipe.optimizer.state_dict()["state"]
        tensors = {f"model/{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"best/{k}": v for k, v in self.best.items()}
        tensors |= {f"generators/{k}": v for k, v in generators(self.device).items()}
        for number, state in optimizer.items():
            tensors |= {f"optimizer/{number}/{k}": torch.as_tensor(v) for k, v in state.items()}
        for layer, (h, c) in enumerate(self.state or ()):
            tensors |= {f"state/{layer}/h": h, f"state/{layer}/c": c}
        values = {
            **FRAME,
            "unit": self.settings,
            "progress": {name: getattr(self, name) for name in PROGRESS},
            "best_loss": self.best_loss if self.best else None,
            "recipe": self.recipe.notes,
        }
        tensors = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
        return Snapshot(values, tensors, vocabulary_of(self.words))

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from a checkpoint.

        Raises:
            InputError: it is of other settings.
        """
        if snapshot.values["unit"] != self.settings:
            raise InputError(
                f"{self.checkpoints.folder}: its checkpoint has other settings: delete the folder"
            )
        for name, value in snapshot.values["progress"].items():
            setattr(self, name, value)
        parts = {name: below(snapshot.tensors, name) for name in ("model", "best", "state")}
        self.model.load_state_dict(parts["model"])
        self.best = {name: tensor.to(self.device) for name, tensor in parts["best"].items()}
        self.best_loss = math.inf if not self.best else snapshot.values["best_loss"]
        self.recipe.restore(snapshot.values["recipe"])
        states: dict[int, dict[str, Any]] = {}
        for name, tensor in below(snapshot.tensors, "optimizer").items():
            number, _, key = name.partition("/")
            states.setdefault(int(number), {})[key] = tensor
        optimizer = self.recipe.optimizer
        if states:
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": states, "param_groups": groups})
        state = {k: v.to(self.device) for k, v in parts["state"].items()}
        pairs = [(state[f"{i}/h"], state[f"{i}/c"]) for i in range(len(state) // 2)]
        self.state = pairs or None
        set_generators(below(snapshot.tensors, "generators"), self.device)


def vocabulary_of(words: Words) -> Tokenizer:
    """Return the words in the form that a checkpoint has; ids are three more there."""
    return WordTokenizer(["xxunk", "xxpad", "xxbos", *words.vocabulary])


def measure(
    words: Words, settings: dict[str, Any], options: argparse.Namespace, work: Path
) -> dict[str, Any]:
    """Train, or go on, and return the metrics of the best weights."""
    checkpoints = Checkpoints(
        work / "checkpoints", options.checkpoint_every, how_to_go_on="the same command"
    )
    with seeded(settings["seed"], choose_device(options.device)):
        training = Training(words, settings, options.device, checkpoints)
        if (found := checkpoints.find()) is not None:
            training.restore(found)
        training.run()
    training.model.load_state_dict(training.best)
    metrics: dict[str, Any] = {}
    for part in ("valid", "test"):
        ids = words.ids[part]
        whole = np.concatenate([[words.vocabulary.index(EOS)], ids])
        nats = token_nats(training.model, whole, training.precision, streams=1)
        metrics[f"{part}_perplexity"] = math.exp(min(nats.double().mean().item(), 700.0))
        metrics[f"{part}_tokens"] = len(ids)
    return {
        **metrics,
        "averaging_since_epoch": training.recipe.averaging_since,
        "n_parameters": sum(p.numel() for p in training.model.parameters()),
        "vocabulary": len(words.vocabulary),
        "precision": training.precision.name,
        "train_seconds": round(training.seconds, 2),
        "tokens_per_s": round(training.n_tokens / training.seconds, 1),
        "epochs": training.epochs,
    }


def units(options: argparse.Namespace, preset: Preset) -> Iterator[Unit]:
    """Yield the language models of the task: each recipe on WikiText-2, and on PTB where it is."""
    for corpus in CORPORA if options.ptb else ("wikitext-2",):
        words = read_corpus(options, corpus)
        _, dropouts, batch_size = CORPORA[corpus]
        sizes = preset.language_model
        if sizes.batch_size == 80:
            sizes = replace(sizes, batch_size=batch_size)
        for recipe, numbers in RECIPES.items():
            for seed in options.seeds or (0,):
                settings = {
                    "recipe": recipe,
                    "numbers": asdict(numbers),
                    "model": asdict(sizes),
                    "dropouts": asdict(dropouts.scaled(sizes.drop_mult)),
                    "tokens": {part: len(ids) for part, ids in words.ids.items()},
                    "seed": seed,
                }
                yield Unit(
                    "language-model", corpus, recipe, preset.name, seed, settings,
                    lambda work, s=settings, w=words: measure(w, s, options, work),
                )  # fmt: skip
