"""The parts of `scripts/study.py`: the grid of models, the tasks that train and evaluate them, the report."""
