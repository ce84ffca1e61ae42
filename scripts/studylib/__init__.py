"""What `scripts/study.py` is made of: the grid of cells, the tasks that fill it, and what is read off it."""
