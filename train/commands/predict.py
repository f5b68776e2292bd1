"""Predict keypoints in an image, in a folder of images, or in a video.

    python -m train predict photo.jpg --student student.onnx --out predictions
    python -m train predict images/ --student best.pt --boxes detections.json --out predictions
    python -m train predict clip.mp4 --student student.onnx --out predictions

The command writes keypoints.json, in COCO's result format, and drawings of the skeletons: images to pictures/, a video
to NAME.mp4. For students of other joints than COCO's, category.json names the joints. If --out lies inside SOURCE, its
folder pictures/ is not searched for images. Without --boxes, the whole image is one box: use this for images of one
person. Coordinates are in the pixels of the image turned by its EXIF orientation, unless the boxes come from
annotations of another size, or --exif ignore is given.
"""

import argparse
import dataclasses
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from kdcli.flags import DEVICE, local_path
from kdcli.progress import say, show_progress
from kdcli.words import counted
from kdlib.readout import DECODER, DECODER_HELP
from train.errors import TrainError

if TYPE_CHECKING:
    from kdlib.inputs.boxes import Boxes, BoxFile, FormatCheck, MatchedBoxes
    from kdlib.inputs.folders import ImageFile
    from kdlib.inputs.notices import Notices
    from kdlib.inputs.orientation import ExifRule
    from kdlib.inputs.videos import Video
    from kdlib.skeletons.skeleton import Skeleton
    from kdlib.students.loading import LoadedStudent
    from train.deploy.people import People, Scene

MOST_REASONS: Final = 3
"""Drawings whose failure is explained; the others are counted."""
Item = TypeVar("Item")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument("source", metavar="SOURCE", help="an image, a folder of images, or a video")
    parser.add_argument(
        "--student", type=Path, required=True, metavar="PATH", help="RUN/best.pt, an .onnx file, or a release"
    )
    parser.add_argument(
        "--out", type=local_path, required=True, metavar="DIR", help="folder for keypoints.json and pictures"
    )
    parser.add_argument(
        "--boxes", type=Path, metavar="FILE", help="boxes of the persons, in pixels: COCO detections or annotations"
    )
    parser.add_argument(
        "--exif",
        choices=["auto", "apply", "ignore"],
        default="auto",
        help="EXIF orientation of the images; auto applies it, except where an annotation file (--boxes) gives the "
        "size that the image has without it (default: auto)",
    )
    parser.add_argument(
        "--min-box-score",
        type=float,
        default=0.3,
        metavar="S",
        help="leave out boxes of --boxes with a lower score; a box without score has 1 (default: 0.3)",
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
    from kdlib.images import silence_opencv
    from kdlib.inputs.folders import is_image
    from kdlib.inputs.notices import Notices
    from kdlib.inputs.videos import Video
    from kdlib.machine.device import forbid_tf32
    from kdlib.students.loading import load_student

    silence_opencv()
    if arguments.batch_size < 1:
        raise TrainError(f"--batch-size must be positive, got {arguments.batch_size}")
    source = _local_path(arguments.source)
    notices = Notices()
    has_images = source.is_dir() or not source.exists() or is_image(source)
    images = _find_images(source, arguments, notices) if has_images else []
    boxes = _read_boxes(arguments) if arguments.boxes else None
    _create_folder(arguments.out)
    forbid_tf32()
    student = load_student(arguments.student, arguments.device)
    if has_images:
        return _predict_images(arguments, student, images, boxes, notices)
    with Video(source) as video:
        return _predict_video(arguments, student, video, boxes)


def _read_boxes(arguments: argparse.Namespace) -> "BoxFile":
    """The box file, if it has a box with a high enough score."""
    from kdlib.inputs.boxes import BoxFile

    boxes = BoxFile(arguments.boxes)
    highest, least = float(boxes.rows.scores.max()), arguments.min_box_score
    if not highest >= least:
        raise TrainError(f"every box of {boxes.path} {_low_score(highest, least)}")
    return boxes


def _low_score(highest: float, least: float) -> str:
    return f"has a score below --min-box-score {least:g}; the highest is {highest:g}"


def _local_path(source: str) -> Path:
    if re.match("[a-zA-Z][a-zA-Z0-9+.-]+://", source):
        raise TrainError(f"{source} is a URL; predict reads local files: download it and give the path of the file")
    return Path(source)


def _find_images(source: Path, arguments: argparse.Namespace, notices: "Notices") -> list["ImageFile"]:
    """The images of a source, unless drawings would replace them."""
    from kdlib.inputs.folders import find_images
    from train.deploy.output import drawings_folder

    drawings, drawing = drawings_folder(arguments.out), not arguments.no_pictures
    is_source = drawings.resolve() == (source if source.is_dir() else source.parent).resolve()
    if is_source and drawing:
        raise TrainError(f"the drawings would replace the images in {drawings}; give another --out")
    return find_images(source, exclude=None if is_source else drawings, notices=notices)


def _create_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise TrainError(f"--out {out} is a file; give a folder; it is created if it does not exist") from error
    except OSError as error:
        raise TrainError(f"cannot create the folder --out {out}: {error.strerror}") from error


# --- images -----------------------------------------------------------------------------------------------------------


def _predict_images(
    arguments: argparse.Namespace,
    student: "LoadedStudent",
    images: list["ImageFile"],
    boxes: "BoxFile | None",
    notices: "Notices",
) -> int:
    from kdlib.inputs.boxes import FormatCheck
    from train.deploy.output import BlankDrawings, coco_results, drawing_names
    from train.deploy.people import estimate

    matched = boxes.match_names([image.name for image in images], arguments.source) if boxes else None
    if boxes and matched:
        matched = _above(arguments, boxes, matched, f"no image of {arguments.source}")
    chosen = _choose(images, matched)
    if boxes and len(chosen) < len(images):
        found = f"{len(images) - len(chosen)} of {len(images)} images have no boxes in {boxes.path}"
        say(f"{found} with a score of {arguments.min_box_score:g} or more: left out")
    exif, names = _survey(arguments, chosen, notices), drawing_names(place.image.name for place in chosen)
    unreadable: list[str] = []
    undrawn: list[str] = []
    results: list[dict[str, Any]] = []
    outside, blank = 0, BlankDrawings(arguments.draw_above)
    check = FormatCheck()
    scenes = _image_scenes(_with_progress(chosen, "images", len(chosen)), exif, check, unreadable)
    for people in estimate(student, scenes, arguments.batch_size, arguments.decoder):
        results += coco_results(people)
        outside += people.outside
        if not arguments.no_pictures:
            undrawn += _draw(arguments, people, names[people.scene.name])
            blank.add(people)
    if boxes:
        _say_notices(boxes, check)
    _finish(arguments, student.skeleton, results, outside, counted(len(chosen) - len(unreadable), "image"))
    for line in [*(f"noticed: {line}" for line in notices.lines()), *filter(None, [blank.message("images")])]:
        say(line)
    if len(unreadable) == len(chosen):
        raise TrainError("no image could be read")
    if unreadable:
        _say_undrawn(undrawn)
        raise TrainError(f"{len(unreadable)} of {len(chosen)} images could not be read; the others were predicted")
    if undrawn:
        _say_undrawn(undrawn[1:])
        raise TrainError(f"{undrawn[0]} (keypoints.json is complete)")
    return 0


@dataclasses.dataclass(frozen=True)
class Chosen:
    """An image to predict on."""

    image: "ImageFile"
    image_id: Any
    boxes: "Boxes | None"
    """None for one box around the whole image."""
    size: tuple[int, int] | None
    """Annotated width and height; None if there is none."""


def _survey(arguments: argparse.Namespace, chosen: list[Chosen], notices: "Notices") -> "ExifRule":
    """Decide about the EXIF orientations of the images."""
    from kdlib.inputs.orientation import survey

    found = survey([(place.image.name, place.image.path, place.size) for place in chosen], arguments.exif)
    found.report(notices, annotated=any(place.size for place in chosen))
    return found.rule


def _draw(arguments: argparse.Namespace, people: "People", name: str) -> list[str]:
    """Write the drawing of a scene; returns why it could not be written, as a list of at most one line."""
    from train.deploy.output import save_drawing

    try:
        save_drawing(people, arguments.out, arguments.draw_above, name)
    except TrainError as error:
        return [str(error)]
    return []


def _say_undrawn(reasons: list[str]) -> None:
    """Print why drawings were not written: the first few, and the number of the others."""
    for reason in reasons[:MOST_REASONS]:
        say(reason)
    if len(reasons) > MOST_REASONS:
        say(f"{len(reasons) - MOST_REASONS} more drawings could not be written")


def _choose(images: list["ImageFile"], matched: "MatchedBoxes | None") -> list[Chosen]:
    """The images to predict on, with image ids: those of the box file, else the numbers in the names, else 1, 2, ..."""
    numbers = [image.number for image in images]
    ids: list[Any] = list(range(1, len(images) + 1))
    if None not in numbers and len(set(numbers)) == len(numbers):
        ids = list(numbers)
    if matched is None:
        return [Chosen(image, image_id, None, None) for image, image_id in zip(images, ids, strict=True)]
    boxes = matched.by_image()
    given = [matched.image_ids.get(row) for row in boxes]
    if None not in given and len(set(given)) == len(given):
        ids = [matched.image_ids.get(row) for row in range(len(images))]
    sizes = matched.image_sizes
    return [Chosen(images[row], ids[row], boxes[row], sizes.get(row)) for row in sorted(boxes)]


def _image_scenes(
    chosen: Iterable[Chosen], exif: "ExifRule", check: "FormatCheck", unreadable: list[str]
) -> Iterator["Scene"]:
    """Read the images one by one; an image that cannot be read is reported, and its name is added to ``unreadable``."""
    from kdlib.inputs.image_files import ImageFileError
    from train.deploy.people import Scene, whole_image

    for place in chosen:
        try:
            pixels = place.image.read(exif, place.size)
        except ImageFileError as error:
            say(f"left out: {error}")
            unreadable.append(place.image.name)
            continue
        boxes = whole_image(pixels) if place.boxes is None else place.boxes
        if place.boxes is not None:
            check.add(boxes.xywh, pixels.shape[1::-1])
        yield Scene(place.image.name, place.image_id, pixels, boxes)


# --- videos -----------------------------------------------------------------------------------------------------------


def _predict_video(
    arguments: argparse.Namespace, student: "LoadedStudent", video: "Video", boxes: "BoxFile | None"
) -> int:
    from kdlib.inputs.boxes import FormatCheck
    from train.deploy.output import BlankDrawings, VideoWriter, coco_results
    from train.deploy.people import estimate

    results: list[dict[str, Any]] = []
    frames, boxed, outside, blank = 0, 0, 0, BlankDrawings(arguments.draw_above)
    matched = boxes.match_frames(video.path.name) if boxes else None
    if boxes and matched:
        matched = _above(arguments, boxes, matched, f"no frame of {video.path}")
    check = FormatCheck()
    target = arguments.out / f"{video.path.stem}.mp4"
    if target.resolve() == video.path.resolve():
        raise TrainError(f"{target} is the video itself; give another --out")
    with VideoWriter(target, video.rate, arguments.draw_above) as writer:
        scenes = _frame_scenes(video, matched.by_image() if matched else None, check)
        for people in estimate(student, scenes, arguments.batch_size, arguments.decoder):
            results += coco_results(people)
            frames += 1
            boxed += len(people.scene.boxes.xywh) > 0
            outside += people.outside
            if not arguments.no_pictures:
                writer.write(people)
                blank.add(people)
        if boxes and matched and frames and not boxed:
            raise TrainError(
                f"no frame of {video.path} has a box in {boxes.path} that can be used: the video has {frames} frames, "
                f"numbered from 0; entry {matched.entry[0]} of the box file is for frame {matched.image[0]}"
            )
    _check_frames(video, frames)
    if boxes and matched:
        _note_missing_frames(boxes, matched, frames)
        _say_notices(boxes, check)
    _finish(arguments, student.skeleton, results, outside, counted(frames, "frame"))
    if line := blank.message("frames"):
        say(line)
    if writer.failure is not None:
        raise TrainError(f"{writer.failure} (keypoints.json is complete)")
    return 0


def _check_frames(video: "Video", frames: int) -> None:
    """Raise `TrainError` if no frame could be read; print a line if some could not."""
    if not frames:
        raise TrainError(f"{video.path} contains no frame that OpenCV can read")
    if frames < video.frames:
        say(f"{video.path} should have {video.frames} frames; OpenCV could read {frames}")


def _frame_scenes(video: "Video", boxes: "dict[int, Boxes] | None", check: "FormatCheck") -> Iterator["Scene"]:
    """The frames of a video, numbered from 0: an image_id in the box file is the number of a frame."""
    from kdlib.inputs.boxes import NO_BOXES
    from train.deploy.people import Scene, whole_image

    for number, pixels in enumerate(_with_progress(video, "frames", video.frames)):
        found = whole_image(pixels) if boxes is None else boxes.get(number, NO_BOXES)
        if boxes is not None:
            check.add(found.xywh, pixels.shape[1::-1])
        yield Scene(video.path.name, number, pixels, found)


def _note_missing_frames(boxes: "BoxFile", matched: "MatchedBoxes", frames: int) -> None:
    late = matched.entry[matched.image >= frames]
    boxes.notices.add_all("boxes after the last frame, left out", [f"entry {i}" for i in late[:1]], len(late))


# --- both -------------------------------------------------------------------------------------------------------------


def _above(arguments: argparse.Namespace, boxes: "BoxFile", matched: "MatchedBoxes", nothing: str) -> "MatchedBoxes":
    """The boxes with a high enough score; ``nothing`` begins the message if there is none."""
    kept, least = matched.scores >= arguments.min_box_score, arguments.min_box_score
    if not kept.any():
        reason = f"each {_low_score(float(matched.scores.max()), least)}"
        raise TrainError(f"{nothing} has a box in {boxes.path} that can be used: {reason}")
    low = matched.entry[~kept]
    kind = f"boxes with a score below --min-box-score {least:g}, left out"
    boxes.notices.add_all(kind, [f"entry {i}" for i in low[:1]], len(low))
    return matched.select(kept)


def _say_notices(boxes: "BoxFile", check: "FormatCheck") -> None:
    for line in boxes.notices.lines():
        say(f"noticed: {boxes.path}: {line}")
    wrong = check.message()
    if wrong:
        say(f"warning: {boxes.path}: {wrong}")


def _finish(
    arguments: argparse.Namespace, skeleton: "Skeleton", results: list[dict[str, Any]], outside: int, source: str
) -> None:
    """Write the results and print a line about them; ``source`` is the number of images or frames in words.

    The results have no header that could name the joints. For skeletons other than COCO's, a second file does.
    """
    from kdlib.inputs.categories import coco_category
    from kdlib.skeletons.skeleton import COCO
    from train.deploy.output import write_json

    path, category = arguments.out / "keypoints.json", arguments.out / "category.json"
    write_json(results, path)
    if skeleton != COCO or category.exists():  # that of an earlier student would be wrong
        write_json(coco_category(skeleton), category)
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
