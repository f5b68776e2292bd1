"""The persons of a report: one card per person, with the labels and the predictions of every network."""

import dataclasses
from typing import Final, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from cache import Store
from kdlib.geometry import compose_affines, invert_affine, scale_affine, transform_points
from kdlib.heatmaps import flip_average
from kdlib.resample.exact import warp_image
from kdlib.samples.dataset import store_skeleton
from kdlib.samples.pixels import decode, image_pixels
from train.evaluate import student_loader
from train.show import enough_labels
from train.show.report.evidence import Evidence, Subject, Trained
from train.show.report.markup import Markup, compact, element, fixed
from train.show.report.overlays import data_uri, draw_skeleton, heat_layer, panel

SHOWN: Final = 10
"""Number of persons spread over the ranking."""
WORST: Final = 12
"""Number of persons from the end of the ranking."""
JPEG_QUALITY: Final = 85
"""Quality of frames cut from the original images, for a store without frames."""


def choose(evidence: Evidence, ranked: Subject, count: int = SHOWN) -> NDArray[np.int64]:
    """Choose persons evenly spaced over a network's ranking by OKS, from the worst to the best.

    If no person has enough labels for a ranking, the persons are evenly spaced over the store.

    Args:
        evidence: The measurements.
        ranked: The network.
        count: Number of persons; fewer if there are fewer.

    Returns:
        Indices into ``predictions.rows``.
    """
    order = worst_first(evidence, ranked)
    if not len(order):
        order = np.arange(len(ranked.predictions.rows))
    return order[np.unique(np.linspace(0, len(order) - 1, count).round().astype(np.int64))]


def worst_first(evidence: Evidence, ranked: Subject) -> NDArray[np.int64]:
    """Sort the persons with enough labels by a network's OKS, the worst first; indices into ``predictions.rows``."""
    labelled = evidence.store.instances["keypoints"][ranked.predictions.rows][..., 2] > 0
    (eligible,) = np.nonzero(labelled.sum(axis=1) >= enough_labels(labelled.shape[1]))
    return eligible[np.argsort(ranked.oks[eligible], kind="stable")]


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A network's heatmaps of the n chosen persons."""

    subject: Subject
    series: str
    heatmaps: NDArray[np.float32]
    """(n, K, H, W), on the scale where a label's Gaussian peaks at 1."""
    to_image: NDArray[np.float64]
    """(n, 2, 3) affines from heatmap to image pixels."""


def cards(evidence: Evidence, places: NDArray[np.int64], series: list[str]) -> dict[int, Markup]:
    """Build one card per person. The cards refer to the `frames` of the same places, which the page must also hold.

    Args:
        evidence: The measurements.
        places: Indices into ``predictions.rows``.
        series: CSS class of the teacher and of each student.

    Returns:
        Cards by place.
    """
    rows = evidence.teacher.predictions.rows[places]
    drawn = [_teacher(evidence, rows, series[0])]
    drawn += [_student(evidence, s, rows, name) for s, name in zip(evidence.students, series[1:], strict=True)]
    return {int(place): _card(evidence, drawn, i, int(place)) for i, place in enumerate(places)}


def frames(evidence: Evidence, places: NDArray[np.int64]) -> Markup:
    """Embed the frame of each person once, invisibly; the pictures of the cards refer to it."""
    images = (_frame(evidence, int(evidence.teacher.predictions.rows[place])) for place in places)
    return element("svg", *images, class_="unseen", aria_hidden="true")


def _teacher(evidence: Evidence, rows: NDArray[np.int64], series: str) -> Drawn:
    """Stored view 0, averaged with its mirror if that is stored; the teacher's points are decoded from the same."""
    store, about = evidence.store, evidence.store.manifest["provenance"]["teacher"]
    maps = store.heatmaps(rows)
    mirrored = len(store.view_flip) > 1 and bool(store.view_flip[1])
    order = store_skeleton(store).flip_order
    averaged = flip_average(maps[:, 0], maps[:, 1], order) if mirrored else maps[:, 0]
    affines = compose_affines(store.view_affine[rows, 0], store.frame_affine[rows])
    stride = about["input_size"][0] / about["heatmap_size"][0]
    return Drawn(evidence.teacher, series, averaged, _to_image(affines, stride))


def _student(evidence: Evidence, trained: Trained, rows: NDArray[np.int64], series: str) -> Drawn:
    size = trained.student.input_size
    dataset = student_loader(evidence.store, size, 1, torch.device("cpu"), evidence.images).dataset
    batch = dataset.empty_batch(len(rows))
    dataset.fill(batch, np.arange(len(rows)), rows, epoch=0)
    maps = trained.student.heatmaps(batch["image"])
    return Drawn(trained, series, maps, _to_image(batch["affine"], trained.student.model.stride))


def _to_image(affines: NDArray[np.float64], stride: float) -> NDArray[np.float64]:
    return invert_affine(compose_affines(scale_affine(1 / stride), affines))


class Window(NamedTuple):
    """The part of a frame that is shown: the teacher's crop, in SVG units."""

    left: float
    top: float
    width: float
    height: float

    @property
    def view_box(self) -> str:
        """The window in the syntax of SVG."""
        return " ".join(map(compact, self))

    @property
    def limb(self) -> float:
        """Thickness of a limb in SVG units."""
        return self.width / 62


def _window(store: Store, row: int) -> Window:
    width, height = store.manifest["provenance"]["teacher"]["input_size"]
    corners = np.array([[-0.5, -0.5], [width - 0.5, height - 0.5]])
    (left, top), (right, bottom) = transform_points(corners, invert_affine(store.view_affine[row, 0])) + 0.5
    return Window(left, top, right - left, bottom - top)


def _card(evidence: Evidence, drawn: list[Drawn], number: int, place: int) -> Markup:
    store, row = evidence.store, int(evidence.teacher.predictions.rows[place])
    title = element(
        "h3",
        element("span", f"annotation {store.instances['annotation_id'][row]}"),
        element("small", store.instances["file_name"][row]),
    )
    pictures = [_ground_truth(evidence, row)]
    pictures += [_prediction(store, one, number, place) for one in drawn]
    return element("article", title, element("div", *pictures, class_="panels"), class_="person")


def _frame(evidence: Evidence, row: int) -> Markup:
    jpeg = _jpeg(evidence, row)
    height, width = decode(jpeg).shape[:2]
    return element("image", id=_name(row), width=width, height=height, href=data_uri(jpeg, "jpeg"))


def _ground_truth(evidence: Evidence, row: int) -> Markup:
    store, window = evidence.store, _window(evidence.store, row)
    keypoints = store.instances["keypoints"][row]
    labelled = keypoints[:, 2] > 0
    points = transform_points(keypoints[:, :2], store.frame_affine[row])
    lines = draw_skeleton(points, labelled, labelled, window.limb, store_skeleton(evidence.store))
    return element(
        "figure",
        panel([_reference(row), lines], window.view_box, "labels"),
        panel([_reference(row)], window.view_box, "frame"),
        element("figcaption", element("b", "labels"), element("span", f"{labelled.sum()} of {len(labelled)} joints")),
    )


def _prediction(store: Store, drawn: Drawn, number: int, place: int) -> Markup:
    subject = drawn.subject
    row = int(subject.predictions.rows[place])
    window, to_frame = _window(store, row), store.frame_affine[row]
    labelled = store.instances["keypoints"][row][:, 2] > 0
    points = transform_points(subject.predictions.points[place], to_frame)
    skeleton = store_skeleton(store)
    lines = draw_skeleton(points, labelled, np.ones_like(labelled), window.limb, skeleton)
    heat = heat_layer(drawn.heatmaps[number], compose_affines(to_frame, drawn.to_image[number]), skeleton)
    shade = element("rect", x=window.left, y=window.top, width="100%", height="100%", class_="shade")
    return element(
        "figure",
        panel([_reference(row), lines], window.view_box, f"{subject.name}: joints"),
        panel([_reference(row), shade, heat], window.view_box, f"{subject.name}: heatmaps"),
        element(
            "figcaption",
            element("b", subject.name, class_=f"series {drawn.series}"),
            element("span", f"OKS {fixed(float(subject.oks[place]), 2)}"),
        ),
    )


def _name(row: int) -> str:
    return f"frame-{row}"


def _reference(row: int) -> Markup:
    """A reference to the frame that `frames` embeds."""
    return element("use", href=f"#{_name(row)}")


def _jpeg(evidence: Evidence, row: int) -> bytes:
    """The stored frame unchanged, or one cut from the original image if the store holds no frames."""
    store = evidence.store
    if evidence.images is None:
        return bytes(store.frame(row))
    image = cv2.cvtColor(image_pixels(store, row, evidence.images), cv2.COLOR_RGBA2BGR)
    size = store.manifest["provenance"]["preprocessing"]["frame_size"]
    frame = warp_image(np.asarray(image, np.uint8), store.frame_affine[row], (size[0], size[1]))
    return cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
