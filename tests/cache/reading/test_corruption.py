"""Damaged and forged stores give a `StoreError`, and `verify` finds what reading alone does not."""

import json
import os
import shutil
import tracemalloc

import h5py
import numpy as np
import pytest

import cache
from cache.commands.verify import verify_store
from cache.format import compress, integrity
from cache.format.integrity import with_manifest_hash
from cache.format.manifest import parse_document
from tests.support.stores import forged
from tests.support.stores import small as small_store


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """One undamaged store of each layout, which no test changes."""
    folder = tmp_path_factory.mktemp("pristine")
    for suffix in (".zarr", ".h5"):
        small_store.make(folder / f"s{suffix}", skip=(4,))
    return folder


@pytest.fixture
def zarr_path(pristine, tmp_path):
    return shutil.copytree(pristine / "s.zarr", tmp_path / "s.zarr")


@pytest.fixture
def hdf5_path(pristine, tmp_path):
    return shutil.copy(pristine / "s.h5", tmp_path / "s.h5")


def read_everything(path):
    """Open a store and read all records; raises a `StoreError`, or returns all content."""
    store = cache.open_store(path)
    records = np.flatnonzero(store.written)
    images = [store.frame(int(index)) for index in records] if store.has_frames else []
    return (
        store.heatmaps(records).tobytes(),
        images,
        {name: np.asarray(store.instances[name]) for name in store.instances},
    )


def edit_manifest(path, *, sealed=True, **changes):
    """Change entries of the manifest in place, in either layout; `a__b` is entry `b` of mapping `a`.

    If `sealed`, the hash of the manifest is recomputed, as in a forged store.
    """
    finish = with_manifest_hash if sealed else lambda manifest: manifest
    if path.suffix == ".zarr":
        document = json.loads((path / "zarr.json").read_text())
        attributes = document["attributes"]
        attributes["manifest"] = finish(_changed(attributes["manifest"], changes))
        (path / "zarr.json").write_text(json.dumps(document))
    else:
        with h5py.File(path, "r+") as file:
            manifest = finish(_changed(json.loads(file.attrs["manifest"]), changes))
            file.attrs["manifest"] = np.bytes_(json.dumps(manifest).encode())


def _changed(manifest, changes):
    for name, value in changes.items():
        *parents, last = name.split("__")
        target = manifest
        for parent in parents:
            target = target[parent]
        target[last] = value
    return manifest


def flip(path, offset):
    with path.open("r+b") as file:
        file.seek(offset, os.SEEK_SET if offset >= 0 else os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 0x10]))


def test_the_untouched_stores_are_sound(pristine):
    for suffix in (".zarr", ".h5"):
        assert verify_store(pristine / f"s{suffix}") == []


FILES = {
    "heatmaps/codes/c/1/0/0/0/0": "instance 8",
    "frames/data/c/0": "instance 0",
    "heatmaps/peak/c/0/0/0": "instance 0",
    "instances/bbox/c/0/0": "content hash",
    "integrity/checksum/c/0/0": "content hash",
    "frames/affine/c/0/0/0": "content hash",
    "integrity/shard_sha256/c/0/0": "all records are readable, but they are not those that were written",
}


@pytest.mark.parametrize(("name", "found"), FILES.items())
def test_a_flipped_bit_is_found(zarr_path, name, found):
    flip(zarr_path / name, 30)
    problems = verify_store(zarr_path)
    assert found in "; ".join(problem.message for problem in problems)


@pytest.mark.parametrize("seed", range(40))
def test_a_flipped_bit_anywhere_in_hdf5_is_found_or_harmless(hdf5_path, pristine, seed):
    expected = read_everything(pristine / "s.h5")
    flip(hdf5_path, int(np.random.default_rng(seed).integers(hdf5_path.stat().st_size)))
    _sound_or_refused(hdf5_path, expected)


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_hdf5_file_is_refused(hdf5_path, share):
    os.truncate(hdf5_path, int(hdf5_path.stat().st_size * share))
    with pytest.raises(cache.StoreError):
        read_everything(hdf5_path)
    assert verify_store(hdf5_path)


@pytest.mark.parametrize("name", [*FILES, "zarr.json", "instances/bbox/zarr.json", "heatmaps/codes/zarr.json"])
@pytest.mark.parametrize("share", [None, 0, 0.5])
def test_a_truncated_or_missing_zarr_file_is_found(zarr_path, name, share):
    file = zarr_path / name
    if share is None:
        file.unlink()
    else:
        os.truncate(file, int(file.stat().st_size * share))
    problems = verify_store(zarr_path)
    assert problems
    assert str(zarr_path) in problems[0].message


@pytest.mark.parametrize("view", [0, 1])
def test_views_that_are_read_together_are_told_apart_where_one_is_damaged(zarr_path, view):
    store = cache.open_store(zarr_path)
    records = [(3, 0), (3, 1), (0, 0), (0, 1)]
    assert len(list(store.stored_many(records))) == 4
    extent = store._layout.view_extent(store.spec, 0, view)
    flip(zarr_path / extent.key, extent.offset + extent.nbytes // 2)
    with pytest.raises(cache.StoreFormatError, match=rf"instance 0 \(annotation 100\), view {view}: "):
        list(store.stored_many(records))
    assert len(list(store.stored_many([(3, 0), (0, 1 - view)]))) == 2


def test_reading_a_store_with_a_missing_shard_names_the_file(zarr_path):
    (zarr_path / "heatmaps/codes/c/1/0/0/0/0").unlink()
    store = cache.open_store(zarr_path)
    assert store.heatmap(0).any()
    with pytest.raises(cache.StoreError, match="c/1/0/0/0/0: missing"):
        store.heatmap(8)


def test_exchanged_records_do_not_pass_for_each_other(zarr_path):
    """Two shards with exchanged names are intact files with intact indices, but not what was written."""
    a, b, aside = (zarr_path / "heatmaps/codes/c" / name for name in ("0", "1", "aside"))
    a.rename(aside), b.rename(a), aside.rename(b)
    with pytest.raises(cache.StoreFormatError, match=r"instance 0 \(annotation 100\), view 0: .* checksum"):
        cache.open_store(zarr_path).heatmap(0)


FORGED = {
    "version": (3, "upgrade it"),
    "version ": (2, "need version 1"),
    "format": ("parquet", "this program reads"),
    "complete": (False, "not complete"),
    "complete ": ("yes", "not complete"),
    "spec__instances": (21, "expected"),
    "spec__instances ": (-1, "positive integer"),
    "spec__instances  ": (10**30, "positive integer"),
    "spec__joints": (17, "expected"),
    "spec__height": (2**26, "larger than any store"),
    "spec__instances   ": (2**40, "positive integer"),
    "spec__width": (13, "declares|requires"),
    "spec__views": ("2", "positive integer"),
    "spec__frames": (1, "must be true or false"),
    "spec__shard_instances": (16, "expected"),
    "spec__frame_limit": (1, "bytes|declares|requires"),
    "spec__codec": ({"name": "jpeg", "version": 1}, "upgrade"),
    "spec__codec__levels": (300, "levels must be"),
    "spec__codec__levels ": (50, "above 50"),
    "spec__codec__floor": (0.0, "floor"),
    "spec__codec__floor ": ("0.003", "not a number"),
    "spec__extra": (1, "spec: expected the entries"),
    "spec": (None, "spec: expected the entries"),
    "provenance": ("me", "not of the types"),
    "codec_error": ({"log_t1": 3}, "not of the types"),
    "codec_error ": ([], "not of the types"),
    "teacher_metrics": ([1], "not of the types"),
    "written ": (True, "not of the types"),
    "columns": ({}, "declares no column"),
    "columns ": ([], "form path"),
    "columns__instances/bbox": (["<f8", [20, 5]], "expected <f8"),
    "columns__instances/bbox ": (["|O", [20, 4]], "expected <f8"),
    "columns__instances/../../../etc/passwd": (["|u1", [20]], "forbids"),
    "columns__instances/huge": (["<f8", [20, 10**15]], "larger than any annotation"),
    "columns__ground_truth/annotation_id": (["<i8", [10**15]], "larger than any annotation"),
    "columns__integrity/written": (["|u1", [20, 1]], "expected"),
}


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
@pytest.mark.parametrize(("name", "change"), FORGED.items())
def test_a_manifest_with_a_false_entry_is_refused(pristine, tmp_path, suffix, name, change):
    path = tmp_path / f"s{suffix}"
    source = pristine / path.name
    shutil.copytree(source, path) if source.is_dir() else shutil.copy(source, path)
    edit_manifest(path, **{name.strip(): change[0]})
    with pytest.raises(cache.StoreError, match=change[1]):
        read_everything(path)


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
@pytest.mark.parametrize("change", [{"written": 20}, {"content_sha256": "0" * 64}, {"spec__codec__floor": 0.004}])
def test_a_manifest_that_contradicts_the_content_is_found(pristine, tmp_path, suffix, change):
    path = tmp_path / f"s{suffix}"
    source = pristine / path.name
    shutil.copytree(source, path) if source.is_dir() else shutil.copy(source, path)
    edit_manifest(path, **change)
    assert verify_store(path)


def test_an_element_of_a_newer_version_says_so(zarr_path, hdf5_path):
    file = zarr_path / "views/affine/zarr.json"
    file.write_text(file.read_text().replace('"encoding-version": "1"', '"encoding-version": "2"'))
    with pytest.raises(cache.StoreFormatError, match=r"views/affine: encoded as .* upgrade"):
        cache.open_store(zarr_path)
    with h5py.File(hdf5_path, "r+") as hdf5:
        hdf5["heatmaps/codes"].attrs["encoding-type"] = np.bytes_(b"wavelets")
    with pytest.raises(cache.StoreFormatError, match=r"heatmaps/codes: encoded as .*wavelets.* upgrade"):
        cache.open_store(hdf5_path)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '{"attributes": 3}', "[" * 100000])
def test_a_root_that_is_no_store_is_refused(zarr_path, text):
    (zarr_path / "zarr.json").write_text(text)
    with pytest.raises(cache.StoreFormatError):
        cache.open_store(zarr_path)


def test_links_are_refused(zarr_path, hdf5_path, tmp_path):
    shard = zarr_path / "heatmaps/codes/c/0/0/0/0/0"
    shard.rename(tmp_path / "elsewhere")
    shard.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(cache.StoreFormatError, match="cannot be opened"):
        read_everything(zarr_path)
    assert any("link or device" in problem.message for problem in verify_store(zarr_path))
    with h5py.File(tmp_path / "other.h5", "w") as other, h5py.File(hdf5_path, "r+") as file:
        other["bbox"] = file["instances/bbox"][:]
        del file["instances/bbox"]
        file["instances/bbox"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "bbox")
    with pytest.raises(cache.StoreFormatError, match="soft or external link"):
        cache.open_store(hdf5_path)


def test_a_pipe_does_not_block(zarr_path):
    column = zarr_path / "instances/bbox/c/0/0"
    column.unlink()
    os.mkfifo(column)
    with pytest.raises(cache.StoreFormatError, match="not a regular file"):
        cache.open_store(zarr_path)


def test_what_is_no_part_of_the_store_is_found(zarr_path, hdf5_path):
    (zarr_path / "heatmaps/notes").write_text("hello")
    with h5py.File(hdf5_path, "r+") as file:
        file["heatmaps/notes"] = h5py.SoftLink("/instances/bbox")
    for path in (zarr_path, hdf5_path):
        found = [problem.message for problem in verify_store(path)]
        assert found == ["heatmaps/notes: does not belong to the store, or is a link or device"]


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/passwd", "a/../../b.jpg", "..\\b.jpg", ""])
def test_a_file_name_that_leads_out_of_its_folder_is_refused(tmp_path, monkeypatch, name):
    columns = small_store.instances(20)
    columns["file_name"][3] = name
    monkeypatch.setattr(small_store, "instances", lambda count, joints, seed=0: columns)
    with pytest.raises(cache.StoreFormatError, match="must be a relative path"):
        small_store.begin(tmp_path / "s.zarr")


def test_a_decompression_bomb_costs_no_memory(zarr_path):
    """A chunk that would decompress to 64 MiB is refused, because its record has another size."""
    bomb = compress.zstd_compress(np.zeros(1 << 26, np.uint8))
    with pytest.raises(cache.StoreFormatError, match="zstd"):
        compress.zstd_decompress(bomb, 480)
    bomb = compress.deflate_compress(np.zeros(1 << 26, np.uint8))
    with pytest.raises(cache.StoreFormatError, match="481 bytes decoded; expected exactly 480"):
        compress.deflate_decompress(bomb, 480)


def test_a_store_whose_shard_digest_was_made_to_match_is_still_checked_by_the_content_hash(zarr_path):
    """A changed column is found by the content hash, even if no record is read."""
    store = cache.open_store(zarr_path)
    column = store.column("integrity/checksum").copy()
    column[4] = 7  # the row of an unwritten record, which is never read
    (zarr_path / "integrity/checksum/c/0/0").write_bytes(column.tobytes())
    assert [problem.message[:12] for problem in verify_store(zarr_path)] == ["content hash"]


def test_checksums_are_crc32c():
    """The check value of the Castagnoli polynomial: other programs can verify a store."""
    assert integrity.crc32c(b"123456789") == 0xE3069283


def _sound_or_refused(path, expected):
    try:
        maps, images, columns = read_everything(path)
    except cache.StoreError:
        assert verify_store(path)
        return
    same = maps == expected[0] and images == expected[1]
    same = same and all((columns[name] == expected[2][name]).all() for name in columns)
    assert same or verify_store(path)


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
@pytest.mark.parametrize("name", ["teacher_metrics", "provenance__teacher"])
def test_an_account_that_was_edited_is_told_from_the_makers(pristine, tmp_path, suffix, name):
    """The manifest's own hash covers entries without a column, such as the teacher's AP."""
    path = tmp_path / f"s{suffix}"
    source = pristine / path.name
    shutil.copytree(source, path) if source.is_dir() else shutil.copy(source, path)
    edit_manifest(path, sealed=False, **{name: {"ap": 99.0}})
    with pytest.raises(cache.StoreFormatError, match="does not match its own SHA-256: it was damaged or edited"):
        cache.open_store(path)


def test_sizes_that_would_make_memory_are_refused(zarr_path):
    """A manifest with 2**28 instances, whose columns are sparse files of matching sizes."""
    count = 2**28
    document = json.loads((zarr_path / "zarr.json").read_text())
    manifest = document["attributes"]["manifest"]
    manifest["spec"]["instances"] = count
    for path, (dtype, shape) in manifest["columns"].items():
        if path.startswith("ground_truth") or path in ("views/flip", "integrity/shard_sha256"):
            continue
        shape[0] = count
        array = json.loads((zarr_path / path / "zarr.json").read_text())
        array["shape"][0] = array["chunk_grid"]["configuration"]["chunk_shape"][0] = count
        (zarr_path / path / "zarr.json").write_text(json.dumps(array))
        os.truncate(zarr_path / path / "c" / "/".join("0" * len(shape)), np.prod(shape) * np.dtype(dtype).itemsize)
    document["attributes"]["manifest"] = with_manifest_hash(manifest)
    (zarr_path / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(cache.StoreFormatError, match="instances must be a positive integer up to"):
        cache.open_store(zarr_path)


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 1}',
        '{"a": NaN}',
        '{"a": -Infinity}',
        '{"a": 1e999}',
        '{"a": "\\ud800"}',
        b'{"a": "\xff"}',
        b"[1]\0",
    ],
)
def test_json_that_parsers_read_differently_is_refused(text):
    with pytest.raises(cache.StoreFormatError, match="here: not a JSON document"):
        parse_document(text, "here")


@pytest.mark.parametrize("depth", [40, 900, 100_000])
def test_deep_nesting_is_refused(depth):
    with pytest.raises(cache.StoreFormatError, match="not a JSON document"):
        parse_document("[" * depth + "]" * depth, "here")
    assert parse_document("[" * 30 + "]" * 30, "here")


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("path", ["frames/affine", "views/affine", "instances/bbox", "ground_truth/keypoints"])
def test_a_column_that_is_not_finite_is_refused_under_right_checksums(tmp_path, suffix, value, path):
    def forge_column(column):
        return np.where(np.arange(column.size).reshape(column.shape) == 7, value, column).astype(column.dtype)

    forged.forge(tmp_path / f"s{suffix}", {path: forge_column})
    with pytest.raises(cache.StoreFormatError, match=f"column {path} holds values that are not finite"):
        cache.open_store(tmp_path / f"s{suffix}").column(path)
    assert [problem.message for problem in verify_store(tmp_path / f"s{suffix}")]


@pytest.mark.parametrize("codec", [cache.FloatCodec("float16"), cache.FloatCodec("float16-cut"), cache.FloatCodec()])
@pytest.mark.parametrize("part", ["stored", "peak"])
def test_maps_that_are_not_finite_are_refused_under_right_checksums(tmp_path, codec, part):
    def forge_record(encoded):
        changed = getattr(encoded, part).copy()
        changed.reshape(-1)[1] = np.nan
        return encoded._replace(**{part: changed})

    forged.forge(tmp_path / "s.zarr", record=forge_record, codec=codec)
    with pytest.raises(cache.StoreFormatError, match=r"instance 0 \(annotation 100\), view 0: .* not finite"):
        cache.open_store(tmp_path / "s.zarr").heatmap(0)
    assert verify_store(tmp_path / "s.zarr")


def test_codes_beyond_the_table_are_refused_wherever_they_are_read(tmp_path):
    """A lookup in `codec.tables` would read past the end of the table."""

    def forge_record(encoded):
        stored = np.zeros_like(encoded.stored)
        stored[0, 0, 0, 0] = 200
        return encoded._replace(stored=stored)

    forged.forge(tmp_path / "s.zarr", record=forge_record)
    store = cache.open_store(tmp_path / "s.zarr")
    out, order = np.zeros((*store.spec.map_shape[1:], store.spec.joints), np.float32), np.arange(store.spec.joints)

    def interleaved(index):
        store.decode_interleaved(index, 0, store.stored(index), order, out)

    for read in (store.codes, store.heatmap, interleaved):
        with pytest.raises(cache.StoreFormatError, match="above 127"):
            read(0)


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
def test_a_frame_size_that_wraps_around_is_refused(tmp_path, suffix):
    """Offset + nbytes beyond 2**64 must not wrap around to the beginning."""
    for path, value in (("frames/offset", 2**64 - 8), ("frames/nbytes", 2**32 - 1), ("frames/nbytes", 0)):

        def forge_column(column, value=value):
            return np.where(np.arange(len(column)) == 3, column.dtype.type(value), column)

        forged.forge(tmp_path / f"s{suffix}", {path: forge_column})
        with pytest.raises(cache.StoreFormatError, match="instance 3"):
            cache.open_store(tmp_path / f"s{suffix}").frame(3)


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
@pytest.mark.parametrize("instance", [4, 5, 19])
def test_a_frame_that_is_said_to_lie_elsewhere_is_found(pristine, tmp_path, suffix, instance):
    """No hash covers the offsets, and the frame of an unwritten instance (4) is never read."""
    path = tmp_path / f"s{suffix}"
    source = pristine / path.name
    shutil.copytree(source, path) if source.is_dir() else shutil.copy(source, path)
    store = cache.open_store(path)
    extent = store._extents["frames/offset"]
    file = path / extent.key if extent.key else path
    with file.open("r+b") as opened:
        opened.seek(extent.offset + 8 * instance)
        opened.write((int(store.column("frames/offset")[instance]) + 8).to_bytes(8, "little"))
    problems = [problem.message for problem in verify_store(path)]
    assert any(f"frames/offset is wrong for 1 of 20 instances; the first is {instance}" in what for what in problems)


BOMBS = {
    "zeros": lambda data: compress.zstd_compress(np.zeros(1 << 28, np.uint8)),
    "declared size": lambda data: b"\x28\xb5\x2f\xfd\xe0" + b"\xff" * 7 + b"\x7f" + data[6:],
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_chunk_that_inflates_to_gigabytes_is_refused_in_little_memory(tmp_path, bomb):
    forged.forge(tmp_path / "s.zarr", compress=BOMBS[bomb])
    store = cache.open_store(tmp_path / "s.zarr")
    tracemalloc.start()
    with pytest.raises(cache.StoreFormatError, match="instance 0"):
        store.heatmap(0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def change_hdf5(path, change):
    with h5py.File(path, "r+") as file:
        name = "instances/bbox"
        kept, attributes = file[name][...], dict(file[name].attrs)
        del file[name]
        change(file, name, kept)
        hard = isinstance(file.get(name, getlink=True), h5py.HardLink)
        if hard and file.get(name, getclass=True) is h5py.Dataset:
            file[name].attrs.update(attributes)


def _virtual(file, name, kept):
    layout = h5py.VirtualLayout(kept.shape, kept.dtype)
    layout[...] = h5py.VirtualSource(".", "ground_truth/bbox", kept.shape)
    file.create_virtual_dataset(name, layout)


def _variable(file, name, kept):
    file.create_dataset(name, kept.shape, h5py.vlen_dtype("f8"))


HDF5 = {
    "soft link": (lambda file, name, kept: file.__setitem__(name, h5py.SoftLink("/ground_truth/bbox")), "link"),
    "link to itself": (lambda file, name, kept: file.__setitem__(name, h5py.SoftLink("/" + name)), "link"),
    "group": (lambda file, name, kept: file.create_group(name), "not a dataset"),
    "cycle": (lambda file, name, kept: file.__setitem__(name, file["/"]), "not a dataset"),
    "virtual": (_virtual, "not a dataset of this file"),
    "external storage": (
        lambda file, name, kept: file.create_dataset(name, kept.shape, "f8", external=[("/etc/passwd", 0, 640)]),
        "not a dataset of this file",
    ),
    "variable length": (_variable, "declares"),
    "text": (lambda file, name, kept: file.create_dataset(name, kept.shape, h5py.string_dtype()), "declares"),
    "references": (lambda file, name, kept: file.create_dataset(name, kept.shape, h5py.ref_dtype), "declares"),
    "big-endian": (lambda file, name, kept: file.create_dataset(name, data=kept.astype(">f8")), "declares"),
    "chunked": (lambda file, name, kept: file.create_dataset(name, data=kept, chunks=True), "contiguous"),
    "huge": (lambda file, name, kept: file.create_dataset(name, (2**40, 4), "f8"), "declares"),
    "never allocated": (lambda file, name, kept: file.create_dataset(name, kept.shape, "f8"), "contiguous"),
}


@pytest.mark.parametrize("attack", HDF5)
def test_a_dataset_that_the_format_forbids_is_refused(hdf5_path, attack):
    change, message = HDF5[attack]
    change_hdf5(hdf5_path, change)
    with pytest.raises(cache.StoreFormatError, match=message):
        cache.open_store(hdf5_path)


def test_a_dataset_that_is_another_one_is_found(hdf5_path):
    """A second hard link gives a dataset of the right shape, but with other content than was written."""
    with h5py.File(hdf5_path, "r+") as file:
        del file["instances/area"]
        file["instances/area"] = file["instances/score"]
    assert any("content hash" in problem.message for problem in verify_store(hdf5_path))


def test_a_filter_that_a_chunk_skips_is_refused(hdf5_path):
    with h5py.File(hdf5_path, "r+") as file:
        codes = file["heatmaps/codes"]
        codes.id.write_direct_chunk((3, 0, 0, 0, 0), codes[3, 0].tobytes(), filter_mask=1)
    with pytest.raises(cache.StoreFormatError, match=r"chunk .* is damaged"):
        cache.open_store(hdf5_path).heatmap(0)


def test_hdf5_without_checksums_of_its_structure_is_refused(hdf5_path, tmp_path):
    old = tmp_path / "old.h5"
    with h5py.File(hdf5_path) as file, h5py.File(old, "w", libver="earliest") as copy:
        for name in file:
            file.copy(name, copy)
        copy.attrs.update(file.attrs)
    with pytest.raises(cache.StoreFormatError, match="h5repack"):
        cache.open_store(old)


def test_verify_reports_links_that_hdf5_cannot_list(tmp_path, hdf5_path, monkeypatch):
    """If HDF5 cannot list the links, `verify` reports a problem instead of failing."""

    def fail(*_):
        raise RuntimeError("Link visitation failed")

    monkeypatch.setattr(h5py.File, "visit_links", fail)
    assert [problem.message for problem in verify_store(hdf5_path)] == [f"{hdf5_path}: damaged: Link visitation failed"]
