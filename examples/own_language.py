"""A language that has no pretrained model: pretrain one on your own texts, with subword tokens.

    python examples/own_language.py texts.txt --out runs/mine     # one document a line
    ulmfit-fast train labelled.csv --base runs/mine               # then classify with it

Large files go through `ulmfit-fast pretrain`, which reads them as a stream.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from docstrings import PACKAGES, docstrings

from ulmfit_fast import TrainConfig, ULMFiTTrainer, read_table


def main() -> None:
    """Pretrain, say how good the model is on texts that it has not seen, and save it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?", help="default: docstrings")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--max-vocab", type=int, default=2000)
    parser.add_argument("--out", type=Path, help="folder for the model")
    options = parser.parse_args()
    if options.file:
        texts = read_table(options.file, labelled=False).texts
    else:
        texts = [text for package in PACKAGES for text in docstrings(package)]
    valid, train = texts[::20], [text for i, text in enumerate(texts) if i % 20]

    config = TrainConfig.preset("fastai", max_vocab=options.max_vocab, min_freq=1)
    config = config.with_stage("pretrain", epochs=options.epochs, batch_size=8)
    trainer = ULMFiTTrainer(config, size="tiny", tokenizer_kind="subword")
    result = trainer.pretrain(train, valid)
    for epoch, metrics in enumerate(result.epochs, start=1):
        print(f"epoch {epoch}: perplexity {metrics['perplexity']:.1f} of a token")
    assert trainer.tokenizer is not None
    print(len(trainer.tokenizer.vocab), "tokens:", *trainer.tokenizer.tokenize(valid[0])[:12])
    print(f"{result.n_tokens / result.seconds:,.0f} tokens a second, {result.seconds:.0f} s")
    if options.out:
        trainer.save(options.out)
        print(f"next: ulmfit-fast train FILE --base {options.out}")


if __name__ == "__main__":
    main()
