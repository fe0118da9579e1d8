"""Look at the source of the user's own modules: what it is, and whether it was edited after its import."""
