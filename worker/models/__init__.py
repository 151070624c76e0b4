"""Model folders on a worker's disk."""
