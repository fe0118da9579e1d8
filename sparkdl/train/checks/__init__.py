"""Check what is to be trained before it is: the call, the model, its data, what is monitored."""
