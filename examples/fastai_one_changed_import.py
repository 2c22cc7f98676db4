"""A fastai script, language model and classifier, that differs from fastai's own in one import.

    python examples/fastai_one_changed_import.py

Its text is built in, so that it runs in under a minute on a CPU: 600 made-up reviews. A script for
real data differs in the texts, the sizes and the epochs.
"""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import pandas as pd
from fastai.text.all import (
    TextDataLoaders,
    accuracy,
    awd_lstm_clas_config,
    awd_lstm_lm_config,
    language_model_learner,
    text_classifier_learner,
)

from ulmfit_fast.interop.fastai import AWD_LSTM, LayerwiseAdamW

GOOD = ["wonderful", "moving", "funny", "clever"]
BAD = ["dull", "tedious", "awful", "clumsy"]
SIZES = {"emb_sz": 32, "n_hid": 64}


def reviews(n: int) -> pd.DataFrame:
    """Return n reviews with a label, the last fifth of them for validation."""
    draw = random.Random(1)
    rows = []
    for row in range(n):
        label, words = draw.choice([("good", GOOD), ("bad", BAD)])
        nouns = draw.sample(["film", "story", "cast", "ending", "music"], 3)
        text = ", ".join(f"the {noun} is {draw.choice(words)}" for noun in nouns)
        rows.append({"text": f"{text}.", "label": label, "is_valid": row >= 0.8 * n})
    return pd.DataFrame(rows)


def main(folder: Path) -> float:
    """Fine-tune a language model and a classifier in a folder; return the classifier's accuracy."""
    table = reviews(600)
    options = {"text_col": "text", "valid_col": "is_valid", "seq_len": 16, "num_workers": 0}
    dls = TextDataLoaders.from_df(table, folder, is_lm=True, bs=16, **options)
    learn = language_model_learner(
        dls,
        AWD_LSTM,
        config={**awd_lstm_lm_config, **SIZES},
        pretrained=False,
        drop_mult=0.3,
        opt_func=LayerwiseAdamW,
        metrics=accuracy,
    ).to_bf16()
    learn.fit_one_cycle(3, 2e-2)
    learn.save_encoder("encoder")

    dls = TextDataLoaders.from_df(
        table, folder, label_col="label", text_vocab=dls.vocab, bs=16, **options
    )
    learn = text_classifier_learner(
        dls,
        AWD_LSTM,
        config={**awd_lstm_clas_config, **SIZES},
        pretrained=False,
        opt_func=LayerwiseAdamW,
        metrics=accuracy,
    ).to_bf16()
    learn.load_encoder("encoder")
    learn.fit_one_cycle(1, 5e-2)
    learn.freeze_to(-2)
    learn.fit_one_cycle(1, slice(2e-2 / 2.6**4, 2e-2))
    learn.unfreeze()
    learn.fit_one_cycle(4, 1e-2)
    found = float(learn.validate()[1])
    label, _, chances = learn.predict("the music is wonderful, the story is clever.")
    print(f"accuracy {found:.3f}; a warm review is {label} ({float(chances.max()):.3f})")
    return found


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder))
