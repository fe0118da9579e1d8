"""Carry the messages by files, where executors cannot reach the driver."""
