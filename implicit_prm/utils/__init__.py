"""General helpers: files, progress, processes, colours, errors."""
