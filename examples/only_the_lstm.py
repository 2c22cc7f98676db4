"""WeightDroppedLSTM in a network of your own: the same parameters and results as nn.LSTM.

python examples/only_the_lstm.py
"""

from __future__ import annotations

import argparse
from string import ascii_lowercase

import torch
from docstrings import docstrings
from torch import nn

from ulmfit_fast import WeightDroppedLSTM

CHARACTERS = " " + ascii_lowercase


class NextCharacter(nn.Module):
    """Predicts the next character; ids [T, B] -> logits [T, B, C]."""

    def __init__(self, drop_p: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(CHARACTERS), 32)
        self.lstm = WeightDroppedLSTM(32, 128, drop_p=drop_p)  # was nn.LSTM(32, 128)
        self.output = nn.Linear(128, len(CHARACTERS))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:  # noqa: D102
        return self.output(self.lstm(self.embedding(ids))[0])


def main() -> None:
    """Train, then hand the weights to nn.LSTM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=150)
    n_steps = parser.parse_args().steps
    torch.manual_seed(0)
    text = " ".join(docstrings("asyncio")).lower()
    ids = torch.tensor([CHARACTERS.index(c) for c in text if c in CHARACTERS])
    model = NextCharacter(drop_p=0.2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for step in range(1, n_steps + 1):
        starts = torch.randint(len(ids) - 65, (32,)).tolist()
        batch = torch.stack([ids[s : s + 65] for s in starts], dim=1)  # [65, 32]
        loss = nn.functional.cross_entropy(model(batch[:-1]).flatten(0, 1), batch[1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step in (1, n_steps):
            print(f"step {step}: {loss.item():.2f} nats a character")
    (lstm := nn.LSTM(32, 128)).load_state_dict(model.lstm.state_dict())
    x = model.eval().embedding(ids[:80]).view(20, 4, 32)
    difference = (lstm(x)[0] - model.lstm(x)[0]).abs().max().item()
    print(f"nn.LSTM with the same weights differs by at most {difference:.0e}")


if __name__ == "__main__":
    main()
