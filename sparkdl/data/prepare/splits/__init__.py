"""Divide the rows of a DataFrame: find what the rule of a split needs to know of them, and apply the rule."""
