"""Helpers without knowledge of the domain: files, progress, processes, colors."""
