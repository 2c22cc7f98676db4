"""Estimate on paper how training scales over GPUs: what docs/scaling.md says. Nothing is measured.

    python benchmarks/scaling_estimate.py

Parameters are counted from the model. Rates are nominal ones of an H100 SXM machine with eight GPUs
on NVLink and a network card of 400 Gbit/s for each; the time of the LSTM is the floor of a model of
the kernels, not yet of a run.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from ulmfit_fast.model import AWDLSTMConfig, LanguageModel

WORDS, BPTT, GPUS_A_NODE = 60_000, 70, 8
NVLINK = 450e9  # bytes/s out of a GPU, nominal (NVLink 4)
NETWORK = 50e9  # bytes/s out of a GPU's own card, nominal (400 Gbit/s)
REACHED = 0.7  # of nominal rates: an assumption
MEMORY = 3.35e12  # bytes/s
TENSOR_CORES = 400e12  # FLOP/s in bfloat16: an assumption, 40 % of the peak
#: Milliseconds of the LSTM stack forward and backward, by rows: floors of the model of the kernels.
LSTM_MS = {64: 1.59, 128: 2.42}
#: Products of the size of the softmax in a step: forward, again backward, dx and dw.
SOFTMAX_PRODUCTS = 4
#: Bytes that the optimizer moves for a parameter: reads w, g, m, v, writes w, m, v.
OPTIMIZER_BYTES = 28


@dataclass(frozen=True)
class Estimate:
    """A step on so many GPUs.

    Attributes:
        n_gpus: processes.
        rows: in each.
        step_ms: of one GPU alone.
        exchange_ms: the ring's time for all gradients.
        exposed_ms: what of it nothing hides.
    """

    n_gpus: int
    rows: int
    step_ms: float
    exchange_ms: float
    exposed_ms: float

    @property
    def efficiency(self) -> float:
        """Share of n_gpus times one GPU's tokens a second."""
        return self.step_ms / (self.step_ms + self.exposed_ms)

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.n_gpus * self.rows * BPTT


def parameters() -> dict[str, int]:
    """Count the parameters of size base with 60,000 words by layer."""
    groups = LanguageModel(AWDLSTMConfig(WORDS)).layer_groups()
    return {name: sum(p.numel() for p in group) for name, group in groups.items()}


def step_ms(rows: int, n_parameters: int) -> float:
    """Estimate a step of one GPU: LSTMs, softmax, optimizer."""
    softmax = SOFTMAX_PRODUCTS * 2 * rows * BPTT * 400 * WORDS / TENSOR_CORES
    optimizer = OPTIMIZER_BYTES * n_parameters / MEMORY
    return LSTM_MS[rows] + 1e3 * (softmax + optimizer)


def exchange_ms(n_gpus: int, n_bytes: int) -> float:
    """Estimate an all-reduce: a ring moves 2 (N - 1) / N of the bytes out of every GPU."""
    moved = 2 * (n_gpus - 1) / n_gpus * n_bytes
    if n_gpus <= GPUS_A_NODE:
        return 1e3 * moved / (NVLINK * REACHED)
    # One ring for each card: each carries an eighth of the bytes from machine to machine.
    return 1e3 * moved / (GPUS_A_NODE * NETWORK * REACHED)


def estimates() -> list[Estimate]:
    """Return the table of docs/scaling.md."""
    counted = parameters()
    n_parameters = sum(counted.values())
    found = []
    for n_gpus in (8, 64):
        for rows in LSTM_MS:
            exchange = exchange_ms(n_gpus, 4 * n_parameters)
            # The tied embedding's gradient is whole when the backward pass is through: its lookup
            # comes last. The others are sent while the layers below are at work.
            exposed = exchange * counted["embedding"] / n_parameters
            alone = step_ms(rows, n_parameters)
            found.append(Estimate(n_gpus, rows, alone, exchange, exposed))
    return found


def main() -> None:
    """Print the estimate."""
    counted = parameters()
    lines = [f"{name:10s} {n:>11,} parameters {4 * n / 1e6:6.1f} MB" for name, n in counted.items()]
    lines.append(f"{'all':10s} {sum(counted.values()):>11,} parameters "
                 f"{4 * sum(counted.values()) / 1e6:6.1f} MB")  # fmt: skip
    lines.append("GPUs  rows  step ms  all-reduce ms  exposed ms  efficiency  tokens a step")
    lines += [
        f"{e.n_gpus:4d}  {e.rows:4d}  {e.step_ms:7.2f}  {e.exchange_ms:13.2f}  "
        f"{e.exposed_ms:10.2f}  {e.efficiency:10.0%}  {e.tokens:13,}"
        for e in estimates()
    ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
