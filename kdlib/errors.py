"""Errors of the library. A message says what was asked, what was found, where, and what to do.

KdlibError (ValueError)     the root; raised itself for what cannot be used: a name, a size, a store, a student's file
└── BadRecordError          one record of a store that cannot be used, while the others may be whole
"""


class KdlibError(ValueError):
    """Something that the library was given cannot be used."""


class BadRecordError(KdlibError):
    """One record of a store that cannot be used, while the others may be whole."""
