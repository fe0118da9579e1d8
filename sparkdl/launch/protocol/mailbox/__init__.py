"""Carry the messages between driver and ranks by files, where executors cannot reach the driver."""
