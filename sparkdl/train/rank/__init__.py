"""Train and evaluate in a rank."""
