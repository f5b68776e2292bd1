"""Keypoints of a picture, of a folder of pictures, or of a video.

    python -m train predict photo.jpg --student student.onnx --out predictions
    python -m train predict images/ --student best.pt --boxes detections.json --out predictions
    python -m train predict clip.mp4 --student student.onnx --out predictions

``keypoints.json`` is in COCO's result format; ``pictures/`` (for a video, NAME.mp4) shows the skeletons. Without
--boxes the whole picture is one box: a picture of one person.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from train.decoding import DECODER, DECODER_HELP
from train.errors import TrainError

if TYPE_CHECKING:
    from train.predict.boxes import BoxFile
    from train.predict.people import People, Scene
    from train.predict.sources import Picture, Video
    from train.predict.undrawn import Undrawn
    from train.student_file import StudentFile

Item = TypeVar("Item")
JPEG_QUALITY = 92


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument("source", type=Path, metavar="SOURCE", help="a picture, a folder of pictures, or a video")
    parser.add_argument("--student", type=Path, required=True, metavar="FILE", help="RUN/best.pt, or an exported .onnx")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for keypoints.json and pictures")
    parser.add_argument("--boxes", type=Path, metavar="FILE", help="COCO detections or annotations: where persons are")
    parser.add_argument("--min-box-score", type=float, default=0.3, metavar="S", help="leave out weaker boxes (0.3)")
    parser.add_argument(
        "--draw-above", type=float, default=0.1, metavar="S", help="draw joints whose map is as high (0.1)"
    )
    parser.add_argument("--no-pictures", action="store_true", help="write keypoints.json alone")
    parser.add_argument("--decoder", choices=["argmax", "dark"], default=DECODER, help=f"{DECODER_HELP} ({DECODER})")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="crops at a time (32)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")


def run(arguments: argparse.Namespace) -> int:
    """Predict; 0, or 1 where a picture could not be read (the others are done then).

    Raises:
        TrainError: If nothing can be predicted at all.
    """
    from train.predict.boxes import BoxFile
    from train.predict.sources import Video, find_pictures, is_picture
    from train.student_file import open_student

    if arguments.batch_size < 1:
        raise TrainError(f"--batch-size must be positive, got {arguments.batch_size}")
    source = arguments.source
    as_pictures = source.is_dir() or is_picture(source) or not source.exists()
    pictures = find_pictures(source) if as_pictures else []
    boxes = BoxFile(arguments.boxes, arguments.min_box_score) if arguments.boxes else None
    student = open_student(arguments.student, arguments.device)
    arguments.out.mkdir(parents=True, exist_ok=True)
    if as_pictures:
        return _predict_pictures(arguments, student, pictures, boxes)
    with Video(source) as video:
        return _predict_video(arguments, student, video, boxes)


def _predict_pictures(
    arguments: argparse.Namespace, student: "StudentFile", pictures: list["Picture"], boxes: "BoxFile | None"
) -> int:
    from train.predict.people import estimate
    from train.predict.results import coco_results
    from train.predict.undrawn import Undrawn

    chosen = _numbered(pictures, boxes)
    if boxes is not None and len(chosen) < len(pictures):
        _say(f"{len(pictures) - len(chosen)} of {len(pictures)} pictures have no boxes in {boxes.path}: left out")
    if not chosen:
        raise TrainError(f"no picture of {arguments.source} has a box in {arguments.boxes}: names and image_ids differ")
    unreadable: list[str] = []
    results: list[dict[str, Any]] = []
    undrawn = Undrawn(arguments.draw_above)
    scenes = _scenes(_counted(chosen, "pictures", len(chosen)), boxes, unreadable)
    for people in estimate(student, scenes, arguments.batch_size, arguments.decoder):
        results += coco_results(people)
        if not arguments.no_pictures:
            _save_picture(people, arguments)
            undrawn.look(people)
    _finish(arguments, results, len(chosen) - len(unreadable), "pictures", undrawn)
    if unreadable:
        raise TrainError(f"{len(unreadable)} of {len(chosen)} pictures could not be read; the others are done")
    return 0


def _numbered(pictures: list["Picture"], boxes: "BoxFile | None") -> list[tuple["Picture", int]]:
    """The pictures that have boxes, with their image ids: the box file's, the names' numbers, or 1, 2, ..."""
    numbers = [picture.number for picture in pictures]
    numeric = None not in numbers and len(set(numbers)) == len(numbers)
    chosen = []
    for place, picture in enumerate(pictures, start=1):
        image_id = picture.number if numeric and picture.number is not None else place
        if boxes is not None:
            if boxes.of(picture.name, picture.number) is None:
                continue
            image_id = boxes.ids.get(picture.name, image_id)
        chosen.append((picture, image_id))
    return chosen


def _scenes(
    chosen: Iterable[tuple["Picture", int]], boxes: "BoxFile | None", unreadable: list[str]
) -> Iterator["Scene"]:
    """Read pictures one after the other; what cannot be read is said and noted."""
    from train.predict.boxes import NOBODY
    from train.predict.people import Scene, whole_picture
    from train.predict.sources import UnreadablePictureError

    for picture, image_id in chosen:
        try:
            pixels = picture.read()
        except UnreadablePictureError as error:
            _say(f"left out: {error}")
            unreadable.append(picture.name)
            continue
        there = whole_picture(pixels) if boxes is None else boxes.of(picture.name, picture.number) or NOBODY
        yield Scene(picture.name, image_id, pixels, there)


def _save_picture(people: "People", arguments: argparse.Namespace) -> None:
    import cv2

    from train.predict.draw import draw_people

    target = (arguments.out / "pictures" / people.scene.name).with_suffix(".jpg")
    root = arguments.source if arguments.source.is_dir() else arguments.source.parent
    if target.resolve() == (root / people.scene.name).resolve():
        raise TrainError(f"{target} is the picture itself; give another --out")
    target.parent.mkdir(parents=True, exist_ok=True)
    drawn = draw_people(people, arguments.draw_above)
    _, content = cv2.imencode(".jpg", drawn, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    target.write_bytes(content.tobytes())


def _predict_video(
    arguments: argparse.Namespace, student: "StudentFile", video: "Video", boxes: "BoxFile | None"
) -> int:
    from train.predict.people import estimate
    from train.predict.results import coco_results
    from train.predict.undrawn import Undrawn
    from train.predict.video_writer import VideoWriter

    results: list[dict[str, Any]] = []
    frames, undrawn = 0, Undrawn(arguments.draw_above)
    target = arguments.out / f"{video.path.stem}.mp4"
    if target.resolve() == video.path.resolve():
        raise TrainError(f"{target} is the video itself; give another --out")
    with VideoWriter(target, video.rate, arguments.draw_above) as writer:
        scenes = _frames(video, boxes)
        for people in estimate(student, scenes, arguments.batch_size, arguments.decoder):
            results += coco_results(people)
            frames += 1
            if not arguments.no_pictures:
                writer.write(people)
                undrawn.look(people)
    if not frames:
        raise TrainError(f"{video.path} holds no frame that OpenCV can read")
    if frames < video.frames:
        _say(f"{video.path} says it has {video.frames} frames; OpenCV could read {frames}")
    _finish(arguments, results, frames, "frames", undrawn)
    return 0


def _frames(video: "Video", boxes: "BoxFile | None") -> Iterator["Scene"]:
    """The frames of a video, numbered from 0: a box file's image_id is the number of the frame."""
    from train.predict.boxes import NOBODY
    from train.predict.people import Scene, whole_picture

    for number, pixels in enumerate(_counted(video, "frames", video.frames)):
        there = whole_picture(pixels) if boxes is None else boxes.of(video.path.name, number) or NOBODY
        yield Scene(video.path.name, number, pixels, there)


def _finish(
    arguments: argparse.Namespace, results: list[dict[str, Any]], count: int, unit: str, undrawn: "Undrawn"
) -> None:
    from train.predict.results import write_results

    path = arguments.out / "keypoints.json"
    write_results(results, path)
    print(f"{path}: {len(results)} persons in {count} {unit}")
    if line := undrawn.line(unit):
        _say(line)


def _counted(items: Iterable[Item], unit: str, total: int) -> Iterator[Item]:
    from console.progress import progress

    with progress("predict", unit) as tell:
        done = 0
        for item in items:
            tell(done, total)
            yield item
            done += 1
        tell(done, total)


def _say(line: str) -> None:
    from tqdm import tqdm

    tqdm.write(line, file=sys.stderr)
