"""Score folders of Parquet files without a Spark plan: read as Spark reads, write a new folder."""
