"""The ground floor: plumbing that knows no table and no noun."""
