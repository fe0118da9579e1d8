"""Feed a rank: order an epoch, read and keep row groups, and gather their rows into batches."""
