"""What a training run refuses to do, in one line for the person who asked."""


class TrainError(Exception):
    """A run that cannot start or go on; the message says what was found, where, and what to do."""


class BadRecordError(TrainError):
    """One record of a store that cannot be used, while the others may be whole."""
