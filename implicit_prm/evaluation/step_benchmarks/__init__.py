"""PRMBench and Hard2Verify: does a score tell right steps from wrong ones, each by its own label?"""
