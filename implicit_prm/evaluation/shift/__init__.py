"""Does the ranking of responses change when they are rewritten without a change of meaning?"""
