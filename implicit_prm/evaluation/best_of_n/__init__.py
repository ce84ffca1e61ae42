"""Best-of-N: rerank candidates and compare with votes, likelihood and random choice."""
