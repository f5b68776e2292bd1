"""Reading the structure of an HDF5 file in a separate process, because the HDF5 library may crash on a malicious file.

The checksums of HDF5's metadata detect accidental damage. Somebody who recomputes them can still change a B-tree so
that the library crashes (2 of 416 such files in the longest run of `tests.support.stores.attack`, HDF5 2.0). Python
code cannot turn a crash into an error. `python -m cache verify` therefore runs this module first.
"""

import subprocess
import sys
from pathlib import Path

from kdcli.system import describe_crash


def find_crash(path: str | Path) -> str | None:
    """An error message if the HDF5 library crashes on the local file `path`; None if not, or for other files."""
    if not _is_hdf5(Path(path)):
        return None
    command = [sys.executable, "-m", "cache.commands.hdf5_probe", str(path)]
    code = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode
    crash = describe_crash(code)
    if crash is None:
        return None
    return f"{path}: the HDF5 library crashes on this file ({crash}); the file may be malicious: do not open it"


def _is_hdf5(path: Path) -> bool:
    from cache.reading.opening import HDF5_SIGNATURE

    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(HDF5_SIGNATURE)) == HDF5_SIGNATURE


def main() -> None:
    """Read the whole structure of the store that the command line names."""
    from cache.errors import StoreError
    from cache.reading.opening import open_store

    try:
        store = open_store(sys.argv[1], allow_incomplete=True)
        store.foreign_entries()
        store.stored_bytes(0)
    except StoreError:
        pass  # the parent process finds and reports it


if __name__ == "__main__":
    main()
