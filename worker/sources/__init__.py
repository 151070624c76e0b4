"""Where records stand elsewhere: which files an address means, and bringing them here."""
