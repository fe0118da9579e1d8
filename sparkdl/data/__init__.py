"""Data: from a raw DataFrame to a prepared dataset, and from there to batches in a rank."""
