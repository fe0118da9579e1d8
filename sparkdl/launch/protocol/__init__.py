"""Carry messages between driver and ranks, by socket or by files, and say how a rank ended."""
