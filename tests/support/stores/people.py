"""A small store with known content: the joints are dots in the frames, and the teacher's maps are Gaussians."""

import cv2
import numpy as np

import cache
from kdlib.geometry import box_to_region, compose_affines, invert_affine, region_affine, scale_affine, transform_points
from kdlib.heatmaps import gaussian_heatmaps
from kdlib.skeletons.reading import stated
from kdlib.skeletons.skeleton import COCO

IMAGE_SIZE = (200, 150)
INPUT_SIZE = (96, 128)
HEATMAP_SIZE = (24, 32)
MARGIN = 1.25


def persons(count, seed=0, joints=17):
    """Columns of instances whose joints are spread over their boxes; a fifth of the joints is unlabelled."""
    rng = np.random.default_rng(seed)
    boxes = np.concatenate([rng.uniform(10, 60, (count, 2)), rng.uniform(60, 80, (count, 2))], axis=1)
    keypoints = np.zeros((count, joints, 3), np.float32)
    keypoints[..., :2] = boxes[:, None, :2] + rng.uniform(0.1, 0.9, (count, joints, 2)) * boxes[:, None, 2:]
    keypoints[..., 2] = rng.choice([0, 1, 2], (count, joints), p=[0.2, 0.2, 0.6])
    return {
        "annotation_id": np.arange(1000, 1000 + count),
        "image_id": np.arange(count) // 2,
        "file_name": [f"{i // 2:03d}.jpg" for i in range(count)],
        "image_size": np.tile(np.int32(IMAGE_SIZE), (count, 1)),
        "bbox": boxes,
        "area": boxes[:, 2] * boxes[:, 3] * 0.5,
        "iscrowd": np.zeros(count, np.uint8),
        "keypoints": keypoints,
        "score": np.ones(count),
    }


def picture(points, size, affine):
    """A grey image with a white dot at each point, after an affine."""
    image = np.full((size[1], size[0], 3), 60, np.uint8)
    for x, y in transform_points(points, affine):
        cv2.circle(image, (round(float(x)), round(float(y))), 4, (255, 255, 255), -1, cv2.LINE_AA)
    return image


def make_store(  # noqa: PLR0913 - everything in which the stores of the tests differ
    path,
    count=8,
    *,
    frames=True,
    shift=0.0,
    provenance=None,
    codec="root4",
    turned=False,
    labels="persons",
    skeleton=COCO,
    input_size=INPUT_SIZE,
):
    """Write the store and open it.

    Args:
        path: Where to write it.
        count: Number of instances.
        frames: Whether the store holds frames.
        shift: Distance between the teacher's peaks and the labels, in heatmap pixels along x.
        provenance: Further entries of the provenance.
        codec: Name of the codec.
        turned: Whether there is a third stored view, of 1.2 times the region, rotated by 30 degrees.
        labels: What is labelled: the `persons` and so their `images`, only the `images`, as for a detector's boxes, or
            `nothing`.
        skeleton: The joints.
        input_size: Width and height of the teacher's input.
    """
    columns = persons(count, joints=len(skeleton))
    heatmap_size = (input_size[0] // 4, input_size[1] // 4)
    centers, sizes = box_to_region(columns["bbox"] - [0, 0, 1, 1], input_size)
    frame_size = (round(input_size[0] * MARGIN), round(input_size[1] * MARGIN))
    frame = np.stack([region_affine(c, s * MARGIN, frame_size) for c, s in zip(centers, sizes, strict=True)])
    views = np.stack(
        [
            [
                compose_affines(region_affine(c, s * size, input_size, angle, flip=flip), invert_affine(f))
                for flip, size, angle in ((False, 1, 0), (True, 1, 0), (False, 1.2, 30))[: 2 + turned]
            ]
            for c, s, f in zip(centers, sizes, frame, strict=True)
        ]
    )
    spec = cache.StoreSpec(
        instances=count,
        views=2 + turned,
        joints=len(skeleton),
        height=heatmap_size[1],
        width=heatmap_size[0],
        frames=frames,
        codec=cache.codec_from_name(codec),
    )
    teacher = {"name": "gaussians", "weights_sha256": "0" * 64, "input_size": input_size, "heatmap_size": heatmap_size}
    logits = {"transform": "log", "floor": 0.003}
    provenance = {"teacher": teacher, "logits": logits, **stated(skeleton), **(provenance or {})}
    truth = {k: columns[k] for k in ("annotation_id", "image_id", "bbox", "area", "iscrowd", "keypoints")}
    if labels == "nothing":
        truth["keypoints"] = np.zeros_like(truth["keypoints"])
    stored = columns if labels == "persons" else {**columns, "keypoints": np.zeros_like(columns["keypoints"])}
    writer = cache.create_store(
        path, spec, provenance, stored, truth, frame, views, np.array([0, 1, 0][: 2 + turned], np.uint8)
    )

    def maps_of(points, image_to_input, mirrored):
        ordered = points[skeleton.flip_order] if mirrored else points
        at = transform_points(ordered, compose_affines(scale_affine(0.25), image_to_input))
        at[:, 0] += -shift if mirrored else shift
        return gaussian_heatmaps(at, np.ones(len(skeleton)), heatmap_size, 1.5)

    for k in writer.pending_shards():
        with writer.shard(k) as shard:
            for i in writer.shard_range(k):
                points = columns["keypoints"][i, :, :2]
                maps = np.stack(
                    [maps_of(points, compose_affines(views[i, v], frame[i]), v == 1) for v in range(2 + turned)]
                )
                _, jpeg = cv2.imencode(".jpg", picture(points, frame_size, frame[i]), [cv2.IMWRITE_JPEG_QUALITY, 95])
                shard.put(i, maps, jpeg.tobytes() if frames else None)
    writer.assemble()
    writer.publish(None)
    return cache.open_store(path)
