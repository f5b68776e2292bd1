"""The version and commit of this project, which stores and exported files record."""

import importlib.metadata
import subprocess
from pathlib import Path


def project_version() -> str:
    """The installed version, with the commit in brackets where the code is a git checkout."""
    try:
        version = importlib.metadata.version("pose-teacher-cache")
    except importlib.metadata.PackageNotFoundError:
        version = "unknown"
    root = Path(__file__).resolve().parents[2]
    git = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*"]
    if (root / ".git").exists():
        try:
            commit = subprocess.run(git, capture_output=True, encoding="utf-8", check=False)
        except OSError:  # git is not installed
            return version
        return f"{version} ({commit.stdout.strip()})" if commit.returncode == 0 else version
    return version
