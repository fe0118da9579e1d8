"""Decide whether a model can be exact over ranks, by trying its parts."""
