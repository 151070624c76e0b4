"""Requirements of a training before it has run, and while it runs: steps, memory, time, cost."""
