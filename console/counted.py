"""How many there are of something, in words."""


def counted(count: int, noun: str, plural: str = "") -> str:
    """``1 picture`` or ``2 pictures``; the plural is the noun with an s, or as given: ``2 boxes``."""
    return f"{count} {noun}" if count == 1 else f"{count} {plural or noun + 's'}"
