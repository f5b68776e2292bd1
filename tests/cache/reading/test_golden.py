"""Stores of every released version of the format are read correctly, and the present writer still writes the same.

If a test here fails, the format has changed: give it a new version, write new golden stores, and keep reading the old.
"""

from pathlib import Path

import numpy as np
import pytest

import cache
from cache.commands.verify import verify_store
from tests.golden import write as golden

FOLDER = Path(golden.__file__).parent
WRITTEN = [0, 1]
HASHES = {
    "root4.zarr": "29faf4ecb829c5b11a30d14651aa975d11b4b47f8d4dc1a96467fb0699d41ec6",
    "root4.h5": "29faf4ecb829c5b11a30d14651aa975d11b4b47f8d4dc1a96467fb0699d41ec6",
    "float16.zarr": "878649584aff211504faeb1a8afac7e4c8374dc0fbab702af4be74b3c7fdf61c",
    "float32.h5": "185203ec9aca0634678804198a933558eb139961ba4906a92038302090d55069",
}
"""The content hashes at the release of version 1; they must never change."""


@pytest.fixture(params=sorted(HASHES))
def name(request):
    return request.param


def open_golden(name):
    return cache.open_store(FOLDER / f"v1-{name}")


def test_a_store_of_version_1_is_sound(name):
    assert verify_store(FOLDER / f"v1-{name}") == []
    store = open_golden(name)
    assert store.manifest["version"] == 1
    assert store.manifest["content_sha256"] == HASHES[name]
    assert store.manifest["provenance"] == golden.PROVENANCE
    assert store.manifest["teacher_metrics"] == {"ap": 0.5}


def test_its_maps_are_those_that_were_stored(name):
    """They equal the frozen maps, and the formula to within the codec's step; float32 is exact."""
    store = open_golden(name)
    shown, exact = store.heatmaps(WRITTEN), golden.maps()[WRITTEN]
    codec = golden.STORES[name]
    frozen = FOLDER / f"v1-{codec}-maps.npy"
    if frozen.exists():
        np.testing.assert_allclose(shown, np.load(frozen), rtol=1e-6)
    floor, peak = np.float32(0.003), exact.max((-2, -1), keepdims=True)
    if codec == "float32":
        assert (shown == exact).all()
        return
    assert ((shown >= floor) == ((exact >= floor) & ((peak > floor) | (codec == "float16")))).all()
    half_step = {"root4": (peak**0.25 - floor**0.25) / 126 / 2, "float16": 2**-13 * exact**0.25}[codec]
    apart = np.abs(np.maximum(shown, 0) ** 0.25 - exact**0.25)
    assert (apart <= half_step * 1.001)[(exact >= floor) & (peak > floor)].all()


def test_its_codes_follow_from_the_formula_of_the_format():
    """The formula of docs/format.md, computed in float64 and without the codec."""
    store = open_golden("root4.h5")
    exact, low = golden.maps()[WRITTEN], float(np.float32(0.003)) ** 0.25
    for row, index in enumerate(WRITTEN):
        for view in range(golden.VIEWS):
            codes, peaks = store.codes(index, view)
            maps = exact[row, view].astype(np.float64)
            assert (peaks == exact[row, view].max((-2, -1))).all()
            for k in range(golden.K):
                if peaks[k] <= np.float32(0.003):
                    assert (codes[k] == 0).all()
                    continue
                steps = 126 * (maps[k] ** 0.25 - low) / (float(peaks[k]) ** 0.25 - low)
                expected = np.where(maps[k] >= np.float32(0.003), np.minimum(1 + np.rint(steps), 126), 0)
                expected.flat[maps[k].argmax()] = 127
                assert (codes[k] == expected).all()


def test_its_columns_and_frames_are_those_that_were_stored(name):
    store = open_golden(name)
    for column, values in golden.instances().items():
        assert list(store.instances) == list(golden.instances())
        np.testing.assert_array_equal(store.instances[column], values)
    assert store.written.tolist() == [True, True, False]
    np.testing.assert_array_equal(store.frame_affine, golden.affines(golden.COUNT))
    np.testing.assert_array_equal(store.view_affine, golden.affines(golden.COUNT, golden.VIEWS))
    assert store.view_flip.tolist() == [False, True]
    if store.has_frames:
        assert [store.frame(index) for index in WRITTEN] == golden.frames()[:2]
    with pytest.raises(cache.MissingRecordError):
        store.heatmap(2)


def test_todays_writer_writes_the_same(name, tmp_path):
    """The same content hash and, in Zarr, the same bytes, except for compressed chunks and measured errors."""
    made = golden.write(tmp_path / f"v1-{name}", golden.STORES[name])
    assert made.manifest["content_sha256"] == HASHES[name]
    old, new = ({f.relative_to(p): f for f in p.rglob("*") if f.is_file()} for p in (FOLDER / f"v1-{name}", made.path))
    assert set(old) == set(new)
    for key in old:
        if "codes/c" not in key.as_posix() and key.as_posix() != "zarr.json":
            assert old[key].read_bytes() == new[key].read_bytes(), key
    one, two = (dict(store.manifest) for store in (open_golden(name), made))
    for kind, error in one.pop("codec_error").items():
        assert two["codec_error"][kind] == pytest.approx(error, rel=1e-3, abs=1e-12)
    del one["manifest_sha256"], two["manifest_sha256"], two["codec_error"]
    assert one == two
