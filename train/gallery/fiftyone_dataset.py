"""A gallery as a FiftyOne dataset.

It has a field of keypoints for the labels and for each network, ``boxes`` with every network's OKS and PCK, and saved
views ``worst persons: NAME`` (crops) and ``worst images: NAME``.
"""

from typing import Any

from train.errors import TrainError
from train.gallery import GROUND_TRUTH
from train.gallery.read import Gallery, Picture

COLOURS = ("#ffd23f", "#c9cad0", "#a992f0", "#3fc79b", "#f07db5", "#86b8cc", "#f0917c")
"""The labels', then the networks' as the dark report has them; further ones begin anew after the labels'."""
MADE_BY = "pose-teacher-cache"


def build(fo: Any, gallery: Gallery) -> Any:
    """The FiftyOne dataset; one of the same store made before is replaced.

    Args:
        fo: The module ``fiftyone``.
        gallery: What to show.

    Raises:
        TrainError: If a dataset of that name was made by somebody else.
    """
    name = f"pose-{gallery.name}"
    if fo.dataset_exists(name) and fo.load_dataset(name).info.get("made_by") != MADE_BY:
        raise TrainError(f"FiftyOne has a dataset {name!r} that was not made here; rename or delete it first")
    dataset = fo.Dataset(name, overwrite=True, persistent=True)
    dataset.info["made_by"] = MADE_BY
    dataset.default_skeleton = fo.KeypointSkeleton(labels=gallery.joints, edges=gallery.limbs)
    dataset.app_config.color_scheme = _colours(fo, gallery)
    dataset.add_samples([_sample(fo, picture) for picture in gallery.pictures], progress=False)
    dataset.add_dynamic_sample_fields()
    for network in gallery.networks:
        _save_worst(dataset, network)
    dataset.save()
    return dataset


def _colours(fo: Any, gallery: Gallery) -> Any:
    networks = [COLOURS[1 + i % (len(COLOURS) - 1)] for i in range(len(gallery.networks))]
    named = zip((GROUND_TRUTH, *gallery.networks), (COLOURS[0], *networks), strict=True)
    fields = [{"path": name, "fieldColor": colour} for name, colour in named]
    return fo.ColorScheme(color_by="field", fields=fields, show_skeletons=True, multicolor_keypoints=False)


def _sample(fo: Any, picture: Picture) -> Any:
    sample = fo.Sample(
        filepath=str(picture.path), metadata=fo.ImageMetadata(width=picture.width, height=picture.height)
    )
    for name, figures in picture.figures.items():
        sample[name] = fo.Keypoints(
            keypoints=[fo.Keypoint(label="person", points=f.points, **f.attributes) for f in figures]
        )
        known = [f.attributes["oks"] for f in figures if f.attributes.get("oks") is not None]
        if known:
            sample[f"worst_oks_{name}"] = min(known)
    detections = [fo.Detection(label="person", bounding_box=box, **attributes) for box, attributes in picture.boxes]
    sample["boxes"] = fo.Detections(detections=detections)
    return sample


def _save_worst(dataset: Any, network: str) -> None:
    """Views that go from a network's worst person or image to its best.

    Crops come without skeletons: the App stretches a crop over the points of the whole image, and shows nothing at all
    where one of them is NaN (seen with FiftyOne 1.22).
    """
    field = f"boxes.oks_{network}"
    crops = dataset.to_patches("boxes").exists(field).sort_by(field)
    dataset.save_view(f"worst persons: {network}", crops)
    images = dataset.exists(f"worst_oks_{network}").sort_by(f"worst_oks_{network}")
    dataset.save_view(f"worst images: {network}", images)
