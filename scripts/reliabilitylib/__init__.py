"""The parts of `scripts/reliability.py`: commands in processes, what is done to them, and the tables."""
