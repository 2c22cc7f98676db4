"""Ways in and out: scripts and checkpoints of fastai, scikit-learn, ONNX, folders of the Hub."""
