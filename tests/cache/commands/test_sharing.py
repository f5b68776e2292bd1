"""Push, pull, parts and archives: complete or absent, checked, and resumable."""

import copy
import fcntl
import json
import os
import shutil
import zipfile

import numpy as np
import pytest
import zarr

import cache
from cache.__main__ import main
from cache.commands import pull
from cache.commands.diff import diff_stores
from cache.commands.pack import pack_store
from cache.commands.pull import find_split, pull_store
from cache.commands.push import push_store
from cache.commands.subset import pull_part
from cache.commands.verify import verify_store
from cache.files import client as remote
from tests.support.servers.range_server import RangeServer
from tests.support.stores import small as small_store

pytest.importorskip("aiohttp", reason="needs the extra [share]")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    for name in ("train.zarr", "val.h5"):
        small_store.make(folder / name, skip=(4,))
        push_store(folder / name, folder / "pushed" / name)
    pack_store(folder / "train.zarr", folder / "packed.zip")
    return folder


@pytest.fixture
def server(folder, monkeypatch):
    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.001)
    with RangeServer(folder).running() as server:
        yield server


def tree(path):
    """Key -> bytes of every file of a store."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


@pytest.mark.parametrize("name", ["pushed/train.zarr", "train.zarr", "pushed/val.h5", "val.h5", "packed.zip"])
def test_pull_copies_every_byte(server, folder, name, tmp_path):
    target = tmp_path / os.path.basename(name)
    assert pull_store(f"{server.url}/{name}", target) == target
    assert tree(target) == tree(folder / name)
    assert os.listdir(tmp_path) == [target.name]
    assert verify_store(target) == []


@pytest.mark.parametrize(("name", "requests"), [("pushed/train.zarr", 60), ("val.h5", 25)])
def test_an_interrupted_pull_goes_on(server, folder, name, requests, monkeypatch, tmp_path):
    """What was fetched before the interruption is not fetched again."""
    monkeypatch.setattr(pull, "_PIECE", 2000)
    target = tmp_path / os.path.basename(name)
    server.dies_after = requests
    with pytest.raises(cache.StoreError, match="tried 4 times"):
        pull_store(f"{server.url}/{name}", target)
    assert not target.exists()
    with pytest.raises(cache.StoreError):
        cache.open_store(target.with_name(target.name + ".pulling"))
    held = sum(len(data) for data in tree(target.with_name(target.name + ".pulling")).values())
    server.dies_after, before = None, server.sent
    added = []
    pull_store(f"{server.url}/{name}", target, advance=added.append)
    assert tree(target) == tree(folder / name)
    size = sum(map(len, tree(target).values()))
    assert 0 < held < size
    assert size - held <= sum(added) < size - held + 200  # all but the plan of the unfinished pull
    assert server.sent > before


@pytest.mark.parametrize("name", ["pushed/train.zarr", "train.zarr"])
def test_a_file_that_changed_on_this_disk_is_fetched_again(server, folder, name, monkeypatch, tmp_path):
    """It is found by its digest if there is a list, otherwise by the store's own checksums."""
    target, key = tmp_path / "t.zarr", "heatmaps/codes/c/1/0/0/0/0"
    staged = tmp_path / "t.zarr.pulling" / "store.zarr"
    monkeypatch.setattr(pull, "move_into_place", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        pull_store(f"{server.url}/{name}", target)
    monkeypatch.undo()
    data = bytearray((staged / key).read_bytes())
    data[40] ^= 1
    (staged / key).write_bytes(bytes(data))
    if not name.startswith("pushed"):
        with pytest.raises(cache.StoreFormatError, match="run the same command"):
            pull_store(f"{server.url}/{name}", target)
    pull_store(f"{server.url}/{name}", target)
    assert tree(target) == tree(folder / name)
    assert len(server.ranges("codes/c/1")) <= 6  # the shard twice, and what opening the source needs


def test_a_file_that_is_damaged_on_the_server_is_never_moved_into_place(server, folder, tmp_path):
    shutil.copytree(folder / "pushed" / "train.zarr", folder / "bad.zarr", dirs_exist_ok=True)
    shutil.copy(folder / "pushed" / "train.zarr.files.json", folder / "bad.zarr.files.json")
    path = folder / "bad.zarr" / "frames" / "data" / "c" / "0"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(cache.StoreFormatError, match=r"frames/data/c/0: fetched twice"):
        pull_store(f"{server.url}/bad.zarr", tmp_path / "b.zarr")
    assert not (tmp_path / "b.zarr").exists()


def test_pull_refuses_to_replace_another_store(server, folder, tmp_path):
    target = tmp_path / "t.zarr"
    other = small_store.make(target, count=9).manifest["content_sha256"]
    with pytest.raises(cache.StoreError, match="--overwrite"):
        pull_store(f"{server.url}/train.zarr", target)
    assert cache.open_store(target).manifest["content_sha256"] == other
    pull_store(f"{server.url}/train.zarr", target, overwrite=True)
    assert pull_store(f"{server.url}/train.zarr", target) == target  # it is already there
    assert tree(target) == tree(folder / "train.zarr")


def test_an_unfinished_pull_of_another_store_is_not_continued(server, tmp_path):
    staging = tmp_path / "t.zarr.pulling"
    staging.mkdir()
    (staging / "pull.json").write_text(json.dumps({"content_sha256": "0" * 64}))
    with pytest.raises(cache.StoreError, match="unfinished pull of another store"):
        pull_store(f"{server.url}/train.zarr", tmp_path / "t.zarr")
    (staging / "pull.json").write_text("mine")
    with pytest.raises(cache.StoreError, match="not an unfinished pull"):
        pull_store(f"{server.url}/train.zarr", tmp_path / "t.zarr", overwrite=True)


def test_two_pulls_to_one_place_do_not_mix(server, folder, tmp_path):
    """The second is refused while the first holds the lock, which ends with its process."""
    target, staging = tmp_path / "t.zarr", tmp_path / "t.zarr.pulling"
    staging.mkdir()
    (staging / ".pull.json.1.ab.tmp").write_text("{")  # left by a pull that was killed at its first write
    with (staging / "lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        other.write("process 7 on a host")
        other.flush()
        with pytest.raises(cache.StoreError, match=r"t.zarr.pulling: being written by process 7 on a host"):
            pull_store(f"{server.url}/train.zarr", target)
    pull_store(f"{server.url}/train.zarr", target)
    assert tree(target) == tree(folder / "train.zarr")
    assert os.listdir(tmp_path) == ["t.zarr"]


def test_the_form_of_a_copy_is_that_of_the_store(server, tmp_path):
    with pytest.raises(cache.StoreError, match=r"t.h5: .*zarr layout: name its copy .zarr"):
        pull_store(f"{server.url}/train.zarr", tmp_path / "t.h5")


def test_a_split_is_a_store_of_the_folder(server, folder, tmp_path):
    assert find_split(folder, "val") == folder / "val.h5"
    assert main(["pull", f"{server.url}/pushed", str(tmp_path), "--split", "train"]) == 0
    assert tree(tmp_path / "train.zarr") == tree(folder / "train.zarr")


def test_a_split_that_is_not_there(server, capsys, tmp_path):
    assert main(["pull", server.url, str(tmp_path), "--split", "test"]) == 1
    assert "no store test.zarr" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "form"), [("train.zarr", ".zarr"), ("val.h5", ".zarr"), ("train.zarr", ".h5")])
def test_the_first_instances_are_a_store_of_their_own(server, folder, name, form, monkeypatch, tmp_path):
    monkeypatch.setenv("POSE_TEACHER_CACHE_DIR", str(tmp_path / "blocks"))
    target = pull_part(f"{server.url}/{name}", tmp_path / f"part{form}", 11)
    part, whole = cache.open_store(target), cache.open_store(folder / name)
    assert verify_store(target) == []
    assert len(part) == 11
    assert part.written.tolist() == whole.written[:11].tolist()
    kept = np.flatnonzero(part.written)
    assert (part.heatmaps(kept) == whole.heatmaps(kept)).all()
    assert [part.frame(i) for i in kept] == [whole.frame(i) for i in kept]
    assert part.instances["file_name"] == whole.instances["file_name"][:11]
    images = set(part.instances["image_id"].tolist())
    assert part.ground_truth["annotation_id"].tolist() == [
        row
        for row, image in zip(*map(whole.ground_truth.get, ("annotation_id", "image_id")), strict=True)
        if image in images
    ]
    part_of = part.manifest["provenance"]["part_of"]
    assert part_of["content_sha256"] == whole.manifest["content_sha256"]
    assert (part_of["first"], part_of["instances"], part_of["teacher_metrics"]) == (11, 20, {"ap": 0.5})
    assert part.manifest["teacher_metrics"] is None  # not measured from this store
    assert part.manifest["content_sha256"] != whole.manifest["content_sha256"]


def test_push_to_a_folder_is_whole_and_listed(folder, tmp_path):
    place = push_store(folder / "train.zarr", tmp_path / "nas")
    assert place == tmp_path / "nas" / "train.zarr"
    assert tree(place) == tree(folder / "train.zarr")
    listed = json.loads((tmp_path / "nas" / "train.zarr.files.json").read_bytes())
    assert {key: size for key, (size, _) in listed["files"].items()} == {k: len(v) for k, v in tree(place).items()}
    assert push_store(folder / "train.zarr", tmp_path / "nas") == place


def test_push_over_http_is_refused(folder):
    with pytest.raises(cache.StoreError, match="cannot push over https"):
        push_store(folder / "train.zarr", "https://me:secret@host/x.zarr")


def test_an_archive_is_read_by_zarrs_own_reader(folder):
    store = cache.open_store(folder / "train.zarr")
    with zarr.storage.ZipStore(folder / "packed.zip", mode="r") as archive:
        codes = zarr.open_group(archive, mode="r")["heatmaps/codes"]
        assert (codes[3, 1] == store.stored(3, 1)[0]).all()


def test_an_archive_is_the_same_for_the_same_store_and_unpacks(folder, tmp_path, capsys):
    assert main(["pack", str(folder / "train.zarr"), str(tmp_path / "a.zip")]) == 0
    assert (tmp_path / "a.zip").read_bytes() == (folder / "packed.zip").read_bytes()
    assert main(["unpack", str(tmp_path / "a.zip"), str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "a.zarr")
    assert tree(tmp_path / "a.zarr") == tree(folder / "train.zarr")
    assert verify_store(tmp_path / "a.zip") == []
    assert diff_stores(tmp_path / "a.zip", folder / "val.h5")["identical"]
    assert main(["pack", str(folder / "train.zarr"), str(tmp_path / "a.zip")]) == 1
    assert main(["pack", str(folder / "val.h5"), str(tmp_path / "b.zip")]) == 1
    assert "one file already" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["a.zarr", "a.zip"]


def rewrite(source, target, change):
    """Copy an archive member by member; `change` maps (info, data) to the list of members to write."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            for entry, data in change(info, old.read(info)):
                new.writestr(entry, data)


def compressed(info, data):
    info.compress_type = zipfile.ZIP_DEFLATED
    return [(info, data)]


def linked(info, data):
    info.external_attr = 0o120777 << 16
    return [(info, data)]


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (compressed, "is compressed"),
        (linked, "is a link"),
        (lambda info, data: [(info, data), (copy.copy(info), data)], "occurs twice"),
        (lambda info, data: [(info, data), ("../" + info.filename, data)], "has a name"),
        (lambda info, data: [(info, data), ("/etc/" + info.filename, data)], "has a name"),
        (lambda info, data: [("s.zarr/" + info.filename, data)], "zarr.json: not in the archive"),
        (lambda info, data: [] if info.filename == "views/flip/c/0" else [(info, data)], "views/flip/c/0: not in"),
    ],
)
def test_archives_that_lie_are_refused(folder, change, message, tmp_path):
    rewrite(folder / "packed.zip", tmp_path / "bad.zip", change)
    with pytest.raises(cache.StoreError, match=message):
        cache.open_store(tmp_path / "bad.zip")


def test_members_that_overlap_are_refused(folder, tmp_path):
    """The directory's entry of the second member points to the first."""
    data = bytearray((folder / "packed.zip").read_bytes())
    first = data.index(b"PK\x01\x02")
    second = data.index(b"PK\x01\x02", first + 4)
    data[second + 42 : second + 46] = data[first + 42 : first + 46]
    (tmp_path / "bad.zip").write_bytes(bytes(data))
    with pytest.raises(cache.StoreFormatError, match="overlaps another member"):
        cache.open_store(tmp_path / "bad.zip")


def test_a_cut_or_flipped_archive_is_a_store_error_or_right(folder, tmp_path):
    whole, path = (folder / "packed.zip").read_bytes(), tmp_path / "bad.zip"
    expected = cache.open_store(folder / "packed.zip").heatmaps([0, 19])
    rng = np.random.default_rng(0)
    for trial in range(150):
        data = bytearray(whole)
        if trial % 3:
            for at in rng.integers(len(data) - 6000 if trial % 2 else 0, len(data), 1 + trial % 4):
                data[at] ^= 1 << int(rng.integers(8))
        else:
            del data[int(rng.integers(len(data))) :]
        path.write_bytes(bytes(data))
        try:
            maps = cache.open_store(path).heatmaps([0, 19])
        except cache.StoreError:
            continue
        assert (maps == expected).all()
