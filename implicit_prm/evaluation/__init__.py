"""Selection, statistics and reports: everything that happens after the scores exist."""
