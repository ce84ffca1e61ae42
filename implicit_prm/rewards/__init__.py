"""The mathematics of implicit rewards: pure functions on tensors and strings, no files, no models."""
