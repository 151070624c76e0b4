"""The algorithm: linears whose FP8 rows hold the adapter, how A is chosen, how an optimizer step reaches the rows."""
