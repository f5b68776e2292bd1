"""An interrupted run can be resumed at any point, gives the same content, and never leaves half a store in place."""

import errno
import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import cache
from cache.commands.diff import diff_stores
from cache.commands.verify import verify_store
from cache.format.spec import PLAN
from cache.writing import staging
from kdcli.files import TEMPORARY_FILES
from tests.support.stores import small as small_store


@pytest.fixture(params=[".zarr", ".h5"])
def path(request, tmp_path):
    return tmp_path / f"store{request.param}"


def write(path):
    writer = small_store.begin(path, resume=True)
    small_store.fill(writer)
    writer.assemble()
    writer.publish({"ap": 0.5})


def die_at(path, deadly):
    """Write a store in a child process that is killed before its `deadly`-th rename; returns whether it was killed."""
    child = os.fork()
    if not child:
        count = iter(range(1, 1000))

        def deadly_version(original):
            def rename(self, target):
                if next(count) == deadly:
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(self, target)

            return rename

        Path.replace, Path.rename = deadly_version(Path.replace), deadly_version(Path.rename)
        write(path)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_killed_and_resumed_equals_uninterrupted(path, tmp_path):
    """Killed before every rename of a run (for the many columns of the Zarr layout, before every twelfth)."""
    whole = small_store.make(tmp_path / f"whole{path.suffix}").path
    deadly = 1
    while die_at(path, deadly):
        assert not path.exists()
        write(path)
        assert diff_stores(path, whole)["identical"]
        assert verify_store(path) == []
        assert sorted(entry.name for entry in tmp_path.iterdir()) == [path.name, whole.name]
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        deadly += 1 if deadly < 12 else 12
    assert deadly >= 12


def test_killed_at_last_the_store_is_whole(path, tmp_path, monkeypatch):
    """Killed between the store's final name and the removal of its staging directory."""
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            write(path)
    assert cache.open_store(path).complete
    writer = small_store.begin(path, overwrite=True)
    assert writer.pending_shards() == [0, 1, 2]


def test_only_missing_shards_are_written_again(path):
    small_store.fill(small_store.begin(path), only=[1])
    assert small_store.begin(path, resume=True).pending_shards() == [0, 2]


def test_an_unfinished_store_is_not_opened(path):
    writer = small_store.begin(path)
    small_store.fill(writer, only=[0])
    partial = staging.staging_path(path)
    with pytest.raises(
        cache.StoreError, match="not finished; run the command that makes the store again, with --resume"
    ):
        cache.open_store(partial)
    with pytest.raises(cache.StoreError, match="some shards are not written yet"):
        cache.open_store(partial, allow_incomplete=True)
    with pytest.raises(cache.StoreError, match="2 of 3 shards are not written yet"):
        writer.publish()
    small_store.fill(writer)
    store = writer.assemble()
    assert not store.complete
    assert store.heatmaps([19]).any()
    with pytest.raises(cache.StoreError, match="not complete"):
        cache.open_store(store.path)
    assert cache.open_store(partial, allow_incomplete=True).manifest == store.manifest


def test_an_unfinished_run_is_neither_overwritten_nor_mixed_by_accident(path):
    small_store.fill(small_store.begin(path), only=[0])
    with pytest.raises(cache.StoreError, match="unfinished run; continue it with --resume"):
        small_store.begin(path)
    assert small_store.begin(path, overwrite=True).pending_shards() == [0, 1, 2]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            {"provenance": {"teacher": {"name": "other", "weights_sha256": "0" * 64}}},
            'teacher.name: "blobs" -> "other"',
        ),
        ({"views": 3}, "spec.views: 2 -> 3"),
        ({"codec": cache.RootCodec(levels=64)}, "spec.codec.levels: 127 -> 64"),
        ({"count": 19}, "spec.instances: 20 -> 19"),
        ({"with_frames": False}, "spec.frames: true -> false"),
    ],
)
def test_resume_refuses_a_changed_run_and_names_the_field(path, change, named):
    small_store.fill(small_store.begin(path), only=[0])
    with pytest.raises(cache.StoreError, match="started by a different run") as refusal:
        small_store.begin(path, resume=True, **change)
    assert named in str(refusal.value)


def test_resume_refuses_changed_instances(path, monkeypatch):
    small_store.begin(path)
    columns = small_store.instances(20)
    columns["bbox"][7, 2] += 1
    monkeypatch.setattr(small_store, "instances", lambda count, joints, seed=0: columns)
    with pytest.raises(cache.StoreError, match=r"columns\.instances/bbox"):
        small_store.begin(path, resume=True)


def test_resume_allows_other_software_and_time(path):
    provenance = {"teacher": {"name": "x"}, "software": {"torch": "2.6"}, "created": "monday"}
    small_store.fill(small_store.begin(path, provenance=provenance), only=[0])
    later = {**provenance, "software": {"torch": "2.7"}, "created": "tuesday"}
    assert small_store.begin(path, provenance=later, resume=True).pending_shards() == [1, 2]


def test_an_exception_discards_the_shard(path):
    writer = small_store.begin(path)
    with pytest.raises(cache.StoreError, match="not float32"), writer.shard(0) as shard:
        shard.put(0, small_store.blobs(1, 2)[0].astype(np.float64), b"jpeg")
    assert writer.pending_shards() == [0, 1, 2]


def test_a_forgotten_instance_is_no_shard(path):
    writer = small_store.begin(path)
    with pytest.raises(cache.StoreError, match="7 instances were neither put nor skipped"), writer.shard(0) as shard:
        shard.put(3, small_store.blobs(1, 2)[0], b"jpeg")
    assert 0 in writer.pending_shards()


@pytest.mark.parametrize(
    ("index", "maps", "frame", "message"),
    [
        (8, {}, b"jpeg", "instance 8 does not belong to shard 0"),
        (0, {"count": 1, "views": 1}, b"jpeg", "not float32"),
        (0, {}, None, "needs the frame's bytes"),
        (0, {}, b"", "a frame of 0 bytes"),
        (0, {}, bytes(300000), "frame_limit is 262144"),
    ],
)
def test_a_record_that_does_not_fit_is_refused(path, index, maps, frame, message):
    record = small_store.blobs(**{"count": 1, "views": 2, **maps})[0]
    with pytest.raises(cache.StoreError, match=message), small_store.begin(path).shard(0) as shard:
        shard.put(index, record, frame)


def test_a_map_that_is_not_finite_names_the_instance(path):
    record = small_store.blobs(1, 2)[0]
    record[1, 4, 2, 2] = np.nan
    message = "instance 5: the map of view 1, joint 4"
    with pytest.raises(cache.StoreError, match=message), small_store.begin(path).shard(0) as shard:
        shard.put(5, record, b"jpeg")


def test_records_may_come_from_many_threads_in_any_order(path, tmp_path):
    writer = small_store.begin(path)
    maps, images = small_store.blobs(20, 2), small_store.frames(20)
    for number in writer.pending_shards():
        with writer.shard(number) as shard, ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda i, put=shard.put: put(i, maps[i], images[i]), reversed(writer.shard_range(number))))
    writer.publish({"ap": 0.5})
    small_store.make(tmp_path / "whole.zarr")
    assert diff_stores(path, tmp_path / "whole.zarr")["identical"]


def test_several_writers_share_one_staging_directory(path, tmp_path):
    writers = [small_store.begin(path, resume=True) for _ in range(3)]
    for number, writer in enumerate(writers):
        small_store.fill(writer, only=[number])
    writers[0].publish({"ap": 0.5})
    small_store.make(tmp_path / "whole.h5")
    assert diff_stores(path, tmp_path / "whole.h5")["identical"]


def test_a_finished_store_is_replaced_only_when_asked_and_only_by_a_whole_one(path):
    before = small_store.make(path).manifest["content_sha256"]
    for flags in ({}, {"resume": True}):
        with pytest.raises(cache.StoreError, match="exists; use it, or replace it with --overwrite"):
            small_store.begin(path, **flags)
    writer = small_store.begin(path, overwrite=True, views=1)
    small_store.fill(writer, only=[0])
    assert cache.open_store(path).manifest["content_sha256"] == before
    small_store.fill(writer)
    writer.publish()
    assert cache.open_store(path).spec.views == 1
    assert sorted(entry.name for entry in path.parent.iterdir()) == [path.name]


def test_overwrite_deletes_nothing_that_is_not_ours(path):
    if path.suffix == ".zarr":
        path.mkdir()
        (path / "thesis.txt").write_text("irreplaceable")
    else:
        path.write_text("irreplaceable")
    with pytest.raises(cache.StoreError, match="is not a store of this program"):
        small_store.begin(path, overwrite=True)
    assert path.exists()


def test_overwrite_spares_foreign_files_inside_a_store(tmp_path):
    small_store.make(tmp_path / "s.zarr")
    (tmp_path / "s.zarr" / "notes.txt").write_text("irreplaceable")
    with pytest.raises(cache.StoreError, match=r"do not belong to a store \(\['notes\.txt'\]\)"):
        small_store.begin(tmp_path / "s.zarr", overwrite=True)


def test_overwrite_spares_a_foreign_directory_with_the_staging_name(path):
    partial = staging.staging_path(path)
    partial.mkdir()
    (partial / "thesis.txt").write_text("irreplaceable")
    with pytest.raises(cache.StoreError, match="not a staging directory"):
        small_store.begin(path, overwrite=True)
    assert (partial / "thesis.txt").exists()


@pytest.mark.parametrize("written", [0, 1, 3])
def test_a_full_disk_ends_in_one_line_and_loses_nothing(path, monkeypatch, written):
    partial, original = staging.staging_path(path), os.fsync

    def fsync(handle):
        if (partial / PLAN).exists() and len(list(partial.glob("receipts/[0-9]*.npz"))) >= written:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(handle)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        with pytest.raises(cache.StoreSpaceError, match=r"bytes were to be written, [\d,]+"):
            write(path)
    assert not path.exists()
    writer = small_store.begin(path, resume=True)
    assert writer.pending_shards() == list(range(written, 3))
    small_store.fill(writer)
    assert cache.open_store(writer.publish()).written.all()


def test_what_a_receipt_vouches_for_is_on_the_disk_before_it(path, monkeypatch):
    """A power cut preserves what was synchronised: every file, and the entry of every folder above it."""
    synced, original = [], Path.replace

    def fsync(handle):
        synced.append(Path(os.readlink(f"/proc/self/fd/{handle}")))

    def replace(self, target):
        if target.suffix == ".npz":
            root = staging.staging_path(path)
            made = [entry for entry in (root / "store").rglob("*") if entry.parent in synced]
            assert set(made) == set((root / "store").rglob("*"))
            assert sum(entry.match(TEMPORARY_FILES) for entry in synced) >= 3  # plan, codes, frames and this receipt
            assert self in synced
        return original(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    small_store.fill(small_store.begin(path), only=[0, 2])
    assert len([entry for entry in synced if entry.name == "receipts"]) >= 2


@pytest.mark.parametrize("name", ["store", "store.npz", "store.zarr.zip"])
def test_the_suffix_chooses_the_form(tmp_path, name):
    with pytest.raises(cache.StoreError, match="must end in one of"):
        small_store.begin(tmp_path / name)


def test_no_path_of_the_makers_machine_gets_into_a_store(path):
    with pytest.raises(cache.StoreError, match=r"dataset\.annotations is an absolute path"):
        small_store.begin(path, provenance={"dataset": {"annotations": "/home/me/coco/train.json"}})


def test_a_provenance_that_json_cannot_hold_is_refused(path):
    with pytest.raises(cache.StoreError, match="consist of JSON values"):
        small_store.begin(path, provenance={"mean": np.float32(0.5)})


def test_a_damaged_store_of_ours_may_be_replaced(tmp_path):
    path = small_store.make(tmp_path / "s.zarr").path
    (path / "instances/bbox/zarr.json").unlink()
    writer = small_store.begin(path, overwrite=True)
    small_store.fill(writer)
    assert cache.open_store(writer.publish()).complete


def test_what_a_killed_replacement_left_behind_is_removed_by_the_next(tmp_path):
    path = small_store.make(tmp_path / "s.zarr").path
    shutil.copytree(path, tmp_path / "s.zarr.replaced")
    writer = small_store.begin(path, overwrite=True)
    small_store.fill(writer)
    writer.publish()
    assert [entry.name for entry in tmp_path.iterdir()] == ["s.zarr"]


def test_a_place_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(cache.StoreError, match="cannot be written: Not a directory"):
        small_store.begin(tmp_path / "file" / "s.zarr")
