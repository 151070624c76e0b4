"""The training loop and the parts around it."""
