"""Locks of whole files by the kernel, which end with the process that holds them."""

import errno
from typing import Final

from kdcli import system

WITHOUT_LOCKS: Final = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.EBADF})
"""Errors of file systems that have no locks, such as some network and FUSE mounts."""


def lock_file(handle: int, *, shared: bool = False, wait: bool = False) -> bool:
    """Lock an open file until it is closed, as far as its file system has locks.

    Args:
        handle: The open file.
        shared: Any number of files may hold the lock at the same time if all of them share it.
        wait: Wait for a lock that another file holds.

    Returns:
        Whether the file is locked; False on a file system without locks.

    Raises:
        BlockingIOError: Another open file holds the lock, and `wait` is false.
        OSError: The file cannot be locked for another reason.
    """
    try:
        system.lock(handle, shared=shared, wait=wait)
    except OSError as error:
        if error.errno in WITHOUT_LOCKS:
            return False
        raise
    return True
