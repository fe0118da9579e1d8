"""Start ranks from the driver, watch them, and put together their results and outcomes."""
