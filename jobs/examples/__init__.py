"""Examples: whole programs, each run by a test.

A package of its own, since Petastorm installs one of that name.
"""
