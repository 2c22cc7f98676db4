"""LayerwiseAdamW for a network of your own: a rate for each layer, clipping inside the step.

python examples/only_the_optimizer.py
"""

from __future__ import annotations

import argparse

import torch
from docstrings import labelled_docstrings
from torch import Tensor, nn

from ulmfit_fast import LayerwiseAdamW
from ulmfit_fast.optim import layer_param_groups


def bags_of_words(texts: list[str], size: int) -> Tensor:
    """Return word counts, [texts, size]; its letters give a word's column."""
    bags = torch.zeros(len(texts), size)
    for row, text in enumerate(texts):
        for word in text.lower().split():
            bags[row, sum(ord(c) * 31**i for i, c in enumerate(word)) % size] += 1
    return bags


def main() -> None:
    """Train a small network and say what the optimizer knows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=60)
    options = parser.parse_args()
    torch.manual_seed(0)
    texts, labels = labelled_docstrings(150)
    names = sorted(set(labels))
    x, y = bags_of_words(texts, 2000), torch.tensor([names.index(label) for label in labels])
    n_test = len(x) // 5
    body, head = nn.Linear(2000, 64), nn.Linear(64, len(names))
    model = nn.Sequential(body, nn.ReLU(), nn.Dropout(0.5), head)
    layers = {"body": list(body.parameters()), "head": list(head.parameters())}  # lowest first
    groups = layer_param_groups(
        layers, lr=5e-3, lr_decay=2.6
    )  # the body's rate is 2.6 times smaller
    optimizer = LayerwiseAdamW(groups, max_grad_norm=0.25, average=0.9)
    for _ in range(options.epochs):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[n_test:]), y[n_test:]).backward()
        optimizer.step()  # clips, skips what is not finite, decays, updates, averages
    print("rates", {group["layer"]: round(group["lr"], 5) for group in optimizer.param_groups})
    print(
        f"last norm {optimizer.last_grad_norm.item():.3f}, skipped {int(optimizer.skipped_steps)}"
    )
    model.eval()
    with torch.no_grad(), optimizer.averaged():  # the running average of the weights
        accuracy = (model(x[:n_test]).argmax(dim=1) == y[:n_test]).double().mean().item()
    print(f"test accuracy with the averaged weights {accuracy:.2f}")


if __name__ == "__main__":
    main()
