"""Writes a release folder (`kdlib.students.release`): it appears under its name only when it is complete."""

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from cache.files.durable import sync_tree
from kdcli import system
from kdcli.files import file_sha256
from kdcli.locks import lock_file
from kdlib.errors import KdlibError
from kdlib.students.release import CHECKSUMS, read_checksums
from train.errors import TrainError


def check_target(out: Path, *, overwrite: bool) -> Path:
    """Check that a release may be written to a folder, and return the folder that a symbolic link leads to.

    Raises:
        TrainError: If something is there that `overwrite` does not allow to replace: only a release is replaced, and
            only if the folder holds no other files.
    """
    target = out.resolve()
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return target
    if not target.is_dir():
        raise TrainError(f"--out {out} is a file; give a folder; it is created if it does not exist")
    try:
        names = {CHECKSUMS, *read_checksums(target)}
    except KdlibError as error:
        raise TrainError(
            f"--out {out} is not a release, so it is not replaced ({error}); give another --out"
        ) from error
    if not overwrite:
        raise TrainError(f"{out} exists; use it, or replace it with --overwrite")
    foreign = sorted(entry.name for entry in target.iterdir() if entry.name not in names)
    if foreign:
        raise TrainError(
            f"{out} holds files that do not belong to the release ({', '.join(foreign[:3])}); it is not replaced: move "
            "them, or give another --out"
        )
    return target


@contextmanager
def building(target: Path) -> Iterator[Path]:
    """Build a release in a temporary folder beside its target, and move it there.

    Args:
        target: The folder, as `check_target` returned it; a release there is replaced.

    Yields:
        The temporary folder. At the end of the block, checksums of its files are added, and it is renamed. If the block
        raises, it is deleted, and a release at the target stays unchanged. If the process is killed, it stays, and the
        next release to the same target deletes it.

    Raises:
        TrainError: If the folder cannot be created or renamed.
    """
    unique = f"{os.getpid()}.{secrets.token_hex(4)}.tmp"
    temporary, old = (target.with_name(f".{target.name}.{what}{unique}") for what in ("", "replaced."))
    opened = ExitStack()
    try:
        temporary.mkdir(parents=True)
        handle = opened.enter_context(system.open_folder(temporary))
    except OSError as error:
        raise TrainError(f"cannot create a folder beside --out {target}: {error.strerror}") from error
    try:
        lock_file(handle)
        yield temporary
        _write_checksums(temporary)
        sync_tree(temporary)
        if target.exists():
            system.replace(target, old)
        try:
            system.replace(temporary, target)
        except OSError:
            if old.exists():
                system.replace(old, target)
            raise
        system.sync(target.parent)
    except OSError as error:
        raise TrainError(f"could not write the release {target}: {error.strerror or error}") from error
    finally:
        opened.close()
        system.discard_tree(temporary)
    system.discard_tree(old)
    _delete_leftovers(target)


def _delete_leftovers(target: Path) -> None:
    """Delete the temporary folders of killed processes. Those of running processes are locked and stay."""
    name = re.compile(rf"\.{re.escape(target.name)}\.(replaced\.)?[0-9]+\.[0-9a-f]{{8}}\.tmp")
    for folder in target.parent.iterdir():
        if name.fullmatch(folder.name) and folder.is_dir() and not folder.is_symlink():
            with suppress(OSError), system.open_folder(folder) as handle:  # one that is in use, or not ours to delete
                if lock_file(handle):
                    system.discard_tree(folder)


def _write_checksums(folder: Path) -> None:
    """Write the checksums in the format of ``sha256sum``, sorted by name."""
    lines = [f"{file_sha256(file)}  {file.name}\n" for file in sorted(folder.iterdir(), key=lambda file: file.name)]
    (folder / CHECKSUMS).write_text("".join(lines), encoding="utf-8", newline="\n")
