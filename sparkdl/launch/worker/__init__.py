"""Run a rank on its machine: its process, output, rendezvous and end."""
