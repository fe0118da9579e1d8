"""Feed a rank: the order of an epoch, and row groups read, kept and gathered into batches."""
