"""Makes a Linux process behave like one on Windows, as far as it concerns this project.

    python -X warn_default_encoding -c "from tests.support.machines import windows; windows.pretend(); ..."

Call `pretend` before any module of the project is imported, and in a process of its own: nothing is restored. Missing
afterwards are what Windows lacks: `fcntl`, `resource`, `os.pread`, `os.fork`, `os.sched_getaffinity`, most signals, and
flags of `os.open`; `kdcli.system` does not find SIGTERM either, although Windows has it. Files behave as there:

- a file that is open, in this process or in a folder, is not deleted, renamed or replaced;
- a folder is not opened, and a file that is open for reading only is not synced;
- `Path.rename` does not replace a file;
- `msvcrt.locking` locks bytes, which other open files then cannot lock;
- the project opens no descriptor in text mode, and no text file without an encoding.

What it cannot show: paths with backslashes (tests use `PureWindowsPath`), names that differ only in case, and other
packages' behaviour.
"""

import errno
import importlib
import os
import shutil
import signal
import struct
import subprocess  # asks for msvcrt when it is imported
import sys
import tempfile
import types
import warnings
from pathlib import Path
from typing import Any

BINARY = 0x8000
"""`os.O_BINARY` of Windows; the flag of this number has no effect on a 64-bit Linux."""
MODULES = ("fcntl", "resource", "grp", "pwd", "termios")
FUNCTIONS = ("pread", "pwrite", "preadv", "sched_getaffinity", "fork", "mkfifo")
FLAGS = ("O_CLOEXEC", "O_NONBLOCK", "O_NOFOLLOW", "O_DIRECTORY")
SIGNALS = ("SIGKILL", "SIGUSR1", "SIGUSR2", "SIGPIPE", "SIGXFSZ", "SIGHUP", "SIGALRM")
ROOMS = ("kdcli", "cache", "kdlib", "precompute", "train")
_ROOT = Path(__file__).resolve().parents[3]
_LOCK = struct.Struct("hhqqi4x")  # struct flock: type, whence, start, length, pid


def pretend() -> None:
    """Change this process."""
    import fcntl

    real: Any = types.SimpleNamespace(**{name: getattr(os, name) for name in dir(os)}, fcntl=fcntl)
    warnings.filterwarnings("error", category=EncodingWarning, module=f"({'|'.join(ROOMS)})\\b")
    assert subprocess
    tempfile.TemporaryFile = tempfile.NamedTemporaryFile  # type: ignore[misc]  # as on Windows
    for name in MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
    for name in (*FUNCTIONS, *FLAGS):
        delattr(os, name)
    for name in SIGNALS:
        delattr(signal, name)
    os.O_BINARY = BINARY  # type: ignore[attr-defined]
    shutil._use_fd_functions = False  # type: ignore[attr-defined]
    sys.modules["msvcrt"] = _msvcrt(fcntl)
    _Files(real).install()
    terminate = signal.SIGTERM
    del signal.SIGTERM
    importlib.import_module("kdcli.system")
    signal.SIGTERM = terminate  # type: ignore[misc]  # the standard library needs it


class _Files:
    """Functions of `os` as Windows has them."""

    def __init__(self, real: Any) -> None:
        self.real = real

    def install(self) -> None:
        for name in ("open", "fsync", "replace", "rename", "unlink", "utime"):
            setattr(os, name, getattr(self, name))
        os.remove = os.unlink

    def open(self, path: Any, flags: int, *args: Any, **options: Any) -> int:
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        caller = Path(sys._getframe(1).f_code.co_filename)
        if caller.is_relative_to(_ROOT) and caller.relative_to(_ROOT).parts[0] in ROOMS and not flags & BINARY:
            raise AssertionError(f"{caller} opens {path} in text mode")
        return int(self.real.open(path, flags & ~BINARY | self.real.O_CLOEXEC, *args, **options))

    def fsync(self, handle: int) -> None:
        fcntl = self.real.fcntl
        if fcntl.fcntl(handle, fcntl.F_GETFL) & self.real.O_ACCMODE == self.real.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")

    def replace(self, source: Any, target: Any, **_: Any) -> None:
        self._refuse_open(source, target)
        if os.path.isdir(target):
            raise PermissionError(errno.EACCES, "Access is denied", str(target))
        self.real.replace(source, target)

    def rename(self, source: Any, target: Any, **_: Any) -> None:
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, "Cannot create a file when that file already exists", str(target))
        self.replace(source, target)

    def unlink(self, path: Any, **_: Any) -> None:
        self._refuse_open(path)
        self.real.unlink(path)

    def utime(self, path: Any, *args: Any, **options: Any) -> None:
        if isinstance(path, int):
            raise TypeError("utime: path should be string, bytes or os.PathLike, not int")
        self.real.utime(path, *args, **options)

    def _refuse_open(self, *paths: Any) -> None:
        """Raise `PermissionError` if a file at a path, or in a folder there, is open in this process."""
        opened = []
        for handle in self.real.listdir("/proc/self/fd"):
            try:
                opened.append(self.real.readlink(f"/proc/self/fd/{handle}"))
            except FileNotFoundError:  # the handle of the list itself
                continue
        for path in map(os.path.abspath, paths):
            if found := [name for name in opened if name == path or name.startswith(f"{path}/")]:
                raise PermissionError(errno.EACCES, "The process cannot access the file because it is open", found[0])


def _msvcrt(fcntl: Any) -> types.ModuleType:
    """A module with `locking`, by locks of Linux that belong to an open file."""
    module: Any = types.ModuleType("msvcrt")
    module.LK_UNLCK, module.LK_LOCK, module.LK_NBLCK = 0, 1, 2
    set_lock = 37  # F_OFD_SETLK

    def locking(handle: int, mode: int, nbytes: int) -> None:
        kind = fcntl.F_UNLCK if mode == module.LK_UNLCK else fcntl.F_WRLCK
        start = os.lseek(handle, 0, os.SEEK_CUR)
        try:
            fcntl.fcntl(handle, set_lock, _LOCK.pack(kind, os.SEEK_SET, start, nbytes, 0))
        except BlockingIOError as error:
            raise PermissionError(errno.EACCES, "Permission denied") from error

    module.locking = locking
    return module  # type: ignore[no-any-return]


def missing() -> list[str]:
    """What this process lacks, of a selection."""
    modules = [name for name in ("fcntl", "resource") if sys.modules.get(name) is None]
    functions = [name for name in ("fork", "pread", "sched_getaffinity") if not hasattr(os, name)]
    return [*modules, *functions, *(() if hasattr(signal, "SIGKILL") else ("SIGKILL",))]


def import_all() -> int:
    """Import every module of the project; returns their number."""
    files = [file for room in ROOMS for file in sorted((_ROOT / room).rglob("*.py"))]
    names = [".".join(file.relative_to(_ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files]
    for name in names:
        importlib.import_module(name)
    return len(names)
