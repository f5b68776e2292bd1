"""What differs between systems, each part by itself; `test_without_posix.py` runs the commands without POSIX."""

import ast
import errno
import functools
import io
import os
import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PureWindowsPath

import pytest

from cache.errors import StoreError
from cache.files.location import Location, local_target, locate
from cache.format.columns import decode_text, encode_text
from kdcli import system
from kdcli.flags import local_path
from precompute.teacher.ensemble import parse_member
from tests.conftest import pytest_ignore_collect
from train.commands.predict import _local_path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("kdcli", "cache", "kdlib", "precompute", "train")
POSIX_ONLY = {"fcntl", "msvcrt", "resource", "pwd", "grp", "termios"}
POSIX_NAMES = {
    *("pread", "pwrite", "fork", "sched_getaffinity", "O_CLOEXEC", "O_NONBLOCK", "O_NOFOLLOW", "O_DIRECTORY"),
    *("SIGTERM", "SIGKILL", "SIGUSR1", "SIGUSR2", "SIGPIPE", "geteuid", "getuid", "mkfifo", "statvfs"),
}


# --- files ------------------------------------------------------------------------------------------------------------


def test_linux_and_macos_read_with_pread_itself():
    assert system.read_at is os.pread


def test_reads_without_pread_are_those_of_pread_in_many_threads(tmp_path):
    content = os.urandom(100_000)
    (tmp_path / "file").write_bytes(content)
    handle = system.open_to_read(tmp_path / "file")
    ranges = [(7 * i % 911, 997 * i % 101_000) for i in range(4000)]
    try:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda each: system._seek_and_read(handle, *each), ranges))
        assert found == [os.pread(handle, *each) for each in ranges]
        for read in (os.pread, system._seek_and_read):
            with pytest.raises(OSError, match="Invalid argument"):
                read(handle, 1, -1)
    finally:
        os.close(handle)


@pytest.mark.parametrize("without", [False, True])
def test_a_link_is_opened_only_if_it_may_be_followed(tmp_path, monkeypatch, without):
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    if without:
        monkeypatch.delattr(os, "O_NOFOLLOW")
    for name, follow in (("file", False), ("file", True), ("link", True)):
        os.close(system.open_to_read(tmp_path / name, follow=follow))
    with pytest.raises(OSError, match="symbolic links") as found:
        system.open_to_read(tmp_path / "link", follow=False)
    assert found.value.errno == errno.ELOOP


def test_a_file_that_is_open_for_a_moment_is_replaced_on_windows(tmp_path, monkeypatch):
    """On POSIX, a refusal is final, and the first one is raised."""
    monkeypatch.setattr(system, "_PAUSE_SECONDS", 0.0)
    calls = []

    def change():
        calls.append(1)
        if len(calls) < 3:
            raise PermissionError(errno.EACCES, "Access is denied")
        return "done"

    with pytest.raises(PermissionError):
        system._insist(change)
    monkeypatch.setattr(system, "POSIX", False)
    assert system._insist(change) == "done"
    monkeypatch.setattr(system, "_WAIT_SECONDS", 0.0)
    calls.clear()
    with pytest.raises(PermissionError, match=r"Access is denied \(a program may have it open"):
        system._insist(change)


def tree(folder):
    """A folder with a file and a folder that has one too."""
    (folder / "inner").mkdir(parents=True)
    for name in ("a", "inner/b"):
        (folder / name).touch()
    return folder


@pytest.mark.parametrize("remove", [system.remove_tree, system.discard_tree])
def test_a_folder_of_which_a_file_is_open_for_a_moment_is_deleted_on_windows(tmp_path, monkeypatch, remove):
    monkeypatch.setattr(system, "_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(system, "POSIX", False)
    tried, delete = [], shutil.rmtree

    def rmtree(folder, **how):
        assert not how  # errors that are ignored are not seen, and nothing is tried again
        tried.append(folder)
        if len(tried) < 3:
            raise PermissionError(errno.EACCES, "The process cannot access the file", str(folder / "a"))
        delete(folder)

    folder = tree(tmp_path / "folder")
    monkeypatch.setattr(shutil, "rmtree", rmtree)
    remove(folder)
    assert (folder.exists(), tried) == (False, [folder] * 3)


def test_of_a_folder_with_a_file_that_stays_open_the_rest_is_discarded(tmp_path, monkeypatch):
    monkeypatch.setattr(system, "POSIX", False)
    monkeypatch.setattr(system, "_WAIT_SECONDS", 0.0)
    monkeypatch.setattr(shutil, "_use_fd_functions", False)  # as on Windows
    folder, delete = tree(tmp_path / "folder"), os.unlink

    def unlink(path, **how):
        if Path(path).name == "b":
            raise PermissionError(errno.EACCES, "The process cannot access the file", str(path))
        delete(path, **how)

    monkeypatch.setattr(os, "unlink", unlink)
    with pytest.raises(PermissionError, match=r"\(a program may have it open: close it and run the command again\)"):
        system.remove_tree(folder)
    system.discard_tree(folder)
    assert sorted(path.name for path in folder.rglob("*")) == ["b", "inner"]
    system.discard_tree(tmp_path / "of another name")


def test_a_replaced_file_and_a_synced_folder(tmp_path, monkeypatch):
    for name in ("old", "new"):
        (tmp_path / name).write_text(name)
    synced = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.readlink(f"/proc/self/fd/{handle}")))
    system.replace(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old").read_text() == "new"
    for path in (tmp_path / "old", tmp_path):
        system.sync(path)
    monkeypatch.setattr(system, "POSIX", False)
    for path in (tmp_path / "old", tmp_path):
        system.sync(path)
    assert synced == [str(tmp_path / "old"), str(tmp_path), str(tmp_path / "old")]


def test_content_is_replaced_by_shorter_content(tmp_path):
    handle = system.open_to_update(tmp_path / "file", 0o600)
    for content in (b"a longer text", b"short"):
        system.overwrite(handle, content)
    os.close(handle)
    assert (tmp_path / "file").read_bytes() == b"short"


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (r"C:\data\a.zarr", (r"C:\data\a.zarr", "")),
        (r"C:\data\a.zarr:2", (r"C:\data\a.zarr", "2")),
        ("C:a.zarr:0.5", ("C:a.zarr", "0.5")),
        ("c:/data/a.h5", ("c:/data/a.h5", "")),
        ("C:a.zarr", ("C:a.zarr", "")),
        ("a.zarr:2", ("a.zarr", "2")),
        ("/data/a.zarr", ("/data/a.zarr", "")),
        ("s3://team/a.zarr", ("s3://team/a.zarr", "")),
        ("s3://team/a.zarr:3", ("s3://team/a.zarr", "3")),
        ("https://host:8000/a.zarr", ("https://host:8000/a.zarr", "")),
        ("https://host:8000/a.zarr:2", ("https://host:8000/a.zarr", "2")),
    ],
)
def test_a_suffix_is_told_from_a_drive_and_a_scheme(text, parts):
    assert system.split_suffix(text) == parts


def test_a_drive_is_one_letter():
    assert [text for text in ("C", "c", "", "1", "cc", "ä", "C\n") if system.is_drive(text)] == ["C", "c"]


@pytest.mark.parametrize("path", [r"C:\data\s.zarr", "C:/data/s.zarr", r"c:s.zarr", r"\\server\share\s.zarr"])
def test_a_windows_path_is_no_url(path):
    for read in (locate, local_target, local_path, _local_path):
        assert read(path) == Path(path)
    for read in (locate, local_target):
        assert isinstance(read(PureWindowsPath(path)), Path)
    assert parse_member(f"hrnet_w32={path}") == ("hrnet_w32", Path(path))
    assert parse_member(f"onnx:{path}") == (f"onnx:{path}", None)


def test_a_url_that_became_a_windows_path_is_a_url_again():
    assert locate(PureWindowsPath("https://host/coco/s.zarr")) == Location("https://host/coco/s.zarr")
    assert locate(PureWindowsPath("s3://team/s.zarr")) == Location("s3://team/s.zarr")
    with pytest.raises(StoreError, match="a store is written to a path on this machine"):
        local_target(PureWindowsPath("s3://team/s.zarr"))


def test_a_file_url_with_a_drive_names_a_path_of_windows():
    assert system.path_of_url("/C:/data/s.zarr", separator="\\") == "C:/data/s.zarr"
    assert system.path_of_url("/C:/data/s.zarr", separator="/") == "/C:/data/s.zarr"
    assert system.path_of_url("/data/s.zarr", separator="\\") == "/data/s.zarr"


def test_only_a_long_path_of_windows_gets_the_prefix():
    short, long = PureWindowsPath(r"C:\s.zarr"), PureWindowsPath("C:/" + "folder/" * 30 + "s.zarr")
    assert system.extended(short) == short
    assert str(system.extended(long)) == "\\\\?\\" + str(long)
    assert system.extended(system.extended(long)) == system.extended(long)
    shared = PureWindowsPath(r"\\server\share", *["folder"] * 30)
    assert str(system.extended(shared)) == "\\\\?\\UNC\\" + str(shared)[2:]
    assert system.long_path(Path("x" * 300)) == Path("x" * 300)


def test_a_store_names_no_file_on_a_drive_and_no_device():
    with pytest.raises(StoreError, match="must be a relative path inside the image folder"):
        encode_text([r"C:\secret.jpg"])
    assert decode_text(encode_text(["12:30.jpg", r"sub\a.jpg"])) == ["12:30.jpg", r"sub\a.jpg"]
    assert {"con", "aux", "com1", "lpt9"} <= system.DEVICE_NAMES


# --- processes --------------------------------------------------------------------------------------------------------


def test_a_crash_is_told_from_an_exit_code():
    found = {code: system.describe_crash(code) for code in (0, 1, 255, -11, 0xC0000005)}
    assert found == {0: None, 1: None, 255: None, -11: "SIGSEGV", 0xC0000005: "0xc0000005"}


def test_a_pipe_of_windows_takes_every_character(monkeypatch):
    for posix, expected in ((True, "cp1252"), (False, "utf-8")):
        stream = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(system, "POSIX", posix)
        system.print_in_utf8()
        assert stream.encoding == expected


def test_locks_of_windows_wait_until_the_other_file_is_closed(tmp_path, monkeypatch):
    """With `msvcrt` replaced by a table of locked bytes."""
    locked, lock = {}, threading.Lock()

    class Msvcrt:
        LK_NBLCK, LK_UNLCK = 2, 0

        @staticmethod
        def locking(handle, mode, nbytes):
            start = os.lseek(handle, 0, os.SEEK_CUR)
            span = set(range(start, start + nbytes))
            with lock:
                if mode == Msvcrt.LK_UNLCK:
                    assert locked.pop(handle) == span
                elif any(span & taken for taken in locked.values()):
                    raise PermissionError(errno.EACCES, "Permission denied")
                else:
                    locked[handle] = span

    monkeypatch.setattr(system, "POSIX", False)
    monkeypatch.setattr(system, "_msvcrt", Msvcrt)
    one, other = (system.open_to_update(tmp_path / "lock", 0o600) for _ in range(2))
    system.lock(one, shared=False, wait=False)
    with pytest.raises(BlockingIOError):
        system.lock(other, shared=True, wait=False)
    waiting = threading.Thread(target=system.lock, args=(other,), kwargs={"shared": False, "wait": True})
    waiting.start()
    with lock:
        locked.pop(one)  # as when the process ends
    waiting.join(10)
    assert list(locked) == [other]
    for handle in (one, other):
        os.close(handle)


# --- the whole project ------------------------------------------------------------------------------------------------


@functools.cache
def nodes():
    """(file, node of its syntax tree) of the whole project."""
    paths = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
    parsed = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in paths}
    return [(name, node) for name, tree in parsed.items() for node in ast.walk(tree)]


def test_one_module_asks_for_what_a_system_lacks():
    found = set()
    for name, node in nodes():
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
            found |= {(name, module) for module in modules if module in POSIX_ONLY}
        elif isinstance(node, ast.Attribute) and node.attr in POSIX_NAMES:
            found.add((name, node.attr))
    assert {name for name, _ in found if name != "kdcli/system.py"} == {"kdlib/machine/process.py"}  # hasattr
    assert ("kdcli/system.py", "fcntl") in found


def test_one_module_deletes_folders():
    """`shutil.rmtree` alone gives up at a file that is open, as it is on Windows while a virus scanner reads it."""
    found = {name for name, node in nodes() if isinstance(node, ast.Attribute) and node.attr == "rmtree"}
    assert found == {"kdcli/system.py"}


def test_text_files_name_their_encoding():
    """The default of Windows is not UTF-8."""
    missing = []
    for name, node in nodes():
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute | ast.Name):
            continue
        function = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
        given = {keyword.arg for keyword in node.keywords}
        opens_text = function in ("read_text", "write_text") or given & {"text", "universal_newlines"}
        if opens_text and "encoding" not in given:
            missing.append((name, node.lineno))
    assert missing == []


def test_the_test_files_that_need_posix_are_left_out_where_there_is_none(monkeypatch):
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    assert not any(pytest_ignore_collect(path) for path in files)
    monkeypatch.setattr(system, "POSIX", False)
    left_out = {path for path in files if pytest_ignore_collect(path)}
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in files}
    imported = {
        (path, alias.name)
        for path, tree in trees.items()
        for node in tree.body
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert {path for path, name in imported if name in POSIX_ONLY} <= left_out
    assert len(left_out) < len(files) / 3
