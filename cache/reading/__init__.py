"""Opening and reading a store."""
