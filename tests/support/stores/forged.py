"""Forged stores: the content is false, but all checksums and hashes match it, as a malicious maker can arrange."""

import random
import shutil
import zlib
from pathlib import Path
from unittest import mock

import numpy as np

import cache
from cache.codec.base import Encoded
from cache.layouts import hdf5_writer
from cache.writing import writer as writer_module
from tests.support.stores import small as small_store

SIZES = {"count": 10, "views": 2, "joints": 3, "height": 6, "width": 4}
SKIPPED = (4,)


def forge(path: Path, columns=None, record=None, compress=None, codec=None):
    """Write a forged store.

    Args:
        path: Where to write it; an existing store is replaced.
        columns: Path of a column -> function from the true column to the forged one.
        record: Function from the `Encoded` maps of an instance to the stored ones.
        compress: Function from the compressed bytes of a view to the stored ones.
        codec: The codec of the store.
    """
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    forgeries, true_columns = columns or {}, writer_module.record_columns
    writer = small_store.begin(path, codec=codec, **SIZES)

    def forge_all(found):
        return {
            name: np.ascontiguousarray(forgeries[name](column)) if name in forgeries else column
            for name, column in found
        }

    writer._columns = forge_all(writer._columns.items())
    sizes: dict[str, np.ndarray] = {}

    def forge_records(*given):
        found = true_columns(*given)
        sizes.update(found)
        return forge_all(found.items())

    def join(file, shards, spec, nbytes):
        join_frames(file, shards, spec, sizes["frames/nbytes"])

    join_frames = hdf5_writer._join_frames
    with (
        mock.patch.object(writer_module, "record_columns", forge_records),
        mock.patch.object(hdf5_writer, "_join_frames", join),
    ):
        _fill(writer, record or (lambda encoded: encoded), compress or (lambda chunk: chunk))
        writer.publish({"ap": 0.5})


def _fill(writer, record, change):
    spec = writer.spec
    maps, images = small_store.blobs(spec.instances, spec.views, 0, *spec.map_shape), small_store.frames(spec.instances)
    for number in writer.pending_shards():
        with writer.shard(number) as shard:
            compress = shard._compress
            shard._compress = lambda view, compress=compress: change(compress(view))
            for index in writer.shard_range(number):
                if index in SKIPPED:
                    shard.skip(index)
                else:
                    shard.put_encoded(index, record(spec.codec.encode(maps[index])), images[index])


def false_column(path: Path, rng: random.Random) -> str:
    """One value of one column is invalid."""
    name = rng.choice(
        (
            *("instances/bbox", "instances/area", "instances/keypoints", "instances/score", "instances/image_size"),
            *("instances/iscrowd", "instances/annotation_id", "instances/file_name", "ground_truth/bbox"),
            *("ground_truth/keypoints", "frames/affine", "views/affine", "views/flip", "heatmaps/peak"),
            *("integrity/written", "integrity/checksum", "frames/offset", "frames/nbytes", "integrity/shard_sha256"),
        )
    )
    value = rng.choice((np.nan, np.inf, -np.inf, -1.0, 0.0, 1.0, 2.0, 255.0, 1e300, 2.0**31, 2.0**32, 2.0**63, 2.0**64))
    place = rng.random()

    def forge_column(column):
        column = column.copy()
        with np.errstate(all="ignore"):
            column.reshape(-1)[int(place * column.size)] = np.array([value]).astype(column.dtype)[0]
        return column

    forge(path, {name: forge_column})
    return f"{name} holds {value} at {place:.3f}"


def false_bytes(path: Path, rng: random.Random) -> str:
    """One column is random bytes."""
    noise, names = (
        rng.randbytes(1),
        ("frames/offset", "frames/nbytes", "instances/file_name", "views/affine", "heatmaps/peak"),
    )
    name, seed = rng.choice(names), rng.getrandbits(32)

    def forge_column(column):
        filler = random.Random(seed)
        return np.frombuffer(filler.randbytes(column.nbytes), column.dtype).reshape(column.shape)

    forge(path, {name: forge_column})
    return f"{name} is noise {noise!r}"


def false_maps(path: Path, rng: random.Random) -> str:
    """Codes or peaks that no encoder writes, with matching checksums."""
    codec = rng.choice((cache.RootCodec(), cache.RootCodec(levels=3), cache.FloatCodec("float16"), cache.FloatCodec()))
    kind = rng.choice(("peak", "noise", "value", "zeros"))
    value = rng.choice((np.nan, np.inf, -np.inf, -3.0, 0.0, 3e38, 1e-45))
    filler = random.Random(rng.getrandbits(32))

    def forge_record(encoded: Encoded) -> Encoded:
        stored, peak = encoded.stored.copy(), encoded.peak.copy()
        with np.errstate(all="ignore"):
            if kind == "peak":
                peak[0, 1] = value
            elif kind == "noise":
                stored = np.frombuffer(filler.randbytes(stored.nbytes), stored.dtype).reshape(stored.shape)
            elif kind == "zeros":
                stored[:] = 0
            elif stored.dtype.kind == "f":
                stored[0, 1, 2, 3] = value
            else:
                stored[0, 1, 2, 3] += filler.randrange(256)
        return Encoded(stored, peak, encoded.error)

    forge(path, record=forge_record, codec=codec)
    return f"{codec}: {kind} {value}"


def false_chunks(path: Path, rng: random.Random) -> str:
    """Compressed bytes that are too short, too long, decompress to far more bytes, or are not a stream at all."""
    bomb = bytes(1 << 30 if path.suffix == ".zarr" and rng.random() < 0.2 else 1 << 22)
    kinds = {
        "bomb": lambda chunk: zlib.compress(bomb) if path.suffix == ".h5" else _zstd(bomb),
        "giant size": lambda chunk: b"\x28\xb5\x2f\xfd\xe0" + b"\xff" * 7 + b"\x7f" + chunk[6:],
        "empty frame": lambda chunk: zlib.compress(b"") if path.suffix == ".h5" else _zstd(b""),
        "twice": lambda chunk: chunk + chunk,
        "cut": lambda chunk: chunk[: len(chunk) // 2],
        "more": lambda chunk: chunk + b"more",
        "one byte": lambda chunk: b"\0",
        "skippable": lambda chunk: b"\x50\x2a\x4d\x18\x04\0\0\0abcd" + chunk,
    }
    kind = rng.choice(sorted(kinds))
    forge(path, compress=kinds[kind])
    return f"chunks: {kind}"


def _zstd(data: bytes) -> bytes:
    from cache.format import compress

    return compress.zstd_compress(np.frombuffer(data, np.uint8))


FORGERIES = (false_column, false_bytes, false_maps, false_chunks)
