"""What a training takes before it has run, and while it runs: steps, memory, time, cost."""
