"""A store can be read with zarr alone, or with h5py and numpy alone, by following docs/format.md."""

import hashlib
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr

import cache
from tests.support.stores import small as small_store

SKIPPED = (2, 17)


def decode(differences, peak, codec):
    """Decode maps as docs/format.md specifies for the codec root4; other codecs store the values."""
    if codec["name"] != "root4":
        return np.float32(differences)
    codes = np.cumsum(np.cumsum(differences, axis=-1, dtype=np.uint8), axis=-2, dtype=np.uint8)
    low, high = np.float64(np.float32(codec["floor"])) ** 0.25, np.float64(peak)[..., None, None] ** 0.25
    values = (low + (codes - 1.0) * (high - low) / (codec["levels"] - 1)) ** 4
    return np.where(codes == 0, 0, values)


def check(node, manifest, store):
    """Read everything from `node`, a zarr group or an h5py file, and compare it with our own reader `store`."""
    assert manifest["complete"] is True
    written = node["integrity/written"][:]
    assert np.flatnonzero(written == 0).tolist() == list(SKIPPED)
    offset, nbytes = node["frames/offset"][:], node["frames/nbytes"][:]
    for index in np.flatnonzero(written):
        maps = decode(node["heatmaps/codes"][index], node["heatmaps/peak"][index], manifest["spec"]["codec"])
        np.testing.assert_allclose(maps, store.heatmaps([index])[0], rtol=1e-5)
        frame = node["frames/data"][int(offset[index]) : int(offset[index]) + int(nbytes[index])]
        assert frame.tobytes() == store.frame(index)
    names = [bytes(row).rstrip(b"\0").decode() for row in node["instances/file_name"][:]]
    assert names == store.instances["file_name"]
    for path, (dtype, shape) in manifest["columns"].items():
        assert node[path].shape == tuple(shape)
        assert node[path].dtype == np.dtype(dtype)
        assert (node[path][...] == store.column(path)).all()
        assert node[path].attrs["encoding-type"] in ("column", "text-column", b"column", b"text-column")
    assert {"frames/affine", "views/affine", "views/flip", "ground_truth/keypoints"} <= set(manifest["columns"])
    check_integrity(node, manifest)


def crc32c(data):
    """CRC-32C by its definition: reflected polynomial 0x82F63B78, one bit at a time."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def check_integrity(node, manifest):
    """Compute checksums, digests and the content hash of docs/format.md from what the library read."""
    spec, written = manifest["spec"], node["integrity/written"][:]
    offset, nbytes = node["frames/offset"][:], node["frames/nbytes"][:]
    digests = []
    for index in range(spec["instances"]):
        codes, peak = node["heatmaps/codes"][index], node["heatmaps/peak"][index]
        frame = node["frames/data"][int(offset[index]) : int(offset[index]) + int(nbytes[index])].tobytes()
        parts = [codes[view].tobytes() + peak[view].tobytes() for view in range(spec["views"])] + [frame]
        expected = [crc32c(part) for part in parts] if written[index] else [0] * len(parts)
        assert node["integrity/checksum"][index].tolist() == expected
        digest = hashlib.sha256(codes.tobytes() + peak.tobytes() + frame).digest()
        digests.append(digest if written[index] else bytes(32))
    size = spec["shard_instances"]
    for shard, found in enumerate(node["integrity/shard_sha256"][:]):
        expected = hashlib.sha256(b"".join(digests[shard * size : (shard + 1) * size])).digest()
        assert found.tobytes() == expected
    columns = {
        path: [dtype, shape, hashlib.sha256(node[path][...].tobytes()).hexdigest()]
        for path, (dtype, shape) in manifest["columns"].items()
        if path != "frames/offset"
    }
    text = json.dumps({"version": 1, "spec": spec, "columns": columns}, sort_keys=True)
    assert manifest["content_sha256"] == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("codec", ["root4", "root4:16", "float16", "float16-cut", "float32"])
def test_zarr_alone(tmp_path, codec):
    store = small_store.make(tmp_path / "s.zarr", skip=SKIPPED, codec=cache.codec_from_name(codec))
    group = zarr.open_group(tmp_path / "s.zarr", mode="r")
    check(group, group.attrs["manifest"], store)


@pytest.mark.parametrize("codec", ["root4", "float16", "float32"])
def test_h5py_alone(tmp_path, codec):
    store = small_store.make(tmp_path / "s.h5", skip=SKIPPED, codec=cache.codec_from_name(codec))
    with h5py.File(tmp_path / "s.h5") as file:
        check(file, json.loads(file.attrs["manifest"]), store)


@pytest.mark.parametrize("suffix", [".h5", ".zarr"])
def test_the_ten_lines_of_the_format_document(tmp_path, suffix, monkeypatch):
    text = (Path(__file__).resolve().parents[3] / "docs" / "format.md").read_text()
    lines = text.split("```python\n")[1].split("```")[0]
    if suffix == ".zarr":
        lines = lines.replace('h5py.File("store.h5")', 'zarr.open_group("store.zarr", mode="r")')
        lines = lines.replace('json.loads(f.attrs["manifest"])', 'f.attrs["manifest"]')
    store = small_store.make(tmp_path / f"store{suffix}")
    monkeypatch.chdir(tmp_path)
    found = {"zarr": zarr}
    exec(lines, found)
    np.testing.assert_allclose(found["maps"], store.heatmaps([7])[0], rtol=1e-5)
    assert found["jpeg"] == store.frame(7)


@pytest.mark.parametrize("codec", ["root4", "float16", "float32"])
def test_the_lines_for_tensorstore(tmp_path, codec, monkeypatch):
    """They give the stored codes and the frame; and so does tensorstore for every record, also past the shard's end."""
    tensorstore = pytest.importorskip("tensorstore", reason="tensorstore is not installed: pip install tensorstore")
    text = (Path(__file__).resolve().parents[3] / "docs" / "format.md").read_text()
    lines = text.split("```python\n")[2].split("```")[0]
    assert len(lines.strip().splitlines()) <= 6
    store = small_store.make(tmp_path / "store.zarr", codec=cache.codec_from_name(codec), skip=SKIPPED)
    offset, nbytes = (store.column(f"frames/{name}").astype(int) for name in ("offset", "nbytes"))
    found = {"start": offset[7], "nbytes": nbytes[7], "tensorstore": tensorstore}
    monkeypatch.chdir(tmp_path)
    exec(lines, found)
    for view in range(2):
        assert (found["differences"][view] == store.stored(7, view)[0]).all()
    assert found["jpeg"] == store.frame(7)
    for index in np.flatnonzero(store.written):
        records = found["codes"][index].read().result()
        assert (records == np.stack([store.stored(index, view)[0] for view in range(2)])).all()
        frame = found["frames"][offset[index] : offset[index] + nbytes[index]].read().result()
        assert frame.tobytes() == store.frame(index)


def test_zarr_writes_the_same_documents(tmp_path):
    """Our metadata are those that the library writes for the same arrays."""
    small_store.make(tmp_path / "s.zarr")
    group = zarr.open_group(tmp_path / "s.zarr", mode="r")
    for path in ("heatmaps/codes", "frames/data", "instances/bbox", "frames/affine"):
        ours = json.loads((tmp_path / "s.zarr" / path / "zarr.json").read_text())
        theirs = json.loads(json.dumps(group[path].metadata.to_dict()))
        assert {key: theirs[key] for key in ours if key != "codecs"} == {k: v for k, v in ours.items() if k != "codecs"}


def test_zarr_reads_a_shard_that_ends_early(tmp_path):
    """The last shard holds fewer instances than its grid; the other chunks are absent."""
    store = small_store.make(tmp_path / "s.zarr", count=small_store.SHARD + 1)
    array = zarr.open_group(tmp_path / "s.zarr", mode="r")["heatmaps/codes"]
    assert array.shape[0] == small_store.SHARD + 1
    assert (array[small_store.SHARD, 0] == store.stored(small_store.SHARD, 0)[0]).all()


def test_the_hdf5_file_holds_no_heap_strings_links_or_times(tmp_path):
    small_store.make(tmp_path / "s.h5")
    with h5py.File(tmp_path / "s.h5") as file:
        found = []
        file.visititems(lambda name, node: found.append((name, node)))
        for name, node in found:
            assert isinstance(file.get(name, getlink=True), h5py.HardLink)
            if isinstance(node, h5py.Dataset):
                assert node.dtype.kind in "uif"
                assert not any(h5py.check_vlen_dtype(node.attrs.get_id(key).dtype) for key in node.attrs)
