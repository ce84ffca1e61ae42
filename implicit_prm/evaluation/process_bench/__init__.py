"""ProcessBench (Zheng et al., arXiv 2412.06559): does a score find the first wrong step of a solution?"""
