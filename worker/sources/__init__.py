"""Records from external sources: the files that an address means, and their download."""
