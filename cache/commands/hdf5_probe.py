"""Looking at a store's HDF5 structure in a process of its own: HDF5's library may crash on what was made to crash it.

The checksums of HDF5's metadata keep accidents away from it. Somebody who makes them match can still bend a B-tree so
that the library dies (2 of 416 such files in the longest run of `tests.support.stores.attack`, HDF5 2.0), where no code of ours
can raise an error. `python -m cache verify` looks here first.
"""

import signal
import subprocess
import sys
from pathlib import Path


def crash_of(path: str | Path) -> str | None:
    """What is wrong with the local file `path` if HDF5's library does not survive it, else None."""
    if not _is_hdf5(Path(path)):
        return None
    command = [sys.executable, "-m", "cache.commands.hdf5_probe", str(path)]
    code = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode
    if code >= 0:
        return None
    name = signal.Signals(-code).name
    return f"{path}: HDF5's library dies of this file ({name}); it was made to do so: do not open it, and do not trust"


def _is_hdf5(path: Path) -> bool:
    from cache.reading.opening import HDF5_SIGNATURE

    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(HDF5_SIGNATURE)) == HDF5_SIGNATURE


def main() -> None:
    """Touch all of the structure of the store that the command line names."""
    from cache.errors import StoreError
    from cache.reading.opening import open_store

    try:
        store = open_store(sys.argv[1], allow_incomplete=True)
        list(store.strangers())
        store.stored_bytes(0)
    except StoreError:
        pass  # the parent's to find and to say


if __name__ == "__main__":
    main()
