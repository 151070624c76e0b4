"""Plumbing that knows no table and no noun."""
