"""What Linux, macOS and Windows do differently: one function for each difference, and no other module asks for it.

Windows has no `fcntl` and no `pread`; it cannot sync a folder; it neither deletes nor replaces a file that is open; and
it ends a crashed process with a status instead of a signal. `POSIX` tells the two kinds of systems apart. Where a part
is missing for another reason, such as `os.O_NOFOLLOW`, the part itself is looked for.
"""

import errno
import os
import platform
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath, PureWindowsPath
from typing import Any, Final, TypeVar

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

POSIX: Final = fcntl is not None
"""Whether this is Linux, macOS or another system with `fcntl`, and not Windows."""
STOP_SIGNALS: Final = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)
)
"""Signals that ask a process to end: Ctrl-C, and where they exist SIGTERM and Ctrl-Break of Windows."""
LONGEST_PATH: Final = 259
"""Characters of a path that Windows takes without a prefix."""
INSIDE_A_STORE: Final = 100
"""Characters that the paths of a store's files have more than the store's own path, with temporary names."""
DEVICE_NAMES: Final = frozenset(
    {"aux", "con", "nul", "prn", *(f"{port}{i}" for port in ("com", "lpt") for i in range(10))}
)
"""Names that no file of Windows can have, in lower case."""
_CRASH: Final = 0xC0000000
"""Exit codes of Windows from here on are errors of the system, such as 0xC0000005 for an access violation."""
_WAIT_SECONDS: Final = 2.0
"""How long a file that another program has open is tried again: virus scanners open every new file for a moment."""
_PAUSE_SECONDS: Final = 0.02
_LOCK_START: Final = 1 << 30
"""First byte that a lock of Windows covers, behind any content: other processes cannot read locked bytes."""
_LOCK_BYTES: Final = 1 << 10
"""Number of these bytes, and of processes that can share a lock."""
_LOCK_ERRORS: Final = (errno.EACCES, errno.EDEADLK, getattr(errno, "EDEADLOCK", errno.EDEADLK))
_Result = TypeVar("_Result")


# --- files ------------------------------------------------------------------------------------------------------------


def open_to_read(path: str | Path, *, follow: bool = True) -> int:
    """Open a file for reading, without waiting for a pipe's other end; returns its descriptor.

    Raises:
        OSError: It cannot be opened, or (`errno.ELOOP`) it is a symbolic link and `follow` is false.
    """
    if not follow and not hasattr(os, "O_NOFOLLOW") and os.path.islink(path):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    flags = _flags("O_BINARY", "O_CLOEXEC", "O_NONBLOCK") | (0 if follow else _flags("O_NOFOLLOW"))
    return os.open(path, os.O_RDONLY | flags)


def open_to_update(path: str | Path, mode: int) -> int:
    """Open a file for reading and writing, and create it with this mode if it is missing; returns its descriptor."""
    return os.open(path, os.O_RDWR | os.O_CREAT | _flags("O_BINARY", "O_CLOEXEC"), mode)


def _flags(*names: str) -> int:
    """The flags of `os.open` that this system has. Without O_BINARY, Windows would change line ends."""
    flags = 0
    for name in names:
        flags |= getattr(os, name, 0)
    return flags


_seeking = tuple(threading.Lock() for _ in range(64))
"""Locks of the positions of open files; a descriptor's number selects one."""


def _seek_and_read(handle: int, nbytes: int, offset: int) -> bytes:
    """Stand for `os.pread`: threads that read the same file wait for each other."""
    with _seeking[handle % len(_seeking)]:
        os.lseek(handle, offset, os.SEEK_SET)
        return os.read(handle, nbytes)


read_at: Final[Callable[[int, int, int], bytes]] = getattr(os, "pread", _seek_and_read)
"""Read up to `nbytes` bytes of an open file from `offset`, at once in several threads; raises as `os.pread` does."""


def overwrite(handle: int, content: bytes) -> None:
    """Replace the content of an open file. The caller holds a lock: readers could see a part of the content."""
    os.ftruncate(handle, 0)
    os.lseek(handle, 0, os.SEEK_SET)
    os.write(handle, content)


def sync(path: Path) -> None:
    """Sync the bytes of a file, or the entries of a folder, to the disk; a rename is durable after the latter.

    Windows has no way to sync a folder; there its entries are left to the file system's journal.
    """
    if POSIX:
        handle = os.open(path, os.O_RDONLY)
    elif path.is_dir():
        return
    else:
        handle = os.open(path, os.O_RDWR | _flags("O_BINARY"))  # a file that is only read cannot be synced
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace(source: Path, target: Path) -> None:
    """Rename a file to `target`, in place of a file there, or a folder to a name that is free.

    Raises:
        OSError: As `os.replace`. On Windows also if another program still has one of them open after two seconds.
    """
    _insist(lambda: source.replace(target))


def remove_tree(folder: Path) -> None:
    """Delete a folder and everything in it; raises `OSError` as `replace` does."""
    _insist(lambda: shutil.rmtree(folder))


def discard_tree(folder: Path) -> None:
    """Delete what can be deleted of a folder and of everything in it; nothing happens if there is none."""
    try:
        remove_tree(folder)
    except OSError:  # remove_tree ends at the first file that it cannot delete; the others are deleted here
        shutil.rmtree(folder, ignore_errors=True)


def _insist(change: Callable[[], _Result]) -> _Result:
    """Call a function, and on Windows call it again for a while if it fails because a file is open."""
    until = time.monotonic() + _WAIT_SECONDS
    while True:
        try:
            return change()
        except PermissionError as error:
            if POSIX:
                raise
            if time.monotonic() > until:
                error.strerror = f"{error.strerror} (a program may have it open: close it and run the command again)"
                raise
        time.sleep(_PAUSE_SECONDS)


# --- locks ------------------------------------------------------------------------------------------------------------


def lock(handle: int, *, shared: bool, wait: bool) -> None:
    """Lock an open file until it is closed, as ``flock`` does; a lock that it holds already is changed.

    On Windows, an exclusive lock covers `_LOCK_BYTES` bytes behind the content, and a shared one covers any one of
    them. The file then also must be open for reading and writing.

    Raises:
        BlockingIOError: Another open file holds the lock, and `wait` is false.
        OSError: The file cannot be locked for another reason, see `kdcli.locks.WITHOUT_LOCKS`.
    """
    if POSIX:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        return
    _unlock(handle)
    while not (_lock_one_byte(handle) if shared else _lock_bytes(handle, 0, _LOCK_BYTES)):
        if not wait:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        time.sleep(_PAUSE_SECONDS)


def _lock_one_byte(handle: int) -> bool:
    """Lock the first free byte; processes begin at different ones."""
    first = os.getpid()
    return any(_lock_bytes(handle, (first + i) % _LOCK_BYTES, 1) for i in range(_LOCK_BYTES))


def _lock_bytes(handle: int, first: int, count: int) -> bool:
    """Lock some of the bytes; returns False if another open file has locked one of them."""
    system = _msvcrt()
    os.lseek(handle, _LOCK_START + first, os.SEEK_SET)
    try:
        system.locking(handle, system.LK_NBLCK, count)
    except OSError as error:
        if error.errno in _LOCK_ERRORS:
            return False
        raise
    _locked[handle] = first, count
    return True


_locked: dict[int, tuple[int, int]] = {}
"""Descriptor -> the first byte and the number of bytes that it has locked on Windows."""


def _unlock(handle: int) -> None:
    """Unlock what a file has locked, for Windows demands the same bytes as in the lock."""
    first, count = _locked.pop(handle, (0, 0))
    if count:
        system = _msvcrt()
        os.lseek(handle, _LOCK_START + first, os.SEEK_SET)
        with suppress(OSError):  # the number of a file that was closed, whose lock ended then
            system.locking(handle, system.LK_UNLCK, count)


def _msvcrt() -> Any:
    import msvcrt

    return msvcrt


@contextmanager
def open_folder(folder: Path) -> Iterator[int]:
    """A descriptor that stands for a folder, for `lock`, while the block runs.

    Windows does not open folders; there it is that of the file ``FOLDER.lock``, which is deleted afterwards. The folder
    may be renamed or deleted in the block.
    """
    beside = folder.with_name(folder.name + ".lock")
    handle = os.open(folder, os.O_RDONLY) if POSIX else open_to_update(beside, 0o600)
    try:
        yield handle
    finally:
        os.close(handle)
        if not POSIX:
            with suppress(OSError):  # another process has it open, and deletes it
                beside.unlink()


# --- processes --------------------------------------------------------------------------------------------------------


def describe_crash(code: int) -> str | None:
    """What ended a process, from its exit code: ``SIGSEGV`` or ``0xc0000005``; None if it ended by itself."""
    if code < 0:
        return signal.Signals(-code).name
    return f"0x{code:08x}" if code >= _CRASH else None


def processor_name() -> str:
    """The model of this machine's CPU, or its architecture if the system does not tell the model."""
    models: list[str] = []
    if sys.platform == "darwin":
        import subprocess

        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        with suppress(OSError):
            models = [subprocess.run(command, capture_output=True, encoding="utf-8", check=False).stdout.strip()]
    else:
        with suppress(OSError):
            lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
            models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(filter(None, (*models, platform.processor(), platform.machine())), "an unknown CPU")


def print_in_utf8() -> None:
    """Let stdout and stderr of Windows take every character where they are a file or a pipe; elsewhere they do."""
    for stream in () if POSIX else (sys.stdout, sys.stderr):
        if stream is not None and hasattr(stream, "reconfigure") and not stream.isatty():
            stream.reconfigure(encoding="utf-8")


# --- names ------------------------------------------------------------------------------------------------------------


def is_drive(text: str) -> bool:
    r"""Whether the text before a colon is the drive of a Windows path, such as ``C`` of ``C:\stores``.

    No word of our command lines has one letter, so this holds on every system.
    """
    return re.fullmatch("[A-Za-z]", text) is not None


def split_suffix(text: str) -> tuple[str, str]:
    r"""Split ``PATH:SUFFIX`` at its last colon, unless that colon belongs to a drive or a URL.

    Returns:
        The path and the suffix; the suffix is empty without a colon: ``C:\a.zarr:2`` gives ``C:\a.zarr`` and ``2``,
        ``C:\a.zarr`` and ``s3://team/a.zarr`` give themselves and nothing.
    """
    path, colon, suffix = text.rpartition(":")
    if not colon or is_drive(path) or "/" in suffix or "\\" in suffix:
        return text, ""
    return path, suffix


def path_of_url(path: str, *, separator: str = os.sep) -> str:
    """The path that the decoded path of a ``file://`` URL names: on Windows, a drive has no slash before it."""
    on_drive = path[:1] == "/" and path[2:3] == ":" and is_drive(path[1:2])
    return path[1:] if on_drive and separator == "\\" else path


def long_path(path: Path) -> Path:
    """The path of a store in a form that Windows takes for any length; unchanged if it is short, or elsewhere."""
    if os.sep == "/":
        return path
    absolute = PureWindowsPath(os.path.abspath(path))
    prefixed = extended(absolute)
    return path if prefixed == absolute else Path(prefixed)


def extended(path: PureWindowsPath) -> PurePath:
    r"""An absolute Windows path, with the prefix ``\\?\`` if paths inside it may be longer than `LONGEST_PATH`."""
    text = str(path)
    if len(text) + INSIDE_A_STORE <= LONGEST_PATH or text.startswith("\\\\?\\"):
        return path
    return PureWindowsPath("\\\\?\\UNC\\" + text[2:] if text.startswith("\\\\") else "\\\\?\\" + text)
