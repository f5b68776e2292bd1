"""What the README promises exists: its tree of files, its first commands."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def tracked_files():
    done = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip("not a git checkout")
    return {name for name in done.stdout.splitlines() if (ROOT / name).exists()}


def files_of_the_tree():
    """Paths of the tree in the README: a folder ends in a slash, indentation says what lies in it."""
    block = re.search(r"```text\n(.*?)```", README, re.DOTALL).group(1)
    parents, files = [], set()
    for line in block.splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        parents = parents[:depth]
        if name.endswith("/"):
            parents.append(name)
        else:
            files.add("".join(parents) + name)
    return files


def test_the_tree_names_every_file_and_no_other():
    tracked = {name for name in tracked_files() if not name.startswith(("benchmarks/results/", "tests/golden/"))}
    named = files_of_the_tree()
    assert sorted(tracked - named) == [], "files that the README's tree does not name"
    assert sorted(named - tracked) == [], "files that the README's tree names and that do not exist"


def test_every_line_of_the_tree_says_what_the_file_is_for():
    block = re.search(r"```text\n(.*?)```", README, re.DOTALL).group(1)
    assert all(len(line.split()) > 1 for line in block.splitlines())


def test_the_first_two_commands_are_demo_and_test():
    commands = re.findall(r"^make ([a-z-]+)", README, re.MULTILINE)
    assert commands[:2] == ["demo", "test"]
