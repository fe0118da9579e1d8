"""Tell whether two runs are of the same code and model."""
