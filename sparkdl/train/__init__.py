"""Train: one Keras model on all ranks, exact whatever their number."""
