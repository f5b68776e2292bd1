"""Both layouts hold what was put in, return it in the requested order, and describe themselves correctly."""

import json

import numpy as np
import pytest

import cache
from tests.support.stores import small as small_store
from tests.support.stores.small import SHARD, H, K, W

SUFFIXES = [".zarr", ".h5"]


@pytest.fixture(params=SUFFIXES)
def path(request, tmp_path):
    return tmp_path / f"store{request.param}"


@pytest.fixture(scope="module", params=SUFFIXES)
def store(request, tmp_path_factory):
    """One store of each layout, for the tests that only read."""
    return small_store.make(tmp_path_factory.mktemp("store") / f"s{request.param}", metrics={"ap": 0.71})


@pytest.mark.parametrize("views", [1, 2, 3])
@pytest.mark.parametrize("codec", [cache.RootCodec(), *map(cache.FloatCodec, ("float16", "float16-cut", "float32"))])
def test_what_was_put_comes_back(path, views, codec):
    store = small_store.make(path, views=views, codec=codec)
    maps, images = small_store.blobs(20, views), small_store.frames(20)
    for index in range(20):
        expected = codec.decode(*codec.encode(maps[index])[:2])
        assert (store.heatmaps([index])[0] == expected).all()
        assert store.frame(index) == images[index]
    assert len(store) == 20
    assert store.complete
    assert store.written.all()
    assert store.view_flip.tolist() == [bool(view % 2) for view in range(views)]


def test_columns_come_back_in_their_dtypes(store):
    given = small_store.instances(20)
    assert store.instances["file_name"] == given["file_name"]
    for name, (dtype, _) in cache.format.spec.INSTANCE_COLUMNS.items():
        if name != "file_name":
            assert store.instances[name].dtype == dtype
            assert (store.instances[name] == given[name]).all()
    truth = small_store.ground_truth(20)
    assert set(store.ground_truth) == set(truth)
    assert all((store.ground_truth[name] == truth[name]).all() for name in truth)
    assert store.frame_affine.shape == (20, 2, 3)
    assert store.view_affine.shape == (20, 2, 2, 3)


def test_further_numeric_columns_are_kept(path):
    rng = np.random.default_rng(0)
    extra = {
        **small_store.instances(4),
        "visible": np.array([1.5, 2, 3, 4], np.float32),
        "split": np.arange(4, dtype=np.int16),
    }
    spec = cache.StoreSpec(4, 1, K, H, W, frames=False)
    truth = small_store.ground_truth(4)
    writer = cache.create_store(path, spec, {}, extra, truth, rng.random((4, 2, 3)), rng.random((4, 1, 2, 3)), [0])
    small_store.fill(writer)
    store = cache.open_store(writer.publish())
    assert store.instances["visible"].tolist() == [1.5, 2, 3, 4]
    assert store.instances["split"].dtype == np.int64


def test_order_and_repetition_are_the_callers(store):
    maps = store.heatmaps([7, 3, 7, 19, 0])
    assert maps.shape == (5, 2, K, H, W)
    assert maps.dtype == np.float32
    for row, index in enumerate([7, 3, 7, 19, 0]):
        assert (maps[row, 1] == store.heatmap(index, 1)).all()


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
@pytest.mark.parametrize("codec", ["root4", "float16-cut", "float32"])
def test_heatmaps_of_many_are_those_of_each(tmp_path, suffix, codec):
    """More views than are decompressed at once, also none."""
    store = small_store.make(tmp_path / f"s{suffix}", codec=cache.codec_from_name(codec))
    order = np.random.default_rng(1).integers(len(store), size=31)
    expected = [[store.heatmap(int(index), view) for view in range(2)] for index in order]
    assert store.heatmaps(order).tobytes() == np.array(expected).tobytes()
    assert store.heatmaps([]).shape == (0, 2, K, H, W)
    assert store.heatmaps(order, [1]).tobytes() == np.array(expected)[:, 1:].tobytes()
    assert store.heatmaps(order, (1, 0)).tobytes() == np.array(expected)[:, ::-1].tobytes()
    with pytest.raises(cache.MissingRecordError, match="view 2"):
        store.heatmaps(order, [2])


def test_heatmaps_of_many_fail_as_the_first_of_them_that_cannot_be_read(tmp_path):
    """One record was never written, one is damaged, one is outside; the others of the shard can be read."""
    path = tmp_path / "s.zarr"
    store = small_store.make(path, skip=(5,))
    key, offset, nbytes = store._layout.view_extent(store.spec, 2, 1)
    with (path / key).open("r+b") as file:
        file.seek(offset + nbytes - 3)
        file.write(b"\x55\xaa\x55")
    for order in ([0, 2, 5], [0, 5, 2], [1, 1, 20, 2], [2, -1]):
        with pytest.raises(cache.StoreError) as alone:
            [store.heatmap(index, view) for index in order for view in range(2)]
        with pytest.raises(cache.StoreError) as together:
            store.heatmaps(order)
        assert (type(together.value), str(together.value)) == (type(alone.value), str(alone.value))
    assert (store.heatmaps([6, 0])[1, 1] == store.heatmap(0, 1)).all()


def test_a_map_may_be_decoded_into_memory_of_the_callers(store):
    out = np.full((K, H, W), np.nan, np.float32)
    assert store.heatmap(3, 1, out=out) is out
    assert (out == store.heatmap(3, 1)).all()


def test_many_records_are_those_of_each(store):
    """Records in the requested order, and more of them than are decompressed at once."""
    records = [(index, view) for index in (19, 3, 0, 7, 8, 11, 12, 1, 15, 2) for view in (1, 0)] + [(3, 1)]
    for (index, view), (stored, peak) in zip(records, store.stored_many(records), strict=True):
        expected = store.stored(index, view)
        assert (stored == expected[0]).all()
        assert (peak == expected[1]).all()
    assert not list(store.stored_many([]))


def test_peaks_that_are_too_many_to_keep_are_read_record_by_record(store, monkeypatch):
    monkeypatch.setattr("cache.reading.store.KEPT_PEAKS", 0)
    store = cache.open_store(store.path)
    column = store.column("heatmaps/peak")
    for index, view in ((0, 0), (7, 1), (19, 0)):
        assert (store.stored(index, view)[1] == column[index, view]).all()


def test_a_view_is_decoded_interleaved(store):
    out, order = np.full((H, W, K), np.nan, np.float32), np.roll(np.arange(K), 2)
    for index, view in ((0, 1), (19, 0)):
        store.decode_interleaved(index, view, store.stored(index, view), order, out)
        assert (out == store.heatmap(index, view)[order].transpose(1, 2, 0)).all()


def test_codes_and_tables_are_another_way_to_the_map(store):
    codes, peak = store.codes(11, 1)
    tables = store.codec.tables(peak)
    maps = np.stack([table[code] for table, code in zip(tables, codes, strict=True)])
    assert (maps == store.heatmap(11, 1)).all()


def test_both_forms_have_the_same_content_hash(tmp_path):
    stores = [small_store.make(tmp_path / f"s{suffix}", skip=(3, 9)) for suffix in SUFFIXES]
    assert stores[0].manifest["content_sha256"] == stores[1].manifest["content_sha256"]
    documents = [{k: v for k, v in s.manifest.items() if k != "columns"} for s in stores]
    assert documents[0] == documents[1]


@pytest.mark.parametrize("change", ["map", "frame", "column", "affine"])
def test_the_content_hash_sees_every_part(tmp_path, change, monkeypatch):
    before = small_store.make(tmp_path / "a.zarr").manifest["content_sha256"]
    functions = {"map": "blobs", "frame": "frames", "column": "instances", "affine": "instances"}
    original = getattr(small_store, functions[change])

    def changed(*arguments, **named):
        result = original(*arguments, **named)
        if change == "map":
            result[13, 0, 2, 4, 5] += 0.5
        elif change == "frame":
            result[13] = result[13] + b"x"
        else:
            result["score"][13] = 0.5
        return result

    monkeypatch.setattr(small_store, functions[change], changed)
    assert small_store.make(tmp_path / "b.zarr").manifest["content_sha256"] != before


def test_an_unwritten_record_raises_and_does_not_read_as_zeros(path):
    store = small_store.make(path, skip=(0, 9, 19))
    assert np.flatnonzero(~store.written).tolist() == [0, 9, 19]
    assert store.manifest["written"] == 17
    for read in (store.heatmap, store.codes, store.frame):
        with pytest.raises(cache.MissingRecordError, match=r"instance 9 \(annotation 127\) was never written"):
            read(9)
    assert store.frame(10) == small_store.frames(20)[10]


def test_a_shard_without_any_record_is_a_shard(path):
    store = small_store.make(path, skip=range(SHARD))
    assert store.written.sum() == 20 - SHARD
    assert store.frame(SHARD) == small_store.frames(20)[SHARD]


@pytest.mark.parametrize(("index", "view"), [(20, 0), (-1, 0), (0, 2), (0, -1), (10**9, 0)])
def test_what_does_not_exist_raises(store, index, view):
    with pytest.raises(IndexError, match="the store has 20 instances and 2 stored views"):
        store.heatmap(index, view)


def test_a_store_without_frames(path):
    store = small_store.make(path, with_frames=False)
    assert not store.has_frames
    assert store.heatmaps([1]).shape == (1, 2, K, H, W)
    with pytest.raises(cache.MissingRecordError, match="the store has no frames"):
        store.frame(0)


def test_the_manifest_says_what_was_measured(store):
    errors = [store.codec.encode(record).error for record in small_store.blobs(20, 2)]
    stated = store.manifest["codec_error"]["log_t1"]
    assert stated["mean"] == pytest.approx(np.nanmean(errors, axis=(0, 1, 2))[0])
    assert stated["worst"] == pytest.approx(np.nanmax(errors, axis=(0, 1, 2))[0])
    assert stated["maps"] == 20 * 2 * K
    assert store.manifest["teacher_metrics"] == {"ap": 0.71}
    json.dumps(dict(store.manifest))


def test_a_store_can_be_moved(path):
    store = small_store.make(path)
    expected = store.heatmap(5)
    moved = path.rename(path.with_name("moved" + path.suffix))
    assert (cache.open_store(str(moved)).heatmap(5) == expected).all()


def test_opening_nothing_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such store"):
        cache.open_store(tmp_path / "absent.zarr")
    (tmp_path / "empty").mkdir()
    with pytest.raises(cache.StoreFormatError, match=r"without zarr\.json"):
        cache.open_store(tmp_path / "empty")
    (tmp_path / "text.h5").write_text("hello, I am not HDF5")
    with pytest.raises(cache.StoreFormatError, match="neither"):
        cache.open_store(tmp_path / "text.h5")
