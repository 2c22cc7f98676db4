"""Observers that hand a training to TensorBoard, Weights & Biases or trackio.

Each stands in a file of its own, which imports its library: `loggers.tensorboard`, `loggers.wandb`,
`loggers.trackio`. All are a `MetricLogger`; another tracker is one more subclass.
"""

from ulmfit_fast.loggers.metrics import MetricLogger

__all__ = ["MetricLogger"]
