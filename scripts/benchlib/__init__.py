"""Shared by the benchmark scripts: the work, the rivals, the clock, the costs and the report.

`bench_scoring.py`, `bench_training.py` and `bench_growth.py` define variants, one plain function each, which are timed
in turns. Only `ours.py` calls this library's scoring and training.
"""
