"""A package that is installed and cannot be imported is named in one line, whatever its import raises."""

import os
import subprocess
import sys

import pytest

import cache
from cache.__main__ import main
from kdcli.packages import describe_import_error
from tests.support.stores import small as small_store


def install(folder, name, version, code=None):
    """A distribution in a folder, with a module if there is code."""
    about = folder / f"{name}-{version}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    if code is not None:
        (folder / f"{name}.py").write_text(code)


@pytest.fixture(scope="module")
def beside_zfpy(tmp_path_factory):
    """The environment of a process in which a version of zfpy is installed that numcodecs cannot read."""
    folder = tmp_path_factory.mktemp("site")
    install(folder, "zfpy", "1.0.1.post0")
    return os.environ | {"PYTHONPATH": os.pathsep.join([os.getcwd(), str(folder)])}


ZFPY = (
    "cannot be imported beside zfpy 1.0.1.post0 (ValueError: invalid literal for int() with base 10: 'post0'); "
    "remove zfpy or change its version, e.g. `pip uninstall zfpy`, or upgrade numcodecs"
)


@pytest.mark.parametrize("command", [["cache", "convert", "s.zarr", "s.h5"], ["cache", "convert", "t.h5", "t.zarr"]])
def test_numcodecs_beside_a_zfpy_that_it_cannot_read_is_one_line(command, beside_zfpy, tmp_path):
    """Neither writing nor reading takes it for a damaged store."""
    small_store.make(tmp_path / command[2])
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=tmp_path, env=beside_zfpy, capture_output=True, text=True, check=False
    )
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1
    assert line.startswith("error: numcodecs ")
    assert line.endswith(ZFPY)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("raise ValueError('numpy.dtype size changed,\\n may indicate')", "(ValueError: numpy.dtype size changed, may"),
        ("import nowhere_to_be_found", "(ModuleNotFoundError: No module named 'nowhere_to_be_found')"),
        ("def f(): raise TypeError('Descriptors')\nf()", "(TypeError: Descriptors)"),
        ("1 / 0", "(ZeroDivisionError: division by zero)"),
    ],
)
def test_any_error_of_an_import_names_the_package(tmp_path, monkeypatch, code, expected):
    install(tmp_path, "brokenpkg", "2.5", code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises((ValueError, TypeError, ImportError, ZeroDivisionError)) as caught:
        import brokenpkg  # noqa: F401
    line = describe_import_error(caught.value)
    assert line.startswith("brokenpkg 2.5 cannot be imported ")
    assert expected in line
    assert "`pip install --upgrade brokenpkg`" in line
    assert "\n" not in line
    again = RuntimeError("something else")
    again.__cause__ = caught.value
    assert describe_import_error(again) == line


def test_a_missing_package_is_named_and_other_errors_are_not(monkeypatch):
    with pytest.raises(ImportError) as caught:
        import nowhere_to_be_found  # noqa: F401
    assert describe_import_error(caught.value).startswith("No module named 'nowhere_to_be_found'; install")
    explained = ValueError("the teacher needs it: pip install it")
    explained.__cause__ = caught.value
    assert describe_import_error(explained) is None  # its own line is better
    with pytest.raises(ImportError) as caught:
        from kdcli.packages import nothing  # noqa: F401
    assert describe_import_error(caught.value) is None  # an error of this project
    with pytest.raises(cache.StoreError) as caught:
        cache.open_store("nowhere.zarr")
    assert describe_import_error(caught.value) is None
    assert describe_import_error(None) is None


def test_a_command_ends_in_the_line_and_other_errors_keep_their_traceback(tmp_path, monkeypatch, capsys):
    from kdcli.flags import exit_with

    install(tmp_path, "brokenpkg2", "1.0", "raise AttributeError('np.bool8')")
    monkeypatch.syspath_prepend(tmp_path)

    def fail():
        import brokenpkg2  # noqa: F401

    with pytest.raises(SystemExit) as ended:
        exit_with(fail)
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("error: brokenpkg2 1.0 cannot be imported (AttributeError: np.bool8)")
    with pytest.raises(ZeroDivisionError):
        exit_with(lambda: 1 // 0)
    assert main(["info", str(tmp_path / "none.zarr")]) == 1


def test_a_broken_tensorboard_is_no_obstacle(tmp_path, monkeypatch, capsys):
    from train.show.tensorboard import Board

    install(tmp_path, "brokenboard", "1.0", "raise TypeError('Descriptors cannot be created directly')")
    monkeypatch.syspath_prepend(tmp_path)

    def broken(name, *arguments, real=__import__, **options):
        return real("brokenboard" if name == "torch.utils.tensorboard" else name, *arguments, **options)

    monkeypatch.setattr("builtins.__import__", broken)
    board = Board(tmp_path, 0)
    board.add("val", {"ap": 1.0}, 1)
    board.flush()
    assert "brokenboard 1.0 cannot be imported (TypeError: Descriptors" in capsys.readouterr().err
