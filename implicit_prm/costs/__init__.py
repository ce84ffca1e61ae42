"""What a training run takes, before it is started: a model's shape, arithmetic on it, and the report."""
