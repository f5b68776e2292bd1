"""Persons chosen over the whole range of success, each with its labels and with what every network says."""

import dataclasses
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from kdlib.geometry import Affine, compose_affines, invert_affine, scale_affine, transform_points
from kdlib.heatmaps import flip_average
from kdlib.images import normalise_images
from kdlib.warp import crop_image
from train.dataset import as_tensors
from train.errors import TrainError
from train.evaluate import student_loader
from train.report.evidence import Evidence, Subject, Trained
from train.report.markup import Markup, element, join
from train.report.numbers import fixed, has_value
from train.report.overlays import data_uri, heat_layer, panel, skeleton
from train.students import STRIDE

SHOWN = 10
JPEG_QUALITY = 85
"""Of frames cut from the original images, for a store that holds none."""


def choose(scores: NDArray[np.floating], count: int = SHOWN) -> NDArray[np.int64]:
    """Places of persons evenly spaced over the ranking by score, the worst first and the best last.

    Args:
        scores: (N,) OKS; persons without a value are not ranked.
        count: How many; fewer where there are not as many.
    """
    order = np.argsort(scores, kind="stable")[: np.count_nonzero(~np.isnan(scores))]
    if not len(order):
        return order
    return order[np.unique(np.linspace(0, len(order) - 1, count).round().astype(np.int64))]


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A network's maps of the chosen persons."""

    subject: Subject
    series: str
    maps: NDArray[np.float32]
    """(n, K, h, w) heatmaps of height about 1."""
    to_image: NDArray[np.float64]
    """(n, 2, 3) heatmap to image pixels."""


def people(evidence: Evidence, places: NDArray[np.int64], series: list[str]) -> Markup:
    """A card for each place in the ranking's predictions.

    Args:
        evidence: What was measured.
        places: Indices into ``predictions.rows``.
        series: CSS class of the teacher and of each student.
    """
    rows = evidence.teacher.predictions.rows[places]
    drawn = [_teacher(evidence, rows, series[0])]
    drawn += [_student(evidence, s, rows, name) for s, name in zip(evidence.students, series[1:], strict=True)]
    return join(_card(evidence, drawn, number, int(place)) for number, place in enumerate(places))


def _teacher(evidence: Evidence, rows: NDArray[np.int64], series: str) -> Drawn:
    """View 0, averaged with its mirror where the store has it: what its points were decoded from."""
    store, about = evidence.store, evidence.store.manifest["provenance"]["teacher"]
    maps = store.heatmaps(rows)
    mirrored = len(store.view_flip) > 1 and bool(store.view_flip[1])
    seen = flip_average(maps[:, 0], maps[:, 1]) if mirrored else maps[:, 0]
    affines = compose_affines(store.view_affine[rows, 0], store.frame_affine[rows])
    stride = about["input_size"][0] / about["heatmap_size"][0]
    return Drawn(evidence.teacher, series, seen, _to_image(affines, stride))


@torch.inference_mode()
def _student(evidence: Evidence, trained: Trained, rows: NDArray[np.int64], series: str) -> Drawn:
    size = trained.student.input_size
    dataset = student_loader(evidence.store, size, 1, torch.device("cpu"), evidence.images).dataset
    batch = dataset.empty_batch(len(rows))
    for slot, row in enumerate(rows):
        dataset.fill(batch, slot, int(row), epoch=0)
    said = trained.student.model(normalise_images(as_tensors(batch)["image"]))
    maps = trained.student.supervision.heatmaps(said).numpy()
    return Drawn(trained, series, maps, _to_image(batch["affine"], STRIDE))


def _to_image(affines: NDArray[np.float64], stride: float) -> NDArray[np.float64]:
    return invert_affine(compose_affines(scale_affine(1 / stride), affines))


def _card(evidence: Evidence, drawn: list[Drawn], number: int, place: int) -> Markup:
    store, row = evidence.store, int(evidence.teacher.predictions.rows[place])
    title = element(
        "h3",
        element("span", number + 1, class_="badge"),
        f"annotation {store.instances['annotation_id'][row]}",
        element("small", f" in {store.instances['file_name'][row]}"),
    )
    box = _view_box(store, row)
    name = f"frame-{row}"
    pictures = [_ground_truth(evidence, row, box, name)]
    pictures += [_prediction(evidence, one, number, place, box) for one in drawn]
    return element("article", title, element("div", *pictures, class_="panels"), class_="person")


def _ground_truth(evidence: Evidence, row: int, box: str, name: str) -> Markup:
    store = evidence.store
    width, height = store.manifest["provenance"]["preprocessing"]["frame_size"]
    frame = element("image", id=name, width=width, height=height, href=data_uri(_jpeg(evidence, row), "jpeg"))
    keypoints = store.instances["keypoints"][row]
    labelled = keypoints[:, 2] > 0
    points = transform_points(keypoints[:, :2], store.frame_affine[row])
    lines = skeleton(points, labelled, labelled, _thickness(box))
    return element(
        "figure",
        panel([frame, lines], box, "ground truth"),
        panel([_again(name)], box, "frame"),
        element("figcaption", element("b", "labels"), element("span", f"{labelled.sum()} of {len(labelled)}")),
    )


def _prediction(evidence: Evidence, drawn: Drawn, number: int, place: int, box: str) -> Markup:
    store, subject = evidence.store, drawn.subject
    row = int(subject.predictions.rows[place])
    labelled = store.instances["keypoints"][row][:, 2] > 0
    points = transform_points(subject.predictions.points[place], store.frame_affine[row])
    lines = skeleton(points, labelled, np.ones_like(labelled), _thickness(box))
    heat = heat_layer(drawn.maps[number], compose_affines(store.frame_affine[row], drawn.to_image[number]))
    shade = element("rect", width="100%", height="100%", x=box.split()[0], y=box.split()[1], class_="shade")
    name, score = f"frame-{row}", subject.oks[place]
    return element(
        "figure",
        panel([_again(name), lines], box, f"{subject.name}: joints"),
        panel([_again(name), shade, heat], box, f"{subject.name}: heatmaps"),
        element(
            "figcaption",
            element("b", subject.name, class_=f"series {drawn.series}"),
            element("span", f"OKS {fixed(float(score), 2)}" if has_value(float(score)) else "no OKS"),
        ),
    )


def _again(name: str) -> Markup:
    """The frame that another picture of the page holds."""
    return element("use", href=f"#{name}")


def _view_box(store: Any, row: int) -> str:
    """The teacher's crop within the frame, as SVG's view box."""
    width, height = store.manifest["provenance"]["teacher"]["input_size"]
    corners = np.array([[-0.5, -0.5], [width - 0.5, height - 0.5]])
    (left, top), (right, bottom) = transform_points(corners, invert_affine(store.view_affine[row, 0])) + 0.5
    return f"{left:.2f} {top:.2f} {right - left:.2f} {bottom - top:.2f}"


def _thickness(box: str) -> float:
    return float(box.split()[2]) / 62


def _jpeg(evidence: Evidence, row: int) -> bytes:
    """The stored frame as it is, or one cut from the original image where the store holds none."""
    store = evidence.store
    if evidence.images is None:
        return bytes(store.frame(row))
    path = evidence.images / store.instances["file_name"][row]
    image = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise TrainError(f"row {row} of {store.path}: {path} is missing or is no image")
    affine: Affine = store.frame_affine[row]
    frame = crop_image(image, affine, tuple(store.manifest["provenance"]["preprocessing"]["frame_size"]))
    return cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
