"""A worker that sees only the API: one address and one token."""
