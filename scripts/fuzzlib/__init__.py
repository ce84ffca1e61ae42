"""Parts of `scripts/fuzz.py`: hostile values, and what is fed with them."""
