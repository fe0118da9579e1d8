"""Failing launches: what can strike, what must be told, and what must be gone afterwards. A library without tests."""
