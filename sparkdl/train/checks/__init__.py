"""Check before training: the call, the model, its data, the monitored metric."""
