"""The three stages: the trainer, its settings and loop, precision, progress, model folders."""
