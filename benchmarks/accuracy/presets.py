"""How much each preset trains: paper (as published), fast (a GPU's hour), tiny (two CPU cores).

Epochs, sizes and rates of "paper" are the papers'. Those of the others were set beforehand and
tuned on nothing; where a figure chooses among settings it does so on a validation part, and the
record says which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ulmfit_fast import TrainConfig
from ulmfit_fast.model import Dropouts
from ulmfit_fast.training.defaults import count_words, n_steps_with, with_stage_length

#: Merity et al.: output, hidden, input, embedding, weight. Hidden 0.2 is of their command for
#: WikiText-2 (their README), 0.3 of the default; PTB has input 0.4 and hidden 0.25.
WIKITEXT_DROPOUTS = Dropouts(output=0.4, hidden=0.2, input=0.65, embed=0.1, weight=0.5)
PTB_DROPOUTS = Dropouts(output=0.4, hidden=0.25, input=0.4, embed=0.1, weight=0.5)


@dataclass(frozen=True)
class LanguageModelPreset:
    """A language model on WikiText-2 or PTB.

    Attributes:
        embed_size, hidden_size, n_layers: sizes.
        epochs: passes over the training part.
        batch_size: streams; PTB has 20 in Merity's README.
        bptt: steps of a batch, around which its length is drawn.
        drop_mult: factor of the published dropouts.
    """

    embed_size: int
    hidden_size: int
    n_layers: int
    epochs: int
    batch_size: int = 80
    bptt: int = 70
    drop_mult: float = 1.0


@dataclass(frozen=True)
class Preset:
    """Settings of all tasks.

    Attributes:
        name: paper, fast or tiny.
        size: of new ULMFiT models; a base has its own.
        tokenizer: of new ULMFiT models, "word" or "subword".
        max_vocab: largest vocabulary of those.
        pretrain_epochs: over the Wikipedia parts.
        lm_epochs: on a task's texts; with few texts, epochs are short.
        classifier_epochs: gradual unfreezing included.
        ablation_epochs: of the classifier, there and in the low-shot curve.
        patience: epochs without a better validation result before a stage stops; 0 never stops.
        rows: most training rows of a data set, and texts of its language model; without an
            entry, all.
        n_seeds: of ablations and baselines.
        shots: labels of the low-shot curve.
        language_model: WikiText-2 and PTB.
    """

    name: str
    size: str
    tokenizer: str
    max_vocab: int
    pretrain_epochs: int
    lm_epochs: int
    classifier_epochs: int
    ablation_epochs: int
    patience: int
    rows: dict[str, int]
    n_seeds: int
    shots: tuple[int, ...]
    language_model: LanguageModelPreset

    def config(self, seed: int, epochs: int | None = None) -> TrainConfig:
        """Return the paper's recipe with the epochs of this preset, or another number of them.

        Args:
            seed: of the runs.
            epochs: of the classifier.
        """
        config = TrainConfig.preset(
            "paper", seed=seed, max_vocab=self.max_vocab, patience=self.patience
        )
        config = config.with_stage("pretrain", epochs=self.lm_epochs)
        config = config.with_stage("language_model", epochs=self.lm_epochs)
        return config.with_stage("classifier", epochs=epochs or self.classifier_epochs)

    def config_for(
        self, seed: int, texts: Sequence[str], n_rows: int, epochs: int | None = None
    ) -> TrainConfig:
        """Return config() with batches for so much text.

        "paper" has the paper's batches; the others those that the library chooses, so that little
        text still makes steps.

        Args:
            seed: of the runs.
            texts: of the language model.
            n_rows: of the classifier.
            epochs: of the classifier.
        """
        config = self.config(seed, epochs)
        if self.name == "paper":
            return config
        n_units = n_steps_with(config, count_words(texts))
        for stage, n in (
            ("pretrain", n_units),
            ("language_model", n_units),
            ("classifier", n_rows),
        ):
            config = with_stage_length(config, stage, None, None, n)  # type: ignore[arg-type]
        return config

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


SHOTS = (50, 100, 200, 500, 1000, 2000, 4000)
PRESETS = {
    "paper": Preset(
        "paper", "base", "word", 60_000, pretrain_epochs=10, lm_epochs=15, classifier_epochs=50,
        ablation_epochs=50, patience=10, rows={}, n_seeds=5, shots=SHOTS,
        language_model=LanguageModelPreset(400, 1150, 3, epochs=750),
    ),
    "fast": Preset(
        "fast", "small", "subword", 30_000, pretrain_epochs=2, lm_epochs=6, classifier_epochs=12,
        ablation_epochs=12, patience=0, rows={}, n_seeds=5, shots=SHOTS,
        language_model=LanguageModelPreset(400, 1152, 3, epochs=40),
    ),
    "tiny": Preset(
        "tiny", "tiny", "word", 30_000, pretrain_epochs=1, lm_epochs=10, classifier_epochs=15,
        ablation_epochs=12, patience=0, rows={"imdb": 2_000, "ag": 5_000}, n_seeds=5,
        shots=(100, 200, 500, 1000),
        language_model=LanguageModelPreset(100, 256, 2, epochs=3, batch_size=20, drop_mult=0.5),
    ),
}  # fmt: skip


def quick(preset: Preset) -> Preset:
    """Return settings with which everything runs within seconds, and nothing is learnt."""
    rows = dict.fromkeys(("trec", "imdb", "ag"), 60)
    return replace(
        preset, name=f"{preset.name}-quick", size="tiny", max_vocab=400, pretrain_epochs=1,
        lm_epochs=1, classifier_epochs=2, ablation_epochs=2, rows=rows, n_seeds=2,
        shots=(20, 40),
        language_model=LanguageModelPreset(16, 24, 2, epochs=2, batch_size=4, bptt=10),
    )  # fmt: skip
