"""The machine under a worker: cards, disk, processes, outages."""
