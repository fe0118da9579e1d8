"""Start one process per rank, on Spark or on this machine; bring back the values, or the one error that counts."""
