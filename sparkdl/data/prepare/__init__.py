"""Prepare a dataset: find one that is there, fit encoders, divide, shuffle and write rows. Runs on the driver."""
