"""Score: a trained model as Spark UDFs and DataFrame transformations."""
