"""A remote store reads like a local one: by ranges, kept in a folder of limited size, whatever the server does."""

import multiprocessing
import os
import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import cache
from cache.commands.pack import pack_store
from cache.commands.push import push_store
from cache.files import client as remote
from cache.files import remote as remote_files
from cache.files.block_cache import BlockFolder
from cache.files.location import Location, locate, redact
from tests.cache.reading.test_processes import digest, send_digest
from tests.support.servers.range_server import RangeServer
from tests.support.stores import small as small_store

pytest.importorskip("aiohttp", reason="needs the extra [share]")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One store in both layouts and as an archive, and a copy with the list that `push` writes."""
    folder = tmp_path_factory.mktemp("served")
    small_store.make(folder / "s.zarr", skip=(4,))
    small_store.make(folder / "s.h5", skip=(4,))
    pack_store(folder / "s.zarr", folder / "s.zip")
    push_store(folder / "s.zarr", folder / "pushed.zarr")
    return folder


@pytest.fixture
def server(folder, monkeypatch):
    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.001)
    with RangeServer(folder).running() as server:
        yield server


@pytest.fixture(autouse=True)
def own_folder(monkeypatch, tmp_path):
    """No test uses the user's own folder of blocks."""
    monkeypatch.setenv("POSE_TEACHER_CACHE_DIR", str(tmp_path / "default"))


@pytest.fixture(params=["s.zarr", "s.h5", "s.zip", "pushed.zarr"])
def name(request):
    return request.param


def few(store):
    """A few records of the store, for tests in which every read is a request."""
    return store.heatmaps([17, 2, 9]).tobytes(), store.frame(11)


def blocks_of(local):
    return [path for path in local.rglob("*") if path.is_file() and path.name != "bytes"]


def test_a_remote_store_reads_like_the_local_one(server, folder, name, tmp_path):
    store = cache.open_store(f"{server.url}/{name}", local=tmp_path)
    assert digest(store) == digest(cache.open_store(folder / name))
    assert store.path.name == name
    assert store.is_remote
    assert store.nbytes == cache.open_store(folder / name).nbytes
    with pytest.raises(cache.MissingRecordError, match=r"instance 4 .* never written"):
        store.heatmap(4)


def test_a_path_made_of_a_url_is_the_url():
    """Commands that parse their arguments as paths accept URLs, too."""
    for url in ("http://h:80/a/s.zarr", "s3://bucket/s.h5", "hf://datasets/me/x/s.zarr"):
        assert str(locate(Path(url))) == url
    assert locate("file:///a%20b/s.zarr") == Path("/a b/s.zarr")
    with pytest.raises(cache.StoreError, match=r"ftp://h/x: .*begins with http"):
        locate("ftp://h/x")


def test_what_was_fetched_once_is_not_fetched_again(server, name, tmp_path):
    first = digest(cache.open_store(f"{server.url}/{name}", local=tmp_path))
    sent = server.sent
    again = digest(cache.open_store(f"{server.url}/{name}", local=tmp_path))
    assert again == first
    root = (server.folder / name / "zarr.json").stat().st_size if name.endswith(".zarr") else 0
    listed = server.folder / f"{name}.files.json"
    assert server.sent - sent <= root + (listed.stat().st_size if listed.exists() else 0)


def test_a_list_beside_the_store_spares_a_request_for_every_size(server, tmp_path):
    cache.open_store(f"{server.url}/pushed.zarr", local=tmp_path)
    heads = [path for method, path, _ in server.requests if method == "HEAD"]
    assert set(heads) <= {"/pushed.zarr/zarr.json", "/pushed.zarr.files.json"}


def test_a_list_of_another_store_is_not_believed(server, folder, tmp_path):
    other = small_store.make(tmp_path / "x" / "pushed.zarr", count=9)
    (folder / "old.zarr.files.json").write_bytes((folder / "pushed.zarr.files.json").read_bytes())
    os.rename(other.path, folder / "old.zarr")
    assert len(cache.open_store(f"{server.url}/old.zarr", local=tmp_path / "b")) == 9


def test_a_replaced_store_is_not_read_from_old_blocks(server, folder, tmp_path):
    small_store.make(folder / "r.h5", count=20, views=1)
    before = cache.open_store(f"{server.url}/r.h5", local=tmp_path).heatmap(3)
    writer = small_store.begin(folder / "r.h5", count=30, views=1, overwrite=True)
    small_store.fill(writer)
    writer.publish()
    after = cache.open_store(f"{server.url}/r.h5", local=tmp_path).heatmap(3)
    assert (after == cache.open_store(folder / "r.h5").heatmap(3)).all()
    assert not (after == before).all()


def test_failures_that_pass_are_not_noticed(server, folder, name, tmp_path):
    server.fails = 2
    store = cache.open_store(f"{server.url}/{name}", local=tmp_path, local_bytes=0)
    server.cuts = 2
    assert few(store) == few(cache.open_store(folder / name))
    assert server.cuts == server.fails == 0


def test_a_failure_that_stays_is_one_error_with_url_file_and_range(server, tmp_path):
    store = cache.open_store(f"{server.url}/s.zarr", local=tmp_path)
    server.fails = 1000
    with pytest.raises(cache.StoreError, match=r"http://127.*/s\.zarr/\S+: cannot be read, bytes \d+ to \d+, tried 4"):
        store.heatmap(0)


@pytest.mark.parametrize("short", ["s.zarr", "s.h5"])
def test_a_server_that_goes_away_while_a_store_is_opened(server, short, tmp_path):
    server.dies_after = 1
    with pytest.raises(cache.StoreError, match="tried 4 times"):
        cache.open_store(f"{server.url}/{short}", local_bytes=0)


def test_a_server_that_ignores_ranges_is_noticed(server, monkeypatch, tmp_path):
    monkeypatch.setattr(remote_files, "BLOCK", 4096)
    server.ignores_ranges = True
    with pytest.raises(cache.StoreError, match="the server ignores range requests"):
        digest(cache.open_store(f"{server.url}/s.h5", local=tmp_path))


def test_nothing_there_says_so(server, tmp_path):
    with pytest.raises(cache.StoreNotFoundError, match="no such store"):
        cache.open_store(f"{server.url}/none.zarr", local=tmp_path)


def test_no_server_is_a_store_error(tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.001)
    with pytest.raises(cache.StoreError, match="tried 4 times"):
        cache.open_store("http://127.0.0.1:9/s.zarr", local=tmp_path)


def test_credentials_work_and_are_never_shown(server, folder, tmp_path):
    server.password = "me:secret"
    url = f"http://me:secret@127.0.0.1:{server.port}/s.h5?Signature=hidden"
    store = cache.open_store(url, local=tmp_path)
    assert digest(store) == digest(cache.open_store(folder / "s.h5"))
    server.fails = 1000
    messages = [repr(store), str(store.path), repr(store.path), store.path.name]
    for wrong in (url.replace("secret", "wrong"), url, url.replace("s.h5", "none.h5"), url.replace("http", "ftp")):
        with pytest.raises(cache.StoreError) as caught:
            cache.open_store(wrong, local=tmp_path / "other").heatmap(3)
        messages += [str(caught.value), str(caught.value.__cause__)]
    assert not re.search("secret|hidden|wrong", " ".join(messages))
    assert "***@127" in messages[1]


def test_a_query_that_signs_a_folder_goes_with_every_file(server, tmp_path):
    cache.open_store(f"{server.url}/s.zarr?sig=1", local=tmp_path).heatmap(0)
    assert all(path.endswith("?sig=1") for _, path, _ in server.requests)


def test_redaction_leaves_everything_else():
    text = "error at https://me:p@ss@h:8/a?b=c, and '/a/b@c?d', s3://bucket/key"
    assert redact(text) == "error at https://***@h:8/a?*** and '/a/b@c?d', s3://bucket/key"
    assert (Location("https://u:p@h/a.zarr?s") / "x/y").secret_url == "https://u:p@h/a.zarr/x/y?s"


def test_the_local_folder_stays_below_its_limit(server, folder, monkeypatch, tmp_path):
    monkeypatch.setattr(remote_files, "BLOCK", 2048)
    limit = 20_000
    store = cache.open_store(f"{server.url}/s.zarr", local=tmp_path, local_bytes=limit)
    expected = cache.open_store(folder / "s.zarr")
    largest = 0
    for index in np.random.default_rng(0).permutation(np.flatnonzero(expected.written)):
        assert (store.heatmap(int(index)) == expected.heatmap(int(index))).all()
        assert store.frame(int(index)) == expected.frame(int(index))
        held = sum(path.stat().st_size for path in blocks_of(tmp_path))
        largest = max(largest, held)
        assert held <= int((tmp_path / "bytes").read_text()) <= limit
    assert largest > limit / 2
    assert expected.nbytes > 2 * limit


def test_the_block_used_last_stays(tmp_path):
    blocks = BlockFolder(tmp_path, 3 * 104 + 10)
    fetched = []

    def read(name):
        return blocks.read(name, 5, 10, lambda: fetched.append(name) or name[-1].encode() * 100)

    for number, name in enumerate(["aa1", "bb2", "cc3"]):
        read(name)
        os.utime(blocks._path(name), (number, number))
    blocks._used.clear()
    assert read("aa1") == b"1" * 10  # used again: now bb2 is the oldest
    read("dd4")
    assert sorted(path.name for path in blocks_of(tmp_path)) == ["1", "4"]  # blocks are deleted in large steps
    assert fetched == ["aa1", "bb2", "cc3", "dd4"]


def test_a_damaged_block_is_fetched_again(server, folder, tmp_path):
    digest(cache.open_store(f"{server.url}/s.zarr", local=tmp_path))
    for path in blocks_of(tmp_path):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 255
        path.write_bytes(bytes(data))
    for path in blocks_of(tmp_path)[:3]:
        path.write_bytes(b"")
    assert digest(cache.open_store(f"{server.url}/s.zarr", local=tmp_path)) == digest(
        cache.open_store(folder / "s.zarr")
    )


def test_nothing_is_kept_where_nothing_may_be_kept(server, folder, name, tmp_path):
    store = cache.open_store(f"{server.url}/{name}", local=tmp_path, local_bytes=0)
    assert few(store) == few(cache.open_store(folder / name))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_costs_only_speed(server, folder, tmp_path):
    (tmp_path / "file").write_text("")
    store = cache.open_store(f"{server.url}/s.h5", local=tmp_path / "file" / "below")
    assert digest(store) == digest(cache.open_store(folder / "s.h5"))


def test_the_environment_says_where_and_how_much(server, monkeypatch, tmp_path):
    monkeypatch.setenv("POSE_TEACHER_CACHE_DIR", str(tmp_path / "here"))
    cache.open_store(f"{server.url}/s.h5")
    assert blocks_of(tmp_path / "here")
    monkeypatch.setenv("POSE_TEACHER_CACHE_BYTES", "1 GB")
    with pytest.raises(cache.StoreError, match=r"POSE_TEACHER_CACHE_BYTES is '1 GB'"):
        cache.open_store(f"{server.url}/s.h5")


@pytest.mark.parametrize(("method", "count"), [("fork", 2), ("spawn", 1)])
def test_children_and_parent_share_the_folder(server, folder, name, method, count, tmp_path):
    if method == "spawn" and name != "s.zarr":
        pytest.skip("spawning a process takes seconds: once is enough")
    store = cache.open_store(f"{server.url}/{name}", local=tmp_path)
    store.heatmap(0)
    context = multiprocessing.get_context(method)
    pipes = [context.Pipe(duplex=False) for _ in range(count)]
    children = [context.Process(target=send_digest, args=(store, sender)) for _, sender in pipes]
    for child in children:
        child.start()
    expected = digest(cache.open_store(folder / name))
    for receiver, _ in pipes:
        assert receiver.poll(60)
        assert receiver.recv() == expected
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert digest(store) == expected


def test_threads_fetch_a_block_once(server, folder, monkeypatch, tmp_path):
    monkeypatch.setattr(remote_files, "BLOCK", 4096)
    store = cache.open_store(f"{server.url}/s.zarr", local=tmp_path)
    expected = digest(cache.open_store(folder / "s.zarr"))
    with ThreadPoolExecutor(8) as pool:
        assert all(result == expected for result in pool.map(lambda _: digest(store), range(8)))
    fetched = server.ranges("/c/")
    assert len(fetched) == len(set(fetched))


def test_a_pickle_of_a_remote_store_reads(server, folder, name, tmp_path):
    store = pickle.loads(pickle.dumps(cache.open_store(f"{server.url}/{name}", local=tmp_path)))
    assert digest(store) == digest(cache.open_store(folder / name))


def test_shards_of_instances(folder):
    store = cache.open_store(folder / "s.zarr")
    assert store.shard_of(range(20)).tolist() == [0] * 8 + [1] * 8 + [2] * 4
    assert not store.is_remote


def test_without_the_extra_the_error_says_what_to_install(monkeypatch):
    import fsspec

    def missing(*_, **__):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    with pytest.raises(cache.StoreError, match=r"pip install -e '\.\[share\]'"):
        cache.open_store("s3://bucket/s.zarr")


def test_the_trainer_streams_a_store(tmp_path, capsys):
    """The commands of `train` accept a URL in place of a path, with the same results."""
    from tests.support.stores import people as people_store
    from train.__main__ import main

    people_store.make_store(tmp_path / "p.zarr", 6)
    with RangeServer(tmp_path).running() as server:
        found = []
        for store in (str(tmp_path / "p.zarr"), f"http://me:secret@127.0.0.1:{server.port}/p.zarr"):
            main(["evaluate", "--store", store, "--teacher", "--out", str(tmp_path / "m.json")])
            found.append((tmp_path / "m.json").read_text())
    assert found[0] == found[1]
    assert "secret" not in capsys.readouterr().out
