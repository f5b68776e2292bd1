"""`verify --repair`: bad shards are written again, good ones are kept, and the store is as before."""

import json
import os
import signal
from pathlib import Path

import h5py
import numpy as np
import pytest

import cache
from cache.__main__ import main
from cache.commands.diff import diff_stores
from cache.commands.repair import stage_repair
from precompute.__main__ import main as precompute
from tests.support import tiny_precompute
from tests.support.stores import small as small_store


@pytest.fixture(params=[".zarr", ".h5"])
def path(request, tmp_path):
    return small_store.make(tmp_path / f"s{request.param}", skip=(4,)).path


def damage(path, instance):
    """Flip a bit in the maps of an instance."""
    store = cache.open_store(path)
    extent = store._layout.view_extent(store.spec, instance, 0)
    file = path / extent.key if extent.key else path
    data = bytearray(file.read_bytes())
    data[extent.offset + extent.nbytes // 2] ^= 16
    file.write_bytes(data)


def finish(path, monkeypatch=None):
    """Resume as the maker of a small store does; returns the shards that it had to write."""
    writer = small_store.begin(path, resume=True)
    made = writer.pending_shards()
    small_store.fill(writer, skip=(4,))
    writer.publish({"ap": 0.5})
    return made


def test_only_the_bad_shard_is_made_again(path, tmp_path, capsys):
    whole = small_store.make(tmp_path / f"whole{path.suffix}", skip=(4,))
    damage(path, 13)
    assert main(["verify", str(path), "--repair"]) == 1
    out = capsys.readouterr().out
    assert "instance 13 (annotation 139)" in out
    assert "2 of 3 shards are good and staged" in out
    assert "--resume" in out
    assert cache.open_store(path).heatmaps([0]).any(), "the damaged store is still in its place"
    assert cache.awaits_repair(path)
    assert finish(path) == [1]
    assert diff_stores(path, whole.path)["identical"]
    assert cache.open_store(path).manifest == whole.manifest
    assert main(["verify", str(path)]) == 0
    assert {entry.name for entry in tmp_path.iterdir()} == {path.name, f"whole{path.suffix}"}


def test_a_sound_store_needs_no_repair(path, capsys):
    assert main(["verify", str(path), "--repair", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True
    assert not cache.awaits_repair(path)


def test_a_shard_that_is_gone_is_a_bad_shard(tmp_path):
    path = small_store.make(tmp_path / "s.zarr", skip=(4,)).path
    (path / "heatmaps/codes/c/2/0/0/0/0").unlink()
    assert main(["verify", str(path), "--repair"]) == 1
    assert finish(path) == [2]


def test_a_damaged_column_of_the_maker_comes_from_the_maker_again(path, tmp_path):
    """It is unknown which column is damaged, so the run that resumes gives all of them."""
    store, original = cache.open_store(path), cache.open_store(path).manifest["content_sha256"]
    extent = store._extents["instances/bbox"]
    file = path / extent.key if extent.key else path
    data = bytearray(file.read_bytes())
    data[extent.offset + 5] ^= 1
    file.write_bytes(data)
    assert main(["verify", str(path), "--repair"]) == 1
    assert finish(path) == []
    assert cache.open_store(path).manifest["content_sha256"] == original


def killed_in_repair(path, deadly):
    """Repair in a child process that is killed before its `deadly`-th rename; returns whether it was killed."""
    child = os.fork()
    if not child:
        count, original = iter(range(1, 1000)), Path.replace

        def replace(self, target):
            if next(count) == deadly:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(self, target)

        Path.replace = replace
        stage_repair(path, [1])
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("again", [True, False])
def test_killed_in_the_middle_of_a_repair_nothing_is_lost(path, again):
    """Whether the repair is repeated first, or the maker resumes at once."""
    original = cache.open_store(path).manifest["content_sha256"]
    deadly = 1
    while True:
        damage(path, 13)
        if not killed_in_repair(path, deadly):
            break
        assert cache.open_store(path).manifest["content_sha256"] == original
        if again or not cache.awaits_repair(path):
            stage_repair(path, [1])
        made = finish(path)
        assert made == [1] if again else 1 in made
        assert main(["verify", str(path)]) == 0
        assert cache.open_store(path).manifest["content_sha256"] == original
        deadly += 1
    assert deadly > 6


def test_the_error_of_a_store_that_was_rebuilt_otherwise_covers_both(path, monkeypatch):
    stated = cache.open_store(path).manifest["codec_error"]["log_t1"]
    damage(path, 13)
    stage_repair(path, [1])
    blobs = small_store.blobs
    monkeypatch.setattr(small_store, "blobs", lambda *sizes: blobs(*sizes) * np.float32(0.9))
    finish(path)
    rebuilt = cache.open_store(path).manifest["codec_error"]["log_t1"]
    assert rebuilt["maps"] == stated["maps"]
    assert rebuilt["worst"] >= stated["worst"]
    assert rebuilt["mean"] == pytest.approx(stated["mean"], rel=0.5)


def test_more_than_shards_is_not_repaired(path, capsys):
    if path.suffix == ".zarr":
        (path / "zarr.json").write_text("{}")
    else:
        with h5py.File(path, "r+") as file:
            del file.attrs["manifest"]
    assert main(["verify", str(path), "--repair"]) == 1
    assert "make the store again with --overwrite" in capsys.readouterr().err
    assert not path.with_name(path.name + ".partial").exists()


def test_an_unfinished_run_is_not_mixed_with_a_repair(path, capsys):
    damage(path, 13)
    small_store.begin(path, overwrite=True)
    assert main(["verify", str(path), "--repair"]) == 1
    assert "belongs to another run of this store" in capsys.readouterr().err


def test_the_teacher_rebuilds_the_bad_shard(tmp_path, monkeypatch, capsys):
    """The whole procedure: the store of a teacher is damaged, and repaired by the command that made it."""
    monkeypatch.setattr("cache.format.spec.default_shard_instances", lambda _: 3)
    data = tiny_precompute.write(tmp_path / "data")
    path = tmp_path / "s.zarr"
    assert precompute(tiny_precompute.command(data, path)) == 0
    original = cache.open_store(path).manifest
    damage(path, 7)
    assert main(["verify", str(path), "--repair"]) == 1
    before = {file.name: file.stat().st_ino for file in (tmp_path / "s.zarr.partial" / "receipts").iterdir()}
    assert sorted(before) == ["00000.npz", "00001.npz", "00003.npz"]
    assert precompute(tiny_precompute.command(data, path, "--resume")) == 0
    assert main(["verify", str(path)]) == 0
    repaired = cache.open_store(path).manifest
    apart = {"provenance": 0, "manifest_sha256": 0}  # `created` is the time
    assert {**repaired, **apart} == {**original, **apart}
    assert "not what they were" not in capsys.readouterr().err
