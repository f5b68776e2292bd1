"""Stores whose checksums and hashes are all right, because whoever made them computed them over what is false."""

import random
import shutil
import zlib
from pathlib import Path
from unittest import mock

import numpy as np

import cache
from cache.layouts import hdf5_writer
from cache.writing import writer as writer_module
from cache.codec.base import Encoded
from tests.support.stores import small as small_store

SIZES = {"count": 10, "views": 2, "joints": 3, "height": 6, "width": 4}
SKIPPED = (4,)


def forge(path: Path, columns=None, record=None, squeeze=None, codec=None):
    """Write a store at `path` that is consistent in itself.

    Args:
        path: where; what is there is replaced.
        columns: path of a column -> what it shall be, given what it is.
        record: what is stored of an instance, given its `Encoded`.
        squeeze: the bytes of a chunk, given the right ones.
        codec: of the store.
    """
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    lies, honest = columns or {}, writer_module.record_columns
    writer = small_store.begin(path, codec=codec, **SIZES)

    def lie(found):
        return {name: np.ascontiguousarray(lies[name](column)) if name in lies else column for name, column in found}

    writer._columns = lie(writer._columns.items())
    sizes: dict[str, np.ndarray] = {}

    def lie_of_records(*given):
        found = honest(*given)
        sizes.update(found)
        return lie(found.items())

    def join(file, shards, spec, nbytes):
        join_frames(file, shards, spec, sizes["frames/nbytes"])

    join_frames = hdf5_writer._join_frames
    with (
        mock.patch.object(writer_module, "record_columns", lie_of_records),
        mock.patch.object(hdf5_writer, "_join_frames", join),
    ):
        _fill(writer, record or (lambda encoded: encoded), squeeze or (lambda chunk: chunk))
        writer.publish({"ap": 0.5})


def _fill(writer, record, squeeze):
    spec = writer.spec
    maps, images = small_store.blobs(spec.instances, spec.views, 0, *spec.map_shape), small_store.frames(spec.instances)
    for number in writer.pending_shards():
        with writer.shard(number) as shard:
            compress = shard._compress
            shard._compress = lambda view, compress=compress: squeeze(compress(view))
            for index in writer.shard_range(number):
                if index in SKIPPED:
                    shard.skip(index)
                else:
                    shard.put_encoded(index, record(spec.codec.encode(maps[index])), images[index])


def false_column(path: Path, rng: random.Random) -> str:
    """One value of one column is impossible."""
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

    def lie(column):
        column = column.copy()
        with np.errstate(all="ignore"):
            column.reshape(-1)[int(place * column.size)] = np.array([value]).astype(column.dtype)[0]
        return column

    forge(path, {name: lie})
    return f"{name} holds {value} at {place:.3f}"


def false_bytes(path: Path, rng: random.Random) -> str:
    """One column is noise."""
    noise, names = (
        rng.randbytes(1),
        ("frames/offset", "frames/nbytes", "instances/file_name", "views/affine", "heatmaps/peak"),
    )
    name, seed = rng.choice(names), rng.getrandbits(32)

    def lie(column):
        filler = random.Random(seed)
        return np.frombuffer(filler.randbytes(column.nbytes), column.dtype).reshape(column.shape)

    forge(path, {name: lie})
    return f"{name} is noise {noise!r}"


def false_maps(path: Path, rng: random.Random) -> str:
    """Codes or peaks that no encoder makes, under right checksums."""
    codec = rng.choice((cache.RootCodec(), cache.RootCodec(levels=3), cache.FloatCodec("float16"), cache.FloatCodec()))
    kind = rng.choice(("peak", "noise", "value", "zeros"))
    value = rng.choice((np.nan, np.inf, -np.inf, -3.0, 0.0, 3e38, 1e-45))
    filler = random.Random(rng.getrandbits(32))

    def lie(encoded: Encoded) -> Encoded:
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

    forge(path, record=lie, codec=codec)
    return f"{codec}: {kind} {value}"


def false_chunks(path: Path, rng: random.Random) -> str:
    """Compressed bytes that end early, go on, inflate to far more, or are no stream at all."""
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
    forge(path, squeeze=kinds[kind])
    return f"chunks: {kind}"


def _zstd(data: bytes) -> bytes:
    from cache.format import compress

    return compress.zstd_compress(np.frombuffer(data, np.uint8))


LIES = (false_column, false_bytes, false_maps, false_chunks)
