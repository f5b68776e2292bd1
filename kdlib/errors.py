"""Errors of the library. A message says what was asked, what was found, where, and what to do.

KdlibError (ValueError)     an argument or a file that cannot be used
├── BadRecordError          one record of a store cannot be used; other records may be usable
└── AnnotationError         an annotation or detection file cannot be used (kdlib.annotations)
"""


class KdlibError(ValueError):
    """An argument or a file cannot be used."""


class BadRecordError(KdlibError):
    """One record of a store cannot be used; other records may be usable."""
