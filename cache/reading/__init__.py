"""Opening a store and reading it."""
