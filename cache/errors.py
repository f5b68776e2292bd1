"""What can go wrong with a store. Every error says what was asked, what was found, where, and what to do.

StoreError                                  the root; raised itself for refusals (exists, changed run, not finished)
├── StoreNotFoundError (FileNotFoundError)  no store at this path
├── StoreFormatError   (ValueError)         not a store, of a newer version, damaged, or lying about itself
├── MissingRecordError (IndexError)         no such instance or view, or one that was never written
└── StoreSpaceError    (OSError)            no space left on the device while writing
"""


class StoreError(Exception):
    """Any failure of reading or writing a store."""


class StoreNotFoundError(StoreError, FileNotFoundError):
    """There is no store where one was asked for."""


class StoreFormatError(StoreError, ValueError):
    """The bytes are not what the format says: foreign, newer, truncated, changed, or contradicting themselves."""


class MissingRecordError(StoreError, IndexError):
    """The instance or view does not exist, or was never written."""


class StoreSpaceError(StoreError, OSError):
    """The device is full; what was written so far is kept and the run can be resumed."""
