"""Locks of whole files by the kernel, which end with the process that holds them."""

import errno
import fcntl
from typing import Final

WITHOUT_LOCKS: Final = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.EBADF})
"""Errors of file systems that have no locks, such as some network and FUSE mounts."""


def lock_file(handle: int, operation: int) -> bool:
    """Lock an open file with ``flock``, as far as its file system has locks.

    Args:
        handle: The open file.
        operation: `fcntl.LOCK_EX` or `fcntl.LOCK_SH`, with `fcntl.LOCK_NB` to not wait.

    Returns:
        Whether the file is locked; False on a file system without locks.

    Raises:
        BlockingIOError: Another open file holds the lock, and the operation does not wait.
        OSError: The file cannot be locked for another reason.
    """
    try:
        fcntl.flock(handle, operation)
    except OSError as error:
        if error.errno in WITHOUT_LOCKS:
            return False
        raise
    return True
