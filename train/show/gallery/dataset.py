"""Builds a FiftyOne dataset from a gallery.

The dataset has one field of keypoints for the labels and one per network, the labels as lines, ``boxes`` with every
network's OKS and PCK, and saved views ``worst persons: NAME`` (crops) and ``worst images: NAME``.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, Final

from train.errors import TrainError
from train.show import enough_labels
from train.show.gallery import GROUND_TRUTH
from train.show.gallery.read import Figure, Gallery, GalleryImage

COLOURS: Final = ("#ffd23f", "#c9cad0", "#a992f0", "#3fc79b", "#f07db5", "#86b8cc", "#f0917c")
"""The labels' colour, then the networks' as in the dark report; further networks start again with the second colour."""
MADE_BY: Final = "pose-teacher-cache"
"""Entry of the dataset's ``info`` that marks a dataset made by this project."""
LIMBS: Final = f"{GROUND_TRUTH}_limbs"
"""Field of the labels as lines: lines do not hide predicted joints, and the App cannot crop to keypoints with NaN."""


def build(fo: Any, gallery: Gallery) -> Any:
    """Build the FiftyOne dataset; it replaces an earlier one of the same store.

    Args:
        fo: The module ``fiftyone``.
        gallery: The gallery to show.

    Raises:
        TrainError: If another program made a dataset of that name.
    """
    name = f"pose-{gallery.name}"
    if fo.dataset_exists(name) and fo.load_dataset(name).info.get("made_by") != MADE_BY:
        raise TrainError(f"FiftyOne has a dataset {name!r} that another program made; rename or delete it first")
    dataset = fo.Dataset(name, overwrite=True, persistent=True)
    dataset.info["made_by"] = MADE_BY
    dataset.default_skeleton = fo.KeypointSkeleton(labels=gallery.joints, edges=gallery.limbs)
    dataset.app_config.color_scheme = _colours(fo, gallery)
    least = enough_labels(len(gallery.joints))
    similarities = {
        name: [oks for p in gallery.images for oks in _similarities(p, name, least)] for name in gallery.networks
    }
    if hasattr(fo, "ActiveFields"):  # older Apps show all fields
        dataset.app_config.active_fields = fo.ActiveFields(paths=[LIMBS, *_best_student(similarities)])
    dataset.add_samples([_sample(fo, image, gallery) for image in gallery.images], progress=False)
    dataset.add_dynamic_sample_fields()
    for network in filter(similarities.get, gallery.networks):
        _save_worst(fo, dataset, network, least)
    dataset.save()
    return dataset


def _colours(fo: Any, gallery: Gallery) -> Any:
    networks = [COLOURS[1 + i % (len(COLOURS) - 1)] for i in range(len(gallery.networks))]
    named = zip((GROUND_TRUTH, LIMBS, *gallery.networks), (COLOURS[0], COLOURS[0], *networks), strict=True)
    fields = [{"path": name, "fieldColor": colour} for name, colour in named]
    return fo.ColorScheme(color_by="field", fields=fields, show_skeletons=True, multicolor_keypoints=False)


def _best_student(similarities: Mapping[str, Sequence[float]]) -> list[str]:
    """The student with the highest mean OKS, in a list, which is empty without students."""
    students = {fmean(known): name for name, known in similarities.items() if name != "teacher" and known}
    return [students[max(students)]] if students else []


def _similarities(image: GalleryImage, network: str, least: int) -> list[float]:
    """OKS of the image's persons with at least so many labels."""
    persons = [figure.attributes for figure in image.figures[network]]
    return [p["oks"] for p in persons if p["oks"] is not None and p["labelled"] >= least]


def _sample(fo: Any, image: GalleryImage, gallery: Gallery) -> Any:
    sample = fo.Sample(filepath=str(image.path), metadata=fo.ImageMetadata(width=image.width, height=image.height))
    for name, figures in image.figures.items():
        sample[name] = fo.Keypoints(
            keypoints=[fo.Keypoint(label=gallery.label, points=f.points, **f.attributes) for f in figures]
        )
    for name in gallery.networks:
        known = _similarities(image, name, enough_labels(len(gallery.joints)))
        if known:
            sample[f"worst_oks_{name}"] = min(known)
    sample[LIMBS] = fo.Polylines(polylines=[_limbs(fo, f, gallery) for f in image.figures[GROUND_TRUTH]])
    detections = [fo.Detection(label=gallery.label, bounding_box=box, **attributes) for box, attributes in image.boxes]
    sample["boxes"] = fo.Detections(detections=detections)
    return sample


def _limbs(fo: Any, figure: Figure, gallery: Gallery) -> Any:
    """The labelled joints and the limbs between them; a joint without a limb is a line of one point."""
    labelled = {joint for joint, (x, _) in enumerate(figure.points) if not math.isnan(x)}
    limbs = [limb for limb in gallery.limbs if labelled.issuperset(limb)]
    alone = [[joint] for joint in sorted(labelled.difference(*limbs))]
    lines = [[figure.points[joint] for joint in line] for line in (*limbs, *alone)]
    return fo.Polyline(label=gallery.label, points=lines, annotation_id=figure.attributes["annotation_id"])


def _save_worst(fo: Any, dataset: Any, network: str, least: int) -> None:
    """Save views from a network's worst person or image to its best, without persons who have too few labels.

    The App enlarges a crop to everything that is drawn in it, so a crop gets the joints of its own person only.
    """
    field = fo.ViewField
    oks = f"boxes.oks_{network}"
    crops = dataset.to_patches("boxes", other_fields=[LIMBS, network]).exists(oks)
    crops = crops.match(field("boxes.labelled") >= least)
    for joints in (LIMBS, network):
        crops = crops.filter_labels(joints, field("annotation_id") == field("$boxes.annotation_id"), only_matches=False)
    dataset.save_view(f"worst persons: {network}", crops.sort_by(oks))
    images = dataset.exists(f"worst_oks_{network}").sort_by(f"worst_oks_{network}")
    dataset.save_view(f"worst images: {network}", images)
