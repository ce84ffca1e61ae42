"""The parts of scripts/study_rl.py."""
