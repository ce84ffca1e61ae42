"""Scorers, and the stores that keep their scores."""

from implicit_prm.scoring.batch_scorer import BatchScorer as BatchScorer
