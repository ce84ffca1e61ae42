"""Final answers: extraction from a response, and comparison with the reference answer."""
