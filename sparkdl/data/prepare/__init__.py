"""Prepare a dataset: find a finished one, or fit encoders, divide, shuffle and write rows. Runs on the driver."""
