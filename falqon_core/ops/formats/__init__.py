"""Formats that weights, activations and gradients are rounded to, one a file, in plain torch."""
