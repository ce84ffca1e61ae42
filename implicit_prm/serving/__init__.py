"""Scores over HTTP: a route of its own, and the routes that callers of reward models already use."""
