"""Keep a run in its folder: record, lock, checkpoints, state, best model."""
