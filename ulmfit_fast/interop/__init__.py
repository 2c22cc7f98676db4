"""Ways in and out: fastai's scripts and checkpoints, scikit-learn, ONNX, the Hub's model folders."""
