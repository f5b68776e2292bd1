"""Predict keypoints in an image, in a folder of images, or in a video.

    python -m train predict photo.jpg --student student.onnx --out predictions
    python -m train predict images/ --student best.pt --boxes detections.json --out predictions
    python -m train predict clip.mp4 --student student.onnx --out predictions

The command writes keypoints.json, in COCO's result format, and drawings of the skeletons: images to pictures/, a video
to NAME.mp4. If --out lies inside SOURCE, its folder pictures/ is not searched for images. Without --boxes, the whole
image is one box: use this for images of one person.
"""

import argparse
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from kdcli.flags import DEVICE
from kdcli.progress import say, show_progress
from kdcli.words import counted
from kdlib.readout import DECODER, DECODER_HELP
from train.errors import TrainError

if TYPE_CHECKING:
    from kdlib.inputs.boxes import BoxFile
    from kdlib.inputs.folders import ImageFile
    from kdlib.inputs.videos import Video
    from kdlib.students.loading import LoadedStudent
    from train.deploy.people import Scene

Item = TypeVar("Item")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument("source", metavar="SOURCE", help="an image, a folder of images, or a video")
    parser.add_argument(
        "--student", type=Path, required=True, metavar="PATH", help="RUN/best.pt, an .onnx file, or a release"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for keypoints.json and pictures")
    parser.add_argument(
        "--boxes", type=Path, metavar="FILE", help="boxes of the persons: COCO detections or annotations"
    )
    parser.add_argument(
        "--min-box-score",
        type=float,
        default=0.3,
        metavar="S",
        help="leave out boxes with a lower score (default: 0.3)",
    )
    parser.add_argument(
        "--draw-above",
        type=float,
        default=0.1,
        metavar="S",
        help="draw joints whose heatmap peak is at least this high (default: 0.1)",
    )
    parser.add_argument("--no-pictures", action="store_true", help="write keypoints.json only")
    parser.add_argument(
        "--decoder", choices=["argmax", "dark"], default=DECODER, help=f"{DECODER_HELP} (default: {DECODER})"
    )
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="crops per batch (default: 32)")
    parser.add_argument("--device", default="auto", help=DEVICE)


def run(arguments: argparse.Namespace) -> int:
    """Predict; returns 0.

    Raises:
        TrainError: If nothing can be predicted, or if an image could not be read; the other images are predicted first.
    """
    from kdlib.inputs.boxes import BoxFile
    from kdlib.inputs.folders import is_image
    from kdlib.inputs.videos import Video
    from kdlib.students.loading import load_student

    if arguments.batch_size < 1:
        raise TrainError(f"--batch-size must be positive, got {arguments.batch_size}")
    source = _local_path(arguments.source)
    has_images = source.is_dir() or is_image(source) or not source.exists()
    images = _find_images(source, arguments.out, drawing=not arguments.no_pictures) if has_images else []
    boxes = BoxFile(arguments.boxes, arguments.min_box_score) if arguments.boxes else None
    _create_folder(arguments.out)
    student = load_student(arguments.student, arguments.device)
    if has_images:
        return _predict_images(arguments, student, images, boxes)
    with Video(source) as video:
        return _predict_video(arguments, student, video, boxes)


def _local_path(source: str) -> Path:
    if re.match("[a-zA-Z][a-zA-Z0-9+.-]+://", source):
        raise TrainError(f"{source} is a URL; predict reads local files: download it and give the path of the file")
    return Path(source)


def _find_images(source: Path, out: Path, *, drawing: bool) -> list["ImageFile"]:
    """The images of a source, unless drawings would replace them."""
    from kdlib.inputs.folders import find_images
    from train.deploy.output import drawings_folder

    drawings = drawings_folder(out)
    is_source = drawings.resolve() == (source if source.is_dir() else source.parent).resolve()
    if is_source and drawing:
        raise TrainError(f"the drawings would replace the images in {drawings}; give another --out")
    return find_images(source, exclude=None if is_source else drawings)


def _create_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise TrainError(f"--out {out} is a file; give a folder; it is created if it does not exist") from error
    except OSError as error:
        raise TrainError(f"cannot create the folder --out {out}: {error.strerror}") from error


# --- images -----------------------------------------------------------------------------------------------------------


def _predict_images(
    arguments: argparse.Namespace, student: "LoadedStudent", images: list["ImageFile"], boxes: "BoxFile | None"
) -> int:
    from train.deploy.output import BlankDrawings, coco_results, save_drawing
    from train.deploy.people import estimate

    chosen = _with_image_ids(images, boxes)
    if boxes is not None and not chosen:
        reason = boxes.explain_missing((image.name, image.number) for image in images)
        raise TrainError(f"no image of {arguments.source} has a box in {boxes.path} that can be used: {reason}")
    if boxes is not None and len(chosen) < len(images):
        found = f"{len(images) - len(chosen)} of {len(images)} images have no boxes in {boxes.path}"
        say(f"{found} with a score of {boxes.min_score:g} or more: left out")
    unreadable: list[str] = []
    results: list[dict[str, Any]] = []
    outside, blank = 0, BlankDrawings(arguments.draw_above)
    scenes = _image_scenes(_with_progress(chosen, "images", len(chosen)), boxes, unreadable)
    for people in estimate(student, scenes, arguments.batch_size, arguments.decoder):
        results += coco_results(people)
        outside += people.outside
        if not arguments.no_pictures:
            save_drawing(people, arguments.out, arguments.draw_above)
            blank.add(people)
    _finish(arguments, results, outside, counted(len(chosen) - len(unreadable), "image"))
    if line := blank.message("images"):
        say(line)
    if len(unreadable) == len(chosen):
        raise TrainError("no image could be read")
    if unreadable:
        raise TrainError(f"{len(unreadable)} of {len(chosen)} images could not be read; the others were predicted")
    return 0


def _with_image_ids(images: list["ImageFile"], boxes: "BoxFile | None") -> list[tuple["ImageFile", int]]:
    """The images that have boxes, with their image ids: from the box file, from the file names, or 1, 2, ..."""
    numbers = [image.number for image in images]
    numeric = None not in numbers and len(set(numbers)) == len(numbers)
    chosen = []
    for place, image in enumerate(images, start=1):
        image_id = image.number if numeric and image.number is not None else place
        if boxes is not None:
            if boxes.find(image.name, image.number) is None:
                continue
            image_id = boxes.ids.get(image.name, image_id)
        chosen.append((image, image_id))
    return chosen


def _image_scenes(
    chosen: Iterable[tuple["ImageFile", int]], boxes: "BoxFile | None", unreadable: list[str]
) -> Iterator["Scene"]:
    """Read the images one by one; an image that cannot be read is reported, and its name is added to ``unreadable``."""
    from kdlib.inputs.boxes import NO_BOXES
    from kdlib.inputs.image_files import ImageFileError
    from train.deploy.people import Scene, whole_image

    for image, image_id in chosen:
        try:
            pixels = image.read()
        except ImageFileError as error:
            say(f"left out: {error}")
            unreadable.append(image.name)
            continue
        found = whole_image(pixels) if boxes is None else boxes.find(image.name, image.number) or NO_BOXES
        yield Scene(image.name, image_id, pixels, found)


# --- videos -----------------------------------------------------------------------------------------------------------


def _predict_video(
    arguments: argparse.Namespace, student: "LoadedStudent", video: "Video", boxes: "BoxFile | None"
) -> int:
    from train.deploy.output import BlankDrawings, VideoWriter, coco_results
    from train.deploy.people import estimate

    results: list[dict[str, Any]] = []
    frames, boxed, outside, blank = 0, 0, 0, BlankDrawings(arguments.draw_above)
    target = arguments.out / f"{video.path.stem}.mp4"
    if target.resolve() == video.path.resolve():
        raise TrainError(f"{target} is the video itself; give another --out")
    with VideoWriter(target, video.rate, arguments.draw_above) as writer:
        scenes = _frame_scenes(video, boxes)
        for people in estimate(student, scenes, arguments.batch_size, arguments.decoder):
            results += coco_results(people)
            frames += 1
            boxed += len(people.scene.boxes.xywh) > 0
            outside += people.outside
            if not arguments.no_pictures:
                writer.write(people)
                blank.add(people)
        if boxes is not None and frames and not boxed:
            reason = boxes.explain_missing((video.path.name, number) for number in range(frames))
            raise TrainError(f"no frame of {video.path} has a box in {boxes.path} that can be used: {reason}")
    if not frames:
        raise TrainError(f"{video.path} contains no frame that OpenCV can read")
    if frames < video.frames:
        say(f"{video.path} should have {video.frames} frames; OpenCV could read {frames}")
    _finish(arguments, results, outside, counted(frames, "frame"))
    if line := blank.message("frames"):
        say(line)
    return 0


def _frame_scenes(video: "Video", boxes: "BoxFile | None") -> Iterator["Scene"]:
    """The frames of a video, numbered from 0: an image_id in the box file is the number of a frame."""
    from kdlib.inputs.boxes import NO_BOXES
    from train.deploy.people import Scene, whole_image

    for number, pixels in enumerate(_with_progress(video, "frames", video.frames)):
        found = whole_image(pixels) if boxes is None else boxes.find(video.path.name, number) or NO_BOXES
        yield Scene(video.path.name, number, pixels, found)


# --- both -------------------------------------------------------------------------------------------------------------


def _finish(arguments: argparse.Namespace, results: list[dict[str, Any]], outside: int, source: str) -> None:
    """Write the results and print a line about them; ``source`` is the number of images or frames in words."""
    from train.deploy.output import write_results

    path = arguments.out / "keypoints.json"
    write_results(results, path)
    line = f"{path}: {counted(len(results), 'person')} in {source}"
    if outside:
        line += f"; {counted(outside, 'box', 'boxes')} left out: no area inside the image"
    print(line)


def _with_progress(items: Iterable[Item], unit: str, total: int) -> Iterator[Item]:
    with show_progress("predict", unit) as progress:
        done = 0
        for item in items:
            progress(done, total)
            yield item
            done += 1
        progress(done, total)
