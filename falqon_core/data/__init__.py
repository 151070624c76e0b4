"""Records become token sequences with a loss mask, and sequences become the microbatches of a
resumable, endless loader.
"""
