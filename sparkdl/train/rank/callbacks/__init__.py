"""Callbacks of a rank around the user's: record epochs, save checkpoints, compare ranks."""
