"""File systems without locks: stores are written and read there, and the folder of remote blocks works."""

import contextlib
import errno
import fcntl
import os

import h5py
import numpy as np
import pytest

import cache
from cache.commands.diff import diff_stores
from cache.files.block_cache import BlockFolder
from kdcli.locks import WITHOUT_LOCKS, lock_file
from tests.support.stores import small as small_store


@pytest.fixture(params=sorted(WITHOUT_LOCKS))
def no_locks(request, monkeypatch):
    def refuse(handle, operation):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.fixture
def locked_hdf5(monkeypatch):
    """Every HDF5 file is locked exclusively by another open file when h5py opens it: h5py must not need its own lock.

    To HDF5, such a file is like one on a file system whose locks fail.
    """
    opened, held = h5py.File, []

    def open_locked(path, mode="r", **options):
        held.append(os.open(path, os.O_RDWR | os.O_CREAT))
        with contextlib.suppress(BlockingIOError):  # an earlier handle holds the lock
            fcntl.flock(held[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
        return opened(path, mode, **options)

    monkeypatch.setattr(h5py, "File", open_locked)
    yield open_locked
    for handle in held:
        os.close(handle)


def test_an_hdf5_store_is_written_and_read_without_a_lock_of_hdf5(locked_hdf5, tmp_path, monkeypatch):
    monkeypatch.delenv("HDF5_USE_FILE_LOCKING", raising=False)
    for mode in ("w", "r"):
        with pytest.raises(OSError, match="unable to lock file"):
            locked_hdf5(tmp_path / "other.h5", mode)
    store = small_store.make(tmp_path / "s.h5")
    zarr = small_store.make(tmp_path / "s.zarr")
    np.testing.assert_array_equal(store.heatmaps(range(20)), zarr.heatmaps(range(20)))


def test_stores_are_written_where_nothing_can_be_locked(no_locks, tmp_path):
    one = small_store.make(tmp_path / "s.zarr")
    writer = small_store.begin(tmp_path / "t.h5")
    small_store.fill(writer, only=[0])
    del writer
    writer = small_store.begin(tmp_path / "t.h5", resume=True)
    small_store.fill(writer)
    assert diff_stores(one.path, writer.publish({"ap": 0.5}))["identical"]


def test_blocks_are_kept_where_nothing_can_be_locked(no_locks, tmp_path):
    blocks, fetched = BlockFolder(tmp_path / "blocks", 1 << 20), []

    def fetch():
        fetched.append(1)
        return b"abcdef"

    assert [blocks.read("ab12", 2, 3, fetch) for _ in range(2)] == [b"cde"] * 2
    assert len(fetched) == 1
    assert int((tmp_path / "blocks/bytes").read_bytes()) == len(b"abcdef") + 4


def test_a_lock_that_is_taken_or_fails_otherwise_is_an_error(tmp_path, monkeypatch):
    with (tmp_path / "lock").open("w") as one, (tmp_path / "lock").open("w") as other:
        assert lock_file(one.fileno())
        with pytest.raises(BlockingIOError):
            lock_file(other.fileno())

    def fail(handle, operation):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(cache.StoreError, match="cannot be locked: Input/output error"):
        small_store.begin(tmp_path / "s.zarr")
