"""Errors of the library. A message says what was asked, what was found, where, and what to do.

KdlibError (ValueError)     an argument or a file that cannot be used
├── BadRecordError          one record of a store cannot be used; other records may be usable
├── InputError              a file of the outside world cannot be used: annotations, boxes, an image, a video
└── SkeletonError           joints, flip pairs, limbs or sigmas that do not fit each other, a store or a student
"""


class KdlibError(ValueError):
    """An argument or a file cannot be used."""


class BadRecordError(KdlibError):
    """One record of a store cannot be used; other records may be usable."""


class InputError(KdlibError):
    """An input file cannot be used; the message names the file, the entry, and what to do."""


class SkeletonError(KdlibError):
    """A skeleton cannot be used: its entries do not fit each other, or it does not fit a store or a student."""
