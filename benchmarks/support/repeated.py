"""Stores of any length that repeat a few prepared records; every record is written to the files separately."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import cache
from benchmarks.support.synthetic import JOINTS, teacher_like_maps
from cache.writing.shard import ShardWriter
from kdlib.geometry import box_to_region, compose_affines, invert_affine, region_affine
from kdlib.losses import DEFAULT_FLOOR
from kdlib.machine.process import available_cores
from precompute.data.crops import JPEG_QUALITY
from precompute.data.views import FRAME_MARGIN

INPUT_SIZE = (96, 128)
HEATMAP_SIZE = (24, 32)
RECORDS = 64
BOX = (60.0, 50.0, 90.0, 120.0)
IMAGE_SIZE = (240, 320)


def write_repeated(path: Path, count: int, *, frames: bool) -> None:
    """Write a store of one view of 17x32x24 maps, which can be trained from if it has frames.

    Args:
        path: Path of the store, ``.zarr`` or ``.h5``.
        count: Instances.
        frames: Whether to write frames.
    """
    width, height = HEATMAP_SIZE
    spec = cache.StoreSpec(count, 1, JOINTS, height, width, frames=frames)
    teacher = {"name": "synthetic", "input_size": list(INPUT_SIZE), "heatmap_size": list(HEATMAP_SIZE)}
    provenance = {"teacher": teacher, "logits": {"transform": "log", "floor": DEFAULT_FLOOR}}
    columns = _columns(count)
    truth = {name: columns[name] for name in ("annotation_id", "image_id", "bbox", "area", "iscrowd", "keypoints")}
    frame, view = _affines()
    affines = np.tile(frame, (count, 1, 1)), np.tile(view, (count, 1, 1, 1))
    _fill(cache.create_store(path, spec, provenance, columns, truth, *affines, np.zeros(1)))


def _columns(count: int) -> Mapping[str, Any]:
    rng = np.random.default_rng(0)
    keypoints = np.full((count, JOINTS, 3), 2, np.float32)
    keypoints[..., :2] = np.array(BOX[:2]) + rng.random((count, JOINTS, 2), np.float32) * np.array(BOX[2:])
    return {
        "annotation_id": np.arange(count),
        "image_id": np.arange(count) // 2,
        "file_name": [f"{i // 2:012d}.jpg" for i in range(count)],
        "image_size": np.tile(np.array(IMAGE_SIZE, np.int32), (count, 1)),
        "bbox": np.tile(BOX, (count, 1)),
        "area": np.full(count, BOX[2] * BOX[3] / 2),
        "iscrowd": np.zeros(count, np.uint8),
        "keypoints": keypoints,
        "score": np.ones(count),
    }


def _affines() -> tuple[Any, Any]:
    """Return the affines image to frame (2, 3) and frame to the single view (1, 2, 3)."""
    (center,), (size,) = box_to_region(BOX, INPUT_SIZE)
    frame = region_affine(center, size * FRAME_MARGIN, _frame_size())
    return frame, compose_affines(region_affine(center, size, INPUT_SIZE), invert_affine(frame))[None]


def _frame_size() -> tuple[int, int]:
    return round(INPUT_SIZE[0] * FRAME_MARGIN), round(INPUT_SIZE[1] * FRAME_MARGIN)


def _fill(writer: cache.Writer) -> None:
    records = [writer.spec.codec.encode(maps[None]) for maps in teacher_like_maps(RECORDS, HEATMAP_SIZE)]
    frames = _frames() if writer.spec.frames else [None] * RECORDS
    with ThreadPoolExecutor(available_cores()) as pool:
        for number in writer.pending_shards():
            with writer.shard(number) as shard:

                def put(index: int, shard: ShardWriter = shard) -> None:
                    shard.put_encoded(index, records[index % RECORDS], frames[index % RECORDS])

                list(pool.map(put, writer.shard_range(number), chunksize=64))
    writer.publish()


def _frames() -> list[bytes]:
    """Make JPEG files of smooth noise, about as large as photographs."""
    rng, (width, height) = np.random.default_rng(0), _frame_size()
    coarse = (rng.integers(0, 256, (height // 6, width // 6, 3), np.uint8) for _ in range(RECORDS))
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    return [cv2.imencode(".jpg", cv2.resize(noise, (width, height)), quality)[1].tobytes() for noise in coarse]
