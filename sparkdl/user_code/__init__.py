"""Find and fingerprint the source of the user's code, and tell whether it was edited after its import."""
