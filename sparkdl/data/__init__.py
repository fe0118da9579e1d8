"""Turn a raw DataFrame into a prepared dataset, and the dataset into batches in a rank."""
