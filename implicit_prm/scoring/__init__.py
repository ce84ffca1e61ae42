"""Scorers, and the store that keeps their scores."""
