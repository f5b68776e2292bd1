"""Accuracy of the mean of several stored views over the crop alone: `python -m benchmarks.study.averaging`.

averaging.pck   PCK@0.05 of the teacher from the mean of the first V stored views, each warped into the plain crop;
                each pixel is the mean over the views that cover it. The peer is the crop alone
averaging.ap    the same for AP

View 0 is the official crop, view 1 its mirror, further views are rotated and scaled at random: `precompute --views V`.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.store.codec import bench_teacher
from benchmarks.support.alone import run_alone
from benchmarks.support.report import Line
from benchmarks.support.workspace import Precompute, Workspace
from cache import Store
from kdlib.geometry import compose_affines, invert_affine, scale_affine
from kdlib.metrics.evaluation import decode_to_image, evaluate_points
from kdlib.resample.maps import warp_heatmaps
from kdlib.skeletons.skeleton import COCO
from precompute.data.views import ViewPlan
from precompute.run.store import fill

VIEWS = (1, 2, 4, 8)
INSTANCES = 256


def run(workspace: Workspace) -> Iterator[Line]:
    """Yield the lines of every source of people."""
    for source in workspace.sources:
        store = _store(workspace, source)
        extra = {"source": source, "teacher": store.manifest["provenance"]["teacher"]["name"]}
        yield from lines(store, extra)


def lines(store: Store, extra: dict[str, Any]) -> Iterator[Line]:
    """Yield the lines of a store of at least max(VIEWS) views."""
    first: dict[str, float] = {}
    for views in VIEWS:
        metrics = _measure(store, views)
        for metric in ("ap", "pck@0.05"):
            peer = first.setdefault(metric, metrics[metric])
            name = metric.partition("@")[0]
            yield Line("averaging", name, metrics[metric], "%", len(store), "one view", peer, {**extra, "views": views})


def _store(workspace: Workspace, source: str) -> Store:
    teacher = bench_teacher(workspace, source)
    people = workspace.people(source, min(INSTANCES, workspace.effort.instances))
    precompute = Precompute.plan(people, teacher, views=ViewPlan(max(VIEWS), flip_test=False))
    writer = precompute.begin(workspace.folder / f"averaging-{source}.zarr")
    fill(precompute.job, writer)
    return writer.assemble()


def _measure(store: Store, views: int) -> dict[str, Any]:
    rows = np.flatnonzero(store.written)
    teacher = store.manifest["provenance"]["teacher"]
    stride = teacher["input_size"][0] / teacher["heatmap_size"][0]
    maps = np.stack([_averaged(store, int(row), views, stride) for row in rows])
    crop = compose_affines(store.view_affine[rows, 0], store.frame_affine[rows])
    points, scores = decode_to_image(maps, crop, stride)
    columns = {name: np.asarray(store.instances[name])[rows] for name in ("image_id", "bbox", "score", "keypoints")}
    return evaluate_points(store.ground_truth, columns, points, scores)


def _averaged(store: Store, row: int, views: int, stride: float) -> NDArray[np.float32]:
    """Average the first views in the plain crop, (K, h, w), each pixel over the views that cover it."""
    to_maps = compose_affines(scale_affine(1 / stride), store.view_affine[row])
    size = (store.spec.width, store.spec.height)
    total = np.zeros((size[1], size[0], store.spec.joints), np.float32)
    covered = np.zeros((size[1], size[0], 1), np.float32)
    for view in range(views):
        maps = store.heatmap(row, view)
        maps = (maps[COCO.flip_order] if store.view_flip[view] else maps).transpose(1, 2, 0)
        affine = compose_affines(to_maps[0], invert_affine(to_maps[view]))
        total += warp_heatmaps(maps, affine, size)
        covered += warp_heatmaps(np.ones((*maps.shape[:2], 1), np.float32), affine, size)
    return (total / covered).transpose(2, 0, 1)


if __name__ == "__main__":
    run_alone(run, __doc__)
