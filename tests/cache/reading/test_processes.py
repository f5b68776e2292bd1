"""A store works after pickling, forking and spawning and in threads; it keeps few files open and uses little memory."""

import gc
import multiprocessing
import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import cache
from cache.commands.verify import verify_store
from cache.files import local as files
from tests.support.stores import small as small_store

DESCRIPTORS = "/proc/self/fd"


@pytest.fixture(scope="module", params=[".zarr", ".h5"])
def store(request, tmp_path_factory):
    return small_store.make(tmp_path_factory.mktemp("store") / f"s{request.param}", skip=(4,))


def digest(store):
    """All content of the store, read in a shuffled order."""
    order = np.random.default_rng(0).permutation(np.flatnonzero(store.written))
    return store.heatmaps(order).tobytes(), [store.frame(int(index)) for index in order], store.instances["file_name"]


def send_digest(store, connection):
    connection.send(digest(store))
    connection.close()


@pytest.mark.parametrize(("method", "touched", "count"), [("fork", False, 2), ("fork", True, 2), ("spawn", True, 1)])
def test_children_read_what_the_parent_reads(store, method, touched, count):
    expected = digest(store)
    fresh = store if touched else cache.open_store(store.path)
    context = multiprocessing.get_context(method)
    pipes = [context.Pipe(duplex=False) for _ in range(count)]
    children = [context.Process(target=send_digest, args=(fresh, sender)) for _, sender in pipes]
    for child in children:
        child.start()
    assert [receiver.recv() for receiver, _ in pipes] == [expected] * count
    for child in children:
        child.join()
        assert child.exitcode == 0


def test_a_child_opens_its_own_files(store):
    store.heatmap(0)
    parent = dict(store._layout.files._open)
    child = os.fork()
    if not child:
        store.heatmap(0)
        shared = [key for key, file in store._layout.files._open.items() if file is parent.get(key)]
        os._exit(len(shared))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_threads_read_what_one_reads(store):
    expected = digest(store)
    with ThreadPoolExecutor(8) as pool:
        assert all(result == expected for result in pool.map(lambda _: digest(store), range(16)))


def test_threads_survive_the_closing_of_files_that_others_read(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_OPEN_FILES", 1)
    store = small_store.make(tmp_path / "s.zarr", count=60)
    expected = digest(store)
    with ThreadPoolExecutor(8) as pool:
        assert all(result == expected for result in pool.map(lambda _: digest(store), range(16)))
    assert len(store._layout.files._open) == 1


def test_a_pickle_is_small_and_reads(store):
    expected = digest(store)
    data = pickle.dumps(store)
    assert len(data) < 20000
    assert digest(pickle.loads(data)) == expected


@pytest.mark.skipif(not os.path.isdir(DESCRIPTORS), reason="the system does not list open files")
def test_a_store_that_is_dropped_closes_its_files_at_once(store):
    """Reference counting closes them, without the garbage collector, which may not run for minutes."""
    expected = digest(store)
    gc.collect()
    gc.disable()
    try:
        before = len(os.listdir(DESCRIPTORS))
        for _ in range(50):
            opened = cache.open_store(store.path)
            assert digest(opened) == expected
            assert len(os.listdir(DESCRIPTORS)) > before
            del opened
            assert len(os.listdir(DESCRIPTORS)) == before
        assert verify_store(store.path) == []
        assert len(os.listdir(DESCRIPTORS)) == before
    finally:
        gc.enable()


def test_a_replaced_store_does_not_mix_with_the_old_one(tmp_path):
    """An open store keeps reading the old bytes or fails; it never mixes both stores."""
    store = small_store.make(tmp_path / "s.h5")
    expected = store.heatmaps([3])
    writer = small_store.begin(tmp_path / "s.h5", overwrite=True, count=21)
    small_store.fill(writer)
    writer.publish()
    assert (store.heatmaps([3]) == expected).all()
    with pytest.raises(cache.StoreError):
        pickle.loads(pickle.dumps(store)).heatmaps([20])
