"""From rows of files to token ids: problems, grading, groups, tokens."""
