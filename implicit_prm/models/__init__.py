"""Weights in, log-probabilities out: loading, LoRA, checkpoints, shared prompts, the reference and its cache."""
