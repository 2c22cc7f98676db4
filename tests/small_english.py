"""A language model that knows a few words, in the place of the package's English one."""

from __future__ import annotations

from pathlib import Path

from cli_runs import FILLING, WORDS

from ulmfit_fast import TrainConfig, ULMFiTTrainer
from ulmfit_fast.model import Dropouts
from ulmfit_fast.text.rules import SPECIALS
from ulmfit_fast.text.subword import SubwordTokenizer
from ulmfit_fast.text.vocab import pad_vocab
from ulmfit_fast.training.sizes import model_size, new_language_model

LABEL_WORDS = " ".join(WORDS.values()).split()
ENGLISH = [*FILLING, "her", "his", *LABEL_WORDS]


def write_english(place: Path) -> None:
    """Write place/english with random weights: a word is one token, of others letters are."""
    words = [f"▁{word}" for word in dict.fromkeys(ENGLISH)]
    letters = ["▁", *"abcdefghijklmnopqrstuvwxyz"]
    vocab = pad_vocab([*SPECIALS, *words, *letters])
    scores = [0.0] * len(SPECIALS) + [-3.0] * len(words) + [-9.0] * len(letters)
    config = TrainConfig.preset("fastai", precision="fp32")
    trainer = ULMFiTTrainer(config, size="tiny", tokenizer_kind="subword", device="cpu")
    trainer.tokenizer = SubwordTokenizer(vocab, scores)
    trainer.language_model = new_language_model(model_size("tiny"), trainer.tokenizer, Dropouts())
    trainer.save(place / "english", packing="int8")
