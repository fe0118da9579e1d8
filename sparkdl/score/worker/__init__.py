"""Score rows in a Spark worker: encode, call the model, shape its outputs."""
