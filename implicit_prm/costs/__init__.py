"""What a run costs: floating-point operations, memory, the estimate before training and the ledger after it."""
