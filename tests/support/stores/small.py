"""Small generated stores: all shapes are non-square, K is not 17, and every value follows from a seed."""

from pathlib import Path

import numpy as np

import cache

K, H, W = 5, 12, 8
SHARD = 8


def blobs(count, views, seed=0, joints=K, height=H, width=W):
    """(count, views, joints, height, width) float32 maps like a teacher's: one Gaussian per map, and noise."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, width, (count, views, joints, 1, 1))
    y = rng.uniform(0, height, (count, views, joints, 1, 1))
    rows, columns = np.arange(height)[:, None], np.arange(width)[None, :]
    peak = rng.uniform(0.1, 1.2, (count, views, joints, 1, 1))
    maps = peak * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 8) + rng.normal(
        0, 0.004, (count, views, joints, height, width)
    )
    return maps.astype(np.float32)


def frames(count, seed=0):
    """Bytes in place of JPEG files, of different lengths."""
    rng = np.random.default_rng(seed)
    return [b"\xff\xd8" + rng.bytes(int(n)) for n in rng.integers(10, 300, count)]


def instances(count, joints=K, seed=0):
    """Columns of `count` instances, two per image."""
    rng = np.random.default_rng(seed)
    return {
        "annotation_id": np.arange(count) * 3 + 100,
        "image_id": np.arange(count) // 2,
        "file_name": [f"images/{index // 2:05d}-ü.jpg" for index in range(count)],
        "image_size": np.tile([640, 427], (count, 1)),
        "bbox": rng.uniform(0, 300, (count, 4)),
        "area": rng.uniform(1, 9e4, count),
        "iscrowd": np.zeros(count, np.uint8),
        "keypoints": rng.uniform(0, 400, (count, joints, 3)).astype(np.float32),
        "score": np.ones(count),
    }


def ground_truth(count, joints=K):
    """Columns of the annotations: those of the instances and as many others."""
    columns = instances(2 * count, joints, seed=1)
    return {name: columns[name] for name in ("annotation_id", "image_id", "bbox", "area", "iscrowd", "keypoints")}


def begin(  # noqa: PLR0917
    path, count=20, views=2, codec=None, with_frames=True, provenance=None, joints=K, height=H, width=W, **flags
):
    """A writer for a store of `count` instances at `path`."""
    rng = np.random.default_rng(2)
    spec = cache.StoreSpec(
        count, views, joints, height, width, codec or cache.RootCodec(), frames=with_frames, shard_instances=SHARD
    )
    return cache.create_store(
        path,
        spec,
        provenance or {"teacher": {"name": "blobs", "weights_sha256": "0" * 64}, "dataset": {"name": "small"}},
        instances(count, joints),
        ground_truth(count, joints),
        rng.normal(size=(count, 2, 3)),
        rng.normal(size=(count, views, 2, 3)),
        np.arange(views) % 2,
        **flags,
    )


def fill(writer, skip=(), only=None):
    """Write the pending shards (those of `only`) of a writer."""
    spec = writer.spec
    maps = blobs(spec.instances, spec.views, 0, *spec.map_shape)
    images = frames(spec.instances)
    for number in writer.pending_shards() if only is None else only:
        with writer.shard(number) as shard:
            for index in writer.shard_range(number):
                if index in skip:
                    shard.skip(index)
                else:
                    shard.put(index, maps[index], images[index] if spec.frames else None)


def make(path: Path, skip=(), metrics=None, **sizes):
    """A finished store at `path`."""
    writer = begin(path, **sizes)
    fill(writer, skip)
    writer.publish(metrics or {"ap": 0.5})
    return cache.open_store(path)
