"""The sample's files in COCO's layout, written to a temporary folder that is renamed when it is complete.

    OUT/images/000000000001.jpg ...
    OUT/annotations/person_keypoints_train.json, person_keypoints_val.json
    OUT/annotations/person_keypoints_few.json       the train split with few labels, see `write_few`
    OUT/annotations/small_train.json, small_val.json        the same people with 8 joints, in another order
    OUT/sample.json                 version of the generator, seed, numbers of images

Image i of a split depends only on (seed, split, i), not on the number of images or worker processes. A larger sample
with the same seed therefore begins with the smaller one. Pixels are equal on one machine; another OpenCV or libjpeg may
differ in the last bits.
"""

import json
import signal
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cache.format.manifest import differences
from kdcli import system
from kdcli.files import replacing
from kdcli.progress import Progress, no_progress
from kdlib.skeletons.skeleton import COCO, Skeleton
from precompute.sample.drawing.scene import draw_scene
from precompute.sample.labels import LabelNoise, annotate
from precompute.sample.photo import encode, photograph
from precompute.sample.spec import GENERATOR, SampleSpec

FIRST_ID = {"train": 1, "val": 1_000_001}
"""COCO image id of the first image of each split."""

FEW = "few"
"""Name of the split with few labels."""
MARKER = "sample.json"

SMALL = COCO.select([10, 9, 6, 5, 12, 11, 15, 16], "small")
"""The sample's second skeleton: right and left wrist, shoulder and hip, then left and right ankle."""


class SampleError(ValueError):
    """A sample cannot be written; the message says what to do."""


@dataclass(frozen=True)
class SampleImage:
    """One image: its JPEG bytes and its entries in the annotation file."""

    data: bytes
    image: dict[str, Any]
    annotations: list[dict[str, Any]]


def make_image(spec: SampleSpec, split: str, index: int) -> SampleImage:
    """Draw image `index` of a split, with its labels."""
    streams = np.random.SeedSequence((spec.seed, FIRST_ID[split], index)).spawn(3)
    drawing, camera, annotators = (np.random.default_rng(stream) for stream in streams)
    scene = draw_scene(drawing)
    data = encode(camera, photograph(camera, scene.colour))
    image_id = FIRST_ID[split] + index
    height, width = scene.colour.shape[:2]
    image = {"id": image_id, "file_name": f"{image_id:012d}.jpg", "width": width, "height": height, "license": 1}
    noise = LabelNoise() if split == "train" and not spec.clean_train else None
    return SampleImage(data, image, annotate(scene, image_id, annotators, noise))


def write_sample(
    out: Path, spec: SampleSpec, *, workers: int = 1, overwrite: bool = False, progress: Progress = no_progress
) -> bool:
    """Write a sample to a folder, unless the same sample is there already.

    Args:
        out: The folder to create.
        spec: Parameters of the sample.
        workers: Number of processes; 1 uses this process.
        overwrite: Replace another sample. Folders that are not samples are never replaced.
        progress: Called with (images done, total images) after every image.

    Returns:
        Whether anything was written.

    Raises:
        SampleError: If `out` holds something else, or a number is out of range.
    """
    _check(spec, workers)
    if _is_written(out, spec, overwrite):
        _write_small(out)
        return False
    out.parent.mkdir(parents=True, exist_ok=True)
    with _replacing_folder(out) as folder:
        _fill(folder, spec, workers, progress)
    return True


def write_few(out: Path, count: int) -> tuple[int, int]:
    """Write the split ``few``: the train split, of which only the first persons keep their keypoints.

    The other persons keep their boxes. The images are those of the train split. Repeating the call changes nothing.

    Args:
        out: The folder of a sample.
        count: Number of persons that keep their keypoints, in the order of the annotation file.

    Returns:
        The numbers of persons with keypoints and of all persons, without crowds.

    Raises:
        SampleError: If fewer persons have keypoints.
    """
    folder = out / "annotations"
    document = json.loads((folder / "person_keypoints_train.json").read_bytes())
    persons = [annotation for annotation in document["annotations"] if not annotation["iscrowd"]]
    labelled = [annotation for annotation in persons if annotation["num_keypoints"]]
    if not 0 < count <= len(labelled):
        raise SampleError(f"--few takes 1 to {len(labelled)}, the persons with keypoints in {out}, got {count}")
    for annotation in labelled[count:]:
        annotation["num_keypoints"] = 0
        del annotation["keypoints"]
    document["info"] |= {"split": FEW, "labelled_persons": count}
    with replacing(folder / f"person_keypoints_{FEW}.json") as file:
        file.write_text(json.dumps(document), encoding="utf-8")
    return count, len(persons)


def _check(spec: SampleSpec, workers: int) -> None:
    limit = FIRST_ID["val"] - FIRST_ID["train"]
    if not (0 < spec.train <= limit and 0 < spec.val <= limit):
        raise SampleError(f"a sample has 1 to {limit} images per split, got {spec.train} train and {spec.val} val")
    if spec.seed < 0 or workers < 1:
        raise SampleError(f"seed must be at least 0 and workers at least 1, got {spec.seed} and {workers}")


def _is_written(out: Path, spec: SampleSpec, overwrite: bool) -> bool:
    """Whether the sample exists already. Raises SampleError if `out` holds something else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    found = read_marker(out)
    if found is None:
        raise SampleError(f"{out} exists and is not a sample (it has no {MARKER}); choose another folder")
    if found == spec.marker():
        return True
    if not overwrite:
        raise SampleError(
            f"{out} holds another sample ({', '.join(differences(found, spec.marker()))}); replace it with --overwrite"
        )
    return False


def read_marker(folder: Path) -> dict[str, Any] | None:
    """Read the parameters of a folder's sample; None if it holds no sample."""
    try:
        found = json.loads((folder / MARKER).read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "generator" in found else None


@contextmanager
def _replacing_folder(out: Path) -> Iterator[Path]:
    """Yield a new folder that replaces `out` at the end of the block, and is deleted if the block raises."""
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        yield folder
        folder.chmod(0o755)
        _put_in_place(folder, out)
    finally:
        system.discard_tree(folder)


def _put_in_place(folder: Path, out: Path) -> None:
    """Rename a folder to `out`. An existing `out` is deleted after that."""
    if not out.exists():
        system.replace(folder, out)
        return
    old = folder.with_name(folder.name + ".old")
    system.replace(out, old)
    try:
        system.replace(folder, out)
    except BaseException:
        system.replace(old, out)
        raise
    system.remove_tree(old)


def _fill(folder: Path, spec: SampleSpec, workers: int, progress: Progress) -> None:
    (folder / "images").mkdir()
    (folder / "annotations").mkdir()
    done, total = 0, spec.train + spec.val
    with _mapper(workers) as run:
        for split, count in (("train", spec.train), ("val", spec.val)):
            images, annotations = [], []
            for made in run(partial(make_image, spec, split), range(count)):
                (folder / "images" / made.image["file_name"]).write_bytes(made.data)
                images.append(made.image)
                annotations += made.annotations
                done += 1
                progress(done, total)
            document = _document(spec, split, images, annotations)
            file = folder / "annotations" / f"person_keypoints_{split}.json"
            file.write_text(json.dumps(document), encoding="utf-8")
    _write_small(folder)
    (folder / MARKER).write_text(json.dumps(spec.marker(), indent=2) + "\n", encoding="utf-8", newline="\n")


def _write_small(folder: Path) -> None:
    """Write the annotations with the second skeleton, where they are missing: older samples have none."""
    for split in FIRST_ID:
        target = folder / f"annotations/small_{split}.json"
        if not target.exists():
            document = json.loads((folder / f"annotations/person_keypoints_{split}.json").read_bytes())
            with replacing(target) as temporary:
                temporary.write_text(json.dumps(with_joints(document, SMALL)), encoding="utf-8")


def with_joints(document: dict[str, Any], skeleton: Skeleton) -> dict[str, Any]:
    """Some of the joints of a COCO annotation file, in another order.

    Args:
        document: The file. Its annotations have COCO's 17 joints.
        skeleton: Joints of COCO.
    """
    numbers = [COCO.joints.index(joint) for joint in skeleton.joints]

    def cut(annotation: dict[str, Any]) -> dict[str, Any]:
        joints = [annotation["keypoints"][3 * number : 3 * number + 3] for number in numbers]
        labelled = sum(joint[2] > 0 for joint in joints)
        return {**annotation, "keypoints": [n for joint in joints for n in joint], "num_keypoints": labelled}

    category = {
        **document["categories"][0],
        "keypoints": list(skeleton.joints),
        "skeleton": [[a + 1, b + 1] for a, b in skeleton.limbs],
    }
    return {**document, "annotations": list(map(cut, document["annotations"])), "categories": [category]}


@contextmanager
def _mapper(workers: int) -> Iterator[Callable[..., Iterator[SampleImage]]]:
    """Yield a `map` that uses worker processes and keeps the order; Python's own for a single worker."""
    if workers == 1:
        yield map
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_start_worker) as pool:
        try:
            yield partial(pool.map, chunksize=8)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _start_worker() -> None:
    """Use one thread per process, and leave Ctrl-C to the parent process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)


def _document(
    spec: SampleSpec, split: str, images: list[dict[str, Any]], annotations: list[dict[str, Any]]
) -> dict[str, Any]:
    """Build the content of a COCO annotation file."""
    return {
        "info": {
            "description": "Drawn people with COCO-17 keypoints: a sample to try the machinery on, not human data",
            "version": str(GENERATOR),
            "split": split,
            "seed": spec.seed,
            "clean_train": spec.clean_train,
        },
        "licenses": [{"id": 1, "name": "Apache License 2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"}],
        "images": images,
        "annotations": annotations,
        "categories": [
            {
                "id": 1,
                "name": "person",
                "supercategory": "person",
                "keypoints": list(COCO.joints),
                "skeleton": [[a + 1, b + 1] for a, b in COCO.limbs],
            }
        ],
    }
