"""Observers that hand a training to TensorBoard, Weights & Biases or trackio."""
