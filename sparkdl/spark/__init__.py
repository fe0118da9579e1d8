"""Use Spark: columns by exact names, errors from workers, Arrow batches, tables that are more than files."""
