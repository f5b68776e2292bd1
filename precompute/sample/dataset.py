"""The sample as files: COCO's layout, written beside and renamed when whole.

    OUT/images/000000000001.jpg ...
    OUT/annotations/person_keypoints_train.json, person_keypoints_val.json
    OUT/sample.json                 what it is: generator's version, seed, counts

Picture i of a split depends on (seed, split, i) alone: not on how many pictures or worker processes there are, so a
larger sample of the same seed begins with the smaller one. Pixels are equal on one machine; another OpenCV or libjpeg
may differ in the last bits.
"""

import json
import os
import shutil
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

from kdlib.skeleton import JOINTS, LIMBS
from precompute.sample.drawing.scene import draw_scene
from precompute.sample.labels import Carelessness, annotate
from precompute.sample.photo import encode, photograph
from precompute.sample.spec import GENERATOR, SampleSpec

FIRST_ID = {"train": 1, "val": 1_000_001}
"""Image id of each split's first picture."""

MARKER = "sample.json"


class SampleError(ValueError):
    """A sample that cannot be written as asked; the message says what to do."""


@dataclass(frozen=True)
class Picture:
    """One picture as it goes to disk: JPEG bytes and its entries in the annotation file."""

    data: bytes
    image: dict[str, Any]
    annotations: list[dict[str, Any]]


Progress = Callable[[int, int], None]
"""Told (pictures done, pictures in all) after every picture."""


def make_picture(spec: SampleSpec, split: str, index: int) -> Picture:
    """Picture `index` of a split, with its labels."""
    streams = np.random.SeedSequence((spec.seed, FIRST_ID[split], index)).spawn(3)
    drawing, camera, annotators = (np.random.default_rng(stream) for stream in streams)
    scene = draw_scene(drawing)
    data = encode(camera, photograph(camera, scene.colour))
    image_id = FIRST_ID[split] + index
    height, width = scene.colour.shape[:2]
    image = {"id": image_id, "file_name": f"{image_id:012d}.jpg", "width": width, "height": height, "license": 1}
    careless = Carelessness() if split == "train" and not spec.clean_train else None
    return Picture(data, image, annotate(scene, image_id, annotators, careless))


def write_sample(
    out: Path, spec: SampleSpec, *, workers: int = 1, overwrite: bool = False, progress: Progress | None = None
) -> bool:
    """Write a sample to a folder, unless the very same sample is there already.

    Args:
        out: The folder to make.
        spec: Which sample.
        workers: Processes; 1 works in this one.
        overwrite: Replace another sample. Anything that is no sample of ours is never touched.
        progress: Called after every picture.

    Returns:
        Whether anything was written.

    Raises:
        SampleError: If `out` holds something else, or the numbers make no sense.
    """
    _check(spec, workers)
    if _occupied(out, spec, overwrite):
        return False
    out.parent.mkdir(parents=True, exist_ok=True)
    with _written_beside(out) as folder:
        _fill(folder, spec, workers, progress or (lambda done, total: None))
    return True


def _check(spec: SampleSpec, workers: int) -> None:
    limit = FIRST_ID["val"] - FIRST_ID["train"]
    if not (0 < spec.train <= limit and 0 < spec.val <= limit):
        raise SampleError(f"a sample needs 1..{limit} pictures a split, got {spec.train} train and {spec.val} val")
    if spec.seed < 0 or workers < 1:
        raise SampleError(f"seed must be at least 0 and workers at least 1, got {spec.seed} and {workers}")


def _occupied(out: Path, spec: SampleSpec, overwrite: bool) -> bool:
    """Whether the sample asked for is there already; SampleError if something else is in the way."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    found = read_marker(out)
    if found is None:
        raise SampleError(f"{out} exists and is no sample of ours (it has no {MARKER}); choose another folder")
    if found == spec.marker():
        return True
    if not overwrite:
        raise SampleError(f"{out} holds another sample ({_differences(found, spec.marker())}); use --overwrite")
    return False


def _differences(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    return ", ".join(f"{key}: {found.get(key)}, asked {wanted[key]}" for key in wanted if found.get(key) != wanted[key])


def read_marker(folder: Path) -> dict[str, Any] | None:
    """What a folder's sample was made from; None if it holds no sample."""
    try:
        found = json.loads((folder / MARKER).read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "generator" in found else None


@contextmanager
def _written_beside(out: Path) -> Iterator[Path]:
    """A new folder that takes the place of `out` when the block ends well, and is removed when it does not."""
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        yield folder
        folder.chmod(0o755)
        _put_in_place(folder, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _put_in_place(folder: Path, out: Path) -> None:
    """Rename a folder to `out`; what was there goes only when the new one is in its place."""
    if not out.exists():
        os.replace(folder, out)
        return
    old = folder.with_name(folder.name + ".old")
    os.replace(out, old)
    try:
        os.replace(folder, out)
    except BaseException:
        os.replace(old, out)
        raise
    shutil.rmtree(old)


def _fill(folder: Path, spec: SampleSpec, workers: int, progress: Progress) -> None:
    (folder / "images").mkdir()
    (folder / "annotations").mkdir()
    done, total = 0, spec.train + spec.val
    with _mapper(workers) as run:
        for split, count in (("train", spec.train), ("val", spec.val)):
            images, annotations = [], []
            for picture in run(partial(make_picture, spec, split), range(count)):
                (folder / "images" / picture.image["file_name"]).write_bytes(picture.data)
                images.append(picture.image)
                annotations += picture.annotations
                done += 1
                progress(done, total)
            document = _document(spec, split, images, annotations)
            (folder / "annotations" / f"person_keypoints_{split}.json").write_text(json.dumps(document))
    (folder / MARKER).write_text(json.dumps(spec.marker(), indent=2) + "\n")


@contextmanager
def _mapper(workers: int) -> Iterator[Callable[..., Iterator[Picture]]]:
    """`map` over worker processes, in order; the plain one for a single worker."""
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
    """One thread a process; Ctrl-C is the parent's to answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)


def _document(
    spec: SampleSpec, split: str, images: list[dict[str, Any]], annotations: list[dict[str, Any]]
) -> dict[str, Any]:
    """A COCO annotation file."""
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
                "keypoints": list(JOINTS),
                "skeleton": [[a + 1, b + 1] for a, b in LIMBS],
            }
        ],
    }
