"""The error that ends a precompute command with one line on stderr."""


class PrecomputeError(Exception):
    """A run cannot start or continue; the message says what was found, where, and what to do."""
