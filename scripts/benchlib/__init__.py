"""What the benchmark scripts share: the work, the rivals, the clock, the cost model and the report.

The scripts `bench_scoring.py`, `bench_training.py` and `bench_growth.py` name variants, a plain function each, and have
them timed in turns. `ours.py` is the only file that calls the library's scoring and training.
"""
