"""Score rows with a trained model, by Spark UDFs, DataFrame transformations and Parquet files."""
