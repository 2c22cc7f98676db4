"""ULMFiT with fused kernels: language-model pretraining, fine-tuning and text classification."""

__version__ = "0.1.0"
