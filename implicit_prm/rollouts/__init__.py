"""Sampling and grading responses, with transformers or an OpenAI-compatible server."""
