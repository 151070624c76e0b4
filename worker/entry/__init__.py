"""The programs of a worker."""
