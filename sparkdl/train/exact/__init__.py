"""Make steps over several ranks give what one process would: losses, gradients, metrics, state."""
