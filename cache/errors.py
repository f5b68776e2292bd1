"""The errors of a store. Each message says what was requested, what was found, where, and what to do.

StoreError                                  the root; raised itself, e.g. if a store exists or is not finished
├── StoreNotFoundError (FileNotFoundError)  no store at this path
├── StoreFormatError   (ValueError)         not a store, of a newer version, damaged, or inconsistent
├── StoreBusyError                         another run is writing the store
├── MissingRecordError (IndexError)         no such instance or stored view, or never written
└── StoreSpaceError    (OSError)            no space left on the disk
"""


class StoreError(Exception):
    """Any failure of reading or writing a store."""


class StoreNotFoundError(StoreError, FileNotFoundError):
    """There is no store at the given path or URL."""


class StoreFormatError(StoreError, ValueError):
    """The bytes are not a store of this format: another file, a newer version, truncated, changed or inconsistent."""


class StoreBusyError(StoreError):
    """Another run holds the lock of the store's staging directory."""


class MissingRecordError(StoreError, IndexError):
    """The instance or stored view does not exist, or was never written."""


class StoreSpaceError(StoreError, OSError):
    """The disk is full; what was written is kept, and the run can be resumed."""
