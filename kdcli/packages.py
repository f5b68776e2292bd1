"""Describes a package that cannot be imported, although it is installed, in one line.

An installed package can fail to import with any exception: it was compiled for another version of numpy, a shared
library is missing, or it reads the version of another package and does not understand it.
"""

import importlib.metadata
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Final

OWN: Final = frozenset({"benchmarks", "cache", "kdcli", "kdlib", "precompute", "tests", "train", "__main__"})
"""The project's packages, whose errors are not those of an installation."""


def describe_import_error(error: BaseException | None) -> str | None:
    """Describe an error, or its cause, that was raised while a package was imported.

    A package that is not installed is described only if nothing caught the error: whoever catches it has a better line.

    Returns:
        One line: which package, its version, the error, and what to do; None if the error has another origin.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        modules = [name for name in _executed_modules(error.__traceback__) if name.partition(".")[0] not in OWN]
        if modules:
            return _describe(error, modules[0].partition(".")[0], modules[-1].rpartition(".")[2])
        if len(seen) == 1 and isinstance(error, ImportError) and (error.name or "").partition(".")[0] not in {*OWN, ""}:
            return f"{error}; install the packages of this project again: `make setup`, or `pip install -e .`"
        error = error.__cause__ or error.__context__
    return None


def _executed_modules(traceback: TracebackType | None) -> Iterator[str]:
    """Names of the modules whose top level was running, the outermost first."""
    while traceback is not None:
        frame: FrameType = traceback.tb_frame
        if frame.f_code.co_name == "<module>":
            yield str(frame.f_globals.get("__name__", ""))
        traceback = traceback.tb_next


def _describe(error: BaseException, package: str, module: str) -> str:
    """Name the package and, if its failing module is named after another package, as `numcodecs.zfpy` is, that one."""
    name, beside = _with_version(package), _with_version(module)
    reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    if module not in {package, beside}:
        return (
            f"{name} cannot be imported beside {beside} ({reason}); remove {module} or change its version, "
            f"e.g. `pip uninstall {module}`, or upgrade {package}"
        )
    return f"{name} cannot be imported ({reason}); change its version, e.g. `pip install --upgrade {package}`"


def _with_version(package: str) -> str:
    """The package with its version; the package alone if it is not installed under this name."""
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return package
