"""What a precompute run refuses to do, in one line for the person who asked."""


class PrecomputeError(Exception):
    """A run that cannot start or go on; the message says what was found, where, and what to do."""
