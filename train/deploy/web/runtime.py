"""The files of onnxruntime-web that the page loads: finding them, and installing them with npm.

They are installed once per user, in the folder `onnxruntime-web-VERSION` of the user's cache folder. Version and
checksums are those of package.json and package-lock.json beside this file.
"""

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from kdcli import system
from train.errors import TrainError

PACKAGE: Final = "onnxruntime-web"
FILES: Final = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
"""The files of the package's folder ``dist`` that the page loads."""
MANIFESTS: Final = ("package.json", "package-lock.json")
_HERE: Final = Path(__file__).resolve().parent


def pinned_version() -> str:
    """The version of onnxruntime-web that package.json names."""
    version: str = json.loads((_HERE / "package.json").read_text(encoding="utf-8"))["devDependencies"][PACKAGE]
    return version


def default_folder() -> Path:
    """The folder in which `install` puts the files, in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "pose-teacher-cache-web" / f"{PACKAGE}-{pinned_version()}"


def is_complete(folder: Path) -> bool:
    """Whether a folder has all files that the page loads."""
    return all((folder / name).is_file() for name in FILES)


def find_runtime(given: Path | None = None) -> Path:
    """Find the folder with the files; install them if none is given and they are missing.

    Args:
        given: A folder of the user, such as ``node_modules/onnxruntime-web/dist``.

    Raises:
        TrainError: If the given folder lacks a file, or the files cannot be installed.
    """
    if given is None:
        folder = default_folder()
        if not is_complete(folder):
            install(folder)
        return folder
    missing = [name for name in FILES if not (given / name).is_file()]
    if missing:
        raise TrainError(f"--runtime {given} has no {missing[0]}; give the folder dist of the npm package {PACKAGE}")
    return given


def install(folder: Path) -> None:
    """Install the files with npm, which verifies their checksums.

    Args:
        folder: The folder to create.

    Raises:
        TrainError: If npm is not installed, fails, or the folder cannot be written.
    """
    wanted = f"{PACKAGE} {pinned_version()}"
    npm = shutil.which("npm")
    if npm is None:
        raise TrainError(
            f"the page needs {wanted}, and npm, which installs it, is not on this machine; install npm, or copy the "
            f"package's folder dist from another machine and give it with --runtime DIR"
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".install-") as name:
            temporary = Path(name)
            for manifest in MANIFESTS:
                shutil.copy(_HERE / manifest, temporary)
            _run_npm(npm, temporary, wanted)
            installed = temporary / "node_modules" / PACKAGE
            kept = temporary / "kept"
            kept.mkdir()
            for file in (*(installed / "dist" / name for name in FILES), installed / "package.json"):
                shutil.copy(file, kept)
            system.discard_tree(folder)  # an incomplete copy
            system.replace(kept, folder)
    except OSError as error:
        raise TrainError(f"cannot install {wanted} in {folder}: {error.strerror or error}") from error


def _run_npm(npm: str, folder: Path, wanted: str) -> None:
    """Install the packages of a folder's package-lock.json; their scripts are not run."""
    flags = ["--include=dev", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1"]
    done = subprocess.run(
        [npm, "ci", *flags], cwd=folder, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    if done.returncode:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if "error" in line.lower()]
        reason = lines[0] if lines else f"exit code {done.returncode}"
        raise TrainError(
            f"npm could not install {wanted} ({reason}); with a network connection run the command again, or give the "
            f"package's folder dist with --runtime DIR"
        )
