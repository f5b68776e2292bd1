"""The nearest of the names that there are, for somebody who has mistyped one."""

import difflib
from collections.abc import Collection


def did_you_mean(given: str, names: Collection[str], otherwise: str, most: int = 1) -> str:
    """``did you mean NAME?`` with at most so many names that are near, or else the text `otherwise`.

    Capitals, underscores for dashes, and dashes in front do not count.
    """
    plain = {_plain(name): name for name in names}
    near = [plain[name] for name in difflib.get_close_matches(_plain(given), plain, most)]
    return f"did you mean {' or '.join(near)}?" if near else otherwise


def _plain(name: str) -> str:
    return name.lstrip("-").replace("_", "-").lower()
