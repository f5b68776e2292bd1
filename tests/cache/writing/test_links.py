"""Stores behind symbolic links: the store that the link leads to is replaced, or nothing is done; the link stays."""

import os

import numpy as np
import pytest

import cache
from cache.__main__ import main
from cache.commands.diff import diff_stores
from cache.commands.pack import pack_store
from cache.commands.pull import pull_store
from cache.commands.subset import pull_part
from cache.writing import staging
from precompute.__main__ import main as precompute
from tests.support import tiny_precompute
from tests.support.stores import small as small_store

COUNT = 9


@pytest.fixture(params=[".zarr", ".h5"])
def link(request, tmp_path):
    """A link to a store in another folder."""
    (tmp_path / "disk").mkdir()
    small_store.make(tmp_path / "disk" / f"old{request.param}")
    path = tmp_path / f"s{request.param}"
    path.symlink_to(tmp_path / "disk" / f"old{request.param}")
    return path


def write(path, **flags):
    writer = small_store.begin(path, count=COUNT, **flags)
    small_store.fill(writer)
    return writer.publish({"ap": 0.5})


def check(link, whole):
    """The link stays, the store behind it is the new one, and nothing else is left."""
    assert link.is_symlink()
    real = link.resolve()
    assert diff_stores(real, whole)["identical"]
    assert len(cache.open_store(link)) == COUNT
    assert os.listdir(real.parent) == [real.name]


@pytest.fixture
def whole(tmp_path, link):
    (tmp_path / "whole").mkdir()
    return write(tmp_path / "whole" / f"new{link.suffix}")


def test_the_store_behind_a_link_is_replaced_as_often_as_asked(link, whole):
    for _ in range(2):
        with pytest.raises(cache.StoreError, match="exists; use it, or replace it with --overwrite"):
            write(link)
        assert write(link, overwrite=True) == link
        check(link, whole)


def test_a_run_is_interrupted_and_resumed_through_a_link(link, whole):
    real = link.resolve()
    writer = small_store.begin(link, count=COUNT, overwrite=True)
    small_store.fill(writer, only=[1])
    assert len(cache.open_store(link)) == 20  # the old store, until the new one is complete
    assert staging.staging_path(link) == staging.staging_path(real) == real.with_name(real.name + ".partial")
    del writer
    shards = small_store.begin(real, count=COUNT, resume=True, overwrite=True)
    assert shards.pending_shards() == [0]
    small_store.fill(shards)
    shards.publish({"ap": 0.5})
    check(link, whole)


def test_copies_are_written_through_a_link(link, whole, tmp_path):
    assert main(["convert", str(whole), str(link), "--overwrite"]) == 0
    check(link, whole)
    small_store.make(tmp_path / "other" / link.name)
    pull_store(tmp_path / "other" / link.name, link, overwrite=True)
    assert len(cache.open_store(link.resolve())) == 20
    pull_store(whole, link, overwrite=True)
    check(link, whole)
    part = pull_part(tmp_path / "other" / link.name, link, 3, overwrite=True)
    assert (part, len(cache.open_store(link.resolve()))) == (link, 3)
    assert os.listdir(link.resolve().parent) == [link.resolve().name]


def test_a_teachers_store_is_written_and_found_complete_through_a_link(tmp_path, capsys):
    data = tiny_precompute.write(tmp_path / "data")
    (tmp_path / "disk").mkdir()
    (tmp_path / "s.zarr").symlink_to("disk/s.zarr")
    command = tiny_precompute.command(data, tmp_path / "s.zarr", "--limit", "3")
    for flag in ("--resume", "--overwrite", "--resume"):
        assert precompute([*command, flag]) == 0
    assert "s.zarr is complete: nothing to do" in capsys.readouterr().out
    assert (tmp_path / "s.zarr").is_symlink()
    assert os.listdir(tmp_path / "disk") == ["s.zarr"]


def test_an_archive_is_written_through_a_link(tmp_path):
    store = small_store.make(tmp_path / "s.zarr")
    (tmp_path / "disk").mkdir()
    pack_store(small_store.make(tmp_path / "t.zarr", skip=(1,)).path, tmp_path / "disk/a.zip")
    (tmp_path / "link.zip").symlink_to("disk/a.zip")
    pack_store(store.path, tmp_path / "link.zip", overwrite=True)
    assert (tmp_path / "link.zip").is_symlink()
    assert diff_stores(tmp_path / "disk/a.zip", store.path)["identical"]


def test_a_store_behind_a_link_is_repaired(link):
    store = cache.open_store(link)
    extent = store._layout.view_extent(store.spec, 13, 0)
    file = link / extent.key if extent.key else link
    data = bytearray(file.read_bytes())
    data[extent.offset + extent.nbytes // 2] ^= 16
    file.write_bytes(data)
    assert main(["verify", str(link), "--repair"]) == 1
    assert cache.awaits_repair(link)
    writer = small_store.begin(link, resume=True)
    assert writer.pending_shards() == [1]
    small_store.fill(writer)
    writer.publish({"ap": 0.5})
    assert main(["verify", str(link)]) == 0
    assert link.is_symlink()


def test_a_link_to_a_place_that_is_free_is_written_to(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "s.zarr").symlink_to("disk/new.zarr")
    write(tmp_path / "s.zarr")
    assert (tmp_path / "s.zarr").is_symlink()
    assert os.listdir(tmp_path / "disk") == ["new.zarr"]
    assert len(cache.open_store(tmp_path / "disk/new.zarr")) == COUNT


def test_a_folder_may_be_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "folder").symlink_to("disk")
    for flags in ({}, {"overwrite": True}):
        write(tmp_path / "folder/s.zarr", **flags)
    assert os.listdir(tmp_path / "disk") == ["s.zarr"]


def _to_nowhere(folder):
    (folder / "s.zarr").symlink_to("unmounted/s.zarr")


def _to_itself(folder):
    (folder / "s.zarr").symlink_to("s.zarr")


def _to_another_layout(folder):
    small_store.make(folder / "one.h5")
    (folder / "s.zarr").symlink_to("one.h5")


def _to_a_folder_of_others(folder):
    (folder / "photographs").mkdir()
    (folder / "photographs/1.jpg").write_bytes(b"mine")
    (folder / "s.zarr").symlink_to("photographs")


def _to_a_file_of_others(folder):
    (folder / "thesis.txt").write_bytes(b"mine")
    (folder / "s.zarr").symlink_to("thesis.txt")


def _staging_elsewhere(folder):
    (folder / "scratch").mkdir()
    (folder / "s.zarr.partial").symlink_to("scratch")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_to_nowhere, "s.zarr is a broken symbolic link to unmounted/s.zarr; delete it"),
        (_to_itself, "s.zarr is a broken symbolic link to s.zarr; delete it"),
        (_to_another_layout, "one.h5, whose name is for another layout"),
        (_to_a_folder_of_others, "s.zarr is not a store of this program; it is not replaced"),
        (_to_a_file_of_others, "s.zarr is not a store of this program; it is not replaced"),
        (_staging_elsewhere, "s.zarr.partial is a symbolic link; delete the link"),
    ],
)
def test_what_a_store_cannot_be_written_through_is_refused_before_any_work(tmp_path, make, message):
    make(tmp_path)
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    for _ in range(2):
        with pytest.raises(cache.StoreError) as error:
            small_store.begin(tmp_path / "s.zarr", overwrite=True)
        assert message in str(error.value)
        assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before


def test_the_link_that_an_older_version_left_behind_is_removed_and_its_store_kept(tmp_path):
    """It had renamed the link to `s.zarr.replaced`, could not delete it, and failed in every later run."""
    kept = small_store.make(tmp_path / "kept.zarr")
    small_store.make(tmp_path / "s.zarr")
    for target in ("kept.zarr", "gone.zarr"):
        (tmp_path / "s.zarr.replaced").symlink_to(target)
        write(tmp_path / "s.zarr", overwrite=True)
        assert sorted(os.listdir(tmp_path)) == ["kept.zarr", "s.zarr"]
    assert np.isfinite(kept.heatmaps(range(len(kept)))).all()
