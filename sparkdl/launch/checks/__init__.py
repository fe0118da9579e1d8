"""Check what a launch needs before it starts: slots, GPUs, versions, what is sent to ranks."""
