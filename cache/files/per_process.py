"""State that each process must create for itself: locks, open files, connections."""

import os
from typing import Any, ClassVar


class PerProcess:
    """Base of classes with state that neither a pickle nor a fork may carry over.

    A subclass names its constant attributes in `_constants`, sets them in `__init__`, and then calls `_start`. It makes
    all other attributes in `_reset`, and calls `_renew_after_fork` before it uses those. A pickle holds the constants.
    """

    _constants: ClassVar[tuple[str, ...]] = ()

    def _reset(self) -> None:
        """Create everything but the constants."""
        raise NotImplementedError

    def _start(self) -> None:
        self._pid = os.getpid()
        self._reset()

    def _renew_after_fork(self) -> None:
        """Reset the object in a forked child, where a lock may be held by a thread that does not exist."""
        if self._pid != os.getpid():
            self._start()

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._constants}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()
