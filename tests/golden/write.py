"""Write the golden stores of the format's current version: `python -m tests.golden.write FOLDER`.

The stores beside this file must never be written again; a new version of the format adds new ones. All content follows
from formulas without random numbers, so that later versions of the program can write the same stores and compare them.
"""

import sys
from pathlib import Path

import numpy as np

import cache

COUNT, VIEWS, K, H, W = 3, 2, 3, 7, 5
SHARD = 2
UNWRITTEN = 2
STORES = {"root4.zarr": "root4", "root4.h5": "root4", "float16.zarr": "float16", "float32.h5": "float32"}
PROVENANCE = {
    "teacher": {"name": "golden", "weights_sha256": "0" * 64, "input_size": [20, 28], "heatmap_size": [W, H]},
    "logits": {"transform": "log", "floor": 0.003},
    "note": "made of formulas",
}


def maps():
    """(N, V, K, H, W) float32: one bump per map, whose place and height depend on its indices; one map has no peak."""
    n, v, k, y, x = np.ogrid[:COUNT, :VIEWS, :K, :H, :W]
    height, width = 0.25 + 0.25 * k + 0.125 * n, 1.5 + 0.5 * v
    bump = height / (1 + ((x - (n + k) % W) ** 2 + (y - (2 * n + k + v) % H) ** 2) / width) ** 4
    bump = np.broadcast_to(bump, (COUNT, VIEWS, K, H, W)).copy()
    bump[1, 0, 2] = 0.001
    return bump.astype(np.float32)


def frames():
    """Bytes that begin like a JPEG file."""
    return [b"\xff\xd8\xff" + bytes(range(20 + 7 * n)) for n in range(COUNT)]


def instances():
    """The columns of the instances."""
    n = np.arange(COUNT)
    k = np.arange(K)
    keypoints = np.stack(np.broadcast_arrays(10.5 * n[:, None] + k, 3.25 * k + n[:, None], k % 3), -1)
    return {
        "annotation_id": 1000 + 7 * n,
        "image_id": 50 + n // 2,
        "file_name": ["a/é.jpg", "a/é.jpg", "b.png"],
        "image_size": np.stack([640 - n, 427 + n], -1),
        "bbox": np.stack([1.5 * n, 2.25 + n, 30.0 + n, 40.5 - n], -1),
        "area": 500.5 + n,
        "iscrowd": n % 2,
        "keypoints": keypoints.astype(np.float32),
        "score": 1 - n / 8,
        "difficulty": n * 11,
    }


def affines(*shape):
    """Affines (*shape, 2, 3), all different."""
    return np.arange(np.prod(shape) * 6, dtype=np.float64).reshape(*shape, 2, 3) / 4


def write(path, codec):
    """Write one store and open it."""
    columns = instances()
    truth = {name: columns[name] for name in ("annotation_id", "image_id", "bbox", "area", "iscrowd", "keypoints")}
    with_frames = codec == "root4"
    spec = cache.StoreSpec(
        COUNT, VIEWS, K, H, W, cache.codec_from_name(codec), frames=with_frames, shard_instances=SHARD, frame_limit=64
    )
    views = affines(COUNT, VIEWS)
    writer = cache.create_store(path, spec, PROVENANCE, columns, truth, affines(COUNT), views, np.array([0, 1]))
    for number in writer.pending_shards():
        with writer.shard(number) as shard:
            for index in writer.shard_range(number):
                if index == UNWRITTEN:
                    shard.skip(index)
                else:
                    shard.put(index, maps()[index], frames()[index] if with_frames else None)
    writer.publish({"ap": 0.5})
    return cache.open_store(path)


def main():
    """Write all stores of this version, and their maps as plain arrays."""
    version = cache.format.spec.FORMAT_VERSION
    folder = Path(sys.argv[1])
    for name, codec in STORES.items():
        store = write(folder / f"v{version}-{name}", codec)
        sys.stdout.write(f"{store.path} {store.manifest['content_sha256']}\n")
        if name.endswith(".h5"):
            written = [index for index in range(COUNT) if index != UNWRITTEN]
            np.save(folder / f"v{version}-{codec}-maps.npy", store.heatmaps(written))


if __name__ == "__main__":
    main()
