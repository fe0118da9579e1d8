"""Combine trained models into one: what is compared, how outputs vote, and the model directory."""
