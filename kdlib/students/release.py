"""Release folders: a student with its card, exported files and checksums, as `python -m train release` writes them.

    SHA256SUMS           checksums of all other files, in the format of `sha256sum`
    README.md            the model card, with the picture training.svg
    student.pt           the checkpoint
    student.onnx         the exported student
    student.int8.onnx    the exported student in 8-bit integers
    report.html          the report
    store.json           the manifest of the training store; of several: store_1.json, store_2.json, ...
    val_store.json       the manifest of the validation store

A release always holds the card, the checkpoint and the checksums. The card says which of the other files were left out,
and why. `student_file` chooses a student's file in such a folder.
"""

import re
from pathlib import Path
from typing import Final

from kdcli.files import file_sha256
from kdlib.errors import KdlibError

CHECKSUMS: Final = "SHA256SUMS"
CARD: Final = "README.md"
CHECKPOINT: Final = "student.pt"
EXPORTED: Final = "student.onnx"
INT8: Final = "student.int8.onnx"

_LINE: Final = re.compile(r"([0-9a-f]{64}) [ *]([^/\\]+)")


def student_file(path: str | Path, name: str = CHECKPOINT) -> Path:
    """Find the file of a student: in a release folder the file `name`, otherwise the path itself.

    Args:
        path: A student's file, which is returned unchanged, or a release folder, whose checksums are all verified.
        name: The file to choose in a release folder: `CHECKPOINT` for PyTorch, `EXPORTED` for an ONNX runtime.

    Returns:
        The path of a file, which may be missing if `path` is no folder.

    Raises:
        KdlibError: If the folder is not a release, lacks the file or another file of its checksums, or a file does not
            match its checksum.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    checksums = read_checksums(path)
    verify(path, checksums)
    if name not in checksums:
        students = [other for other in (CHECKPOINT, EXPORTED, INT8) if other in checksums]
        raise KdlibError(
            f"the release {path} has no {name}: it was made without it; it has {', '.join(students) or 'no student'}"
        )
    return path / name


def read_checksums(folder: Path) -> dict[str, str]:
    """Read the checksums of a release folder: file name -> SHA-256 in hexadecimal digits.

    Raises:
        KdlibError: If the folder has no file with checksums, or the file cannot be read.
    """
    file = folder / CHECKSUMS
    if not file.is_file():
        if any((folder / name).exists() for name in (CHECKPOINT, EXPORTED, INT8)):
            raise KdlibError(f"{folder} is not a complete release: it has no {CHECKSUMS}; get the folder again")
        raise KdlibError(
            f"{folder} is a folder; a run's student is {folder / 'best.pt'}; a release folder has a file {CHECKSUMS}"
        )
    try:
        found = [_LINE.fullmatch(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise KdlibError(f"cannot read {file}: {error}") from error
    checksums = {match[2]: match[1] for match in found if match}
    if len(checksums) < len(found) or not checksums:
        raise KdlibError(f"{file} is damaged: its lines must be a SHA-256 and the name of a file; get the folder again")
    return checksums


def verify(folder: Path, checksums: dict[str, str]) -> None:
    """Check that a release folder holds all files of its checksums, unchanged; other files are ignored.

    Raises:
        KdlibError: If a file is missing or differs.
    """
    missing = [name for name in checksums if not (folder / name).is_file()]
    if missing:
        raise KdlibError(f"the release {folder} is not complete: {', '.join(missing)} is missing; get the folder again")
    for name, wanted in checksums.items():
        try:
            found = file_sha256(folder / name)
        except OSError as error:
            raise KdlibError(f"cannot read {folder / name}: {error.strerror}") from error
        if found != wanted:
            raise KdlibError(
                f"{folder / name} does not match its checksum in {CHECKSUMS} (sha256 {found[:12]}, expected "
                f"{wanted[:12]}): it was changed or damaged; get the folder again"
            )
