"""Start rank processes by forking a process that has loaded the libraries."""
