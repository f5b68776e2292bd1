"""Keypoints of a picture, of a folder of pictures, or of a video.

    python -m train predict photo.jpg --student student.onnx --out predictions
    python -m train predict images/ --student best.pt --boxes detections.json --out predictions
    python -m train predict clip.mp4 --student student.onnx --out predictions

``keypoints.json`` is in COCO's result format; ``pictures/`` (for a video, NAME.mp4) shows the skeletons, and is not
searched for pictures where --out lies in the source. Without --boxes the whole picture is one box: a picture of one
person.
"""

import argparse
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from kdcli.progress import say
from kdcli.words import counted
from kdlib.readout import DECODER, DECODER_HELP
from train.errors import TrainError

if TYPE_CHECKING:
    from kdlib.students.loading import LoadedStudent
    from train.deploy.boxes import BoxFile
    from train.deploy.people import Scene
    from train.deploy.sources import Picture, Video

Item = TypeVar("Item")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument("source", metavar="SOURCE", help="a picture, a folder of pictures, or a video")
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
    from kdlib.students.loading import load_student
    from train.deploy.boxes import BoxFile
    from train.deploy.sources import Video, is_picture

    if arguments.batch_size < 1:
        raise TrainError(f"--batch-size must be positive, got {arguments.batch_size}")
    source = _local(arguments.source)
    as_pictures = source.is_dir() or is_picture(source) or not source.exists()
    pictures = _found(source, arguments.out, drawing=not arguments.no_pictures) if as_pictures else []
    boxes = BoxFile(arguments.boxes, arguments.min_box_score) if arguments.boxes else None
    _make_folder(arguments.out)
    student = load_student(arguments.student, arguments.device)
    if as_pictures:
        return _predict_pictures(arguments, student, pictures, boxes)
    with Video(source) as video:
        return _predict_video(arguments, student, video, boxes)


def _local(source: str) -> Path:
    if re.match("[a-zA-Z][a-zA-Z0-9+.-]+://", source):
        raise TrainError(f"{source} is a URL; predict reads local files: fetch it, and give the path of the file")
    return Path(source)


def _found(source: Path, out: Path, *, drawing: bool) -> list["Picture"]:
    """The pictures of a source, which drawings must not replace."""
    from train.deploy.output import drawings_folder
    from train.deploy.sources import find_pictures

    drawings = drawings_folder(out)
    asked_for = drawings.resolve() == (source if source.is_dir() else source.parent).resolve()
    if asked_for and drawing:
        raise TrainError(f"the drawings would replace the pictures in {drawings}; give another --out")
    return find_pictures(source, without=None if asked_for else drawings)


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise TrainError(f"--out {out} is a file; give a folder, which is made where there is none") from error
    except OSError as error:
        raise TrainError(f"cannot make the folder --out {out}: {error.strerror}") from error


def _predict_pictures(
    arguments: argparse.Namespace, student: "LoadedStudent", pictures: list["Picture"], boxes: "BoxFile | None"
) -> int:
    from train.deploy.output import Undrawn, coco_results, save_drawing
    from train.deploy.people import estimate

    chosen = _numbered(pictures, boxes)
    if boxes is not None and not chosen:
        why = boxes.why_none((picture.name, picture.number) for picture in pictures)
        raise TrainError(f"no picture of {arguments.source} has a box in {boxes.path} that counts: {why}")
    if boxes is not None and len(chosen) < len(pictures):
        found = f"{len(pictures) - len(chosen)} of {len(pictures)} pictures have no boxes in {boxes.path}"
        say(f"{found} with a score of {boxes.least:g} or more: left out")
    unreadable: list[str] = []
    results: list[dict[str, Any]] = []
    outside, undrawn = 0, Undrawn(arguments.draw_above)
    scenes = _scenes(_told(chosen, "pictures", len(chosen)), boxes, unreadable)
    for people in estimate(student, scenes, arguments.batch_size, arguments.decoder):
        results += coco_results(people)
        outside += people.outside
        if not arguments.no_pictures:
            save_drawing(people, arguments.out, arguments.draw_above)
            undrawn.look(people)
    _finish(arguments, results, outside, counted(len(chosen) - len(unreadable), "picture"))
    if line := undrawn.line("pictures"):
        say(line)
    if len(unreadable) == len(chosen):
        raise TrainError("no picture could be read")
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
    from train.deploy.boxes import NOBODY
    from train.deploy.people import Scene, whole_picture
    from train.deploy.sources import UnreadablePictureError

    for picture, image_id in chosen:
        try:
            pixels = picture.read()
        except UnreadablePictureError as error:
            say(f"left out: {error}")
            unreadable.append(picture.name)
            continue
        there = whole_picture(pixels) if boxes is None else boxes.of(picture.name, picture.number) or NOBODY
        yield Scene(picture.name, image_id, pixels, there)


def _predict_video(
    arguments: argparse.Namespace, student: "LoadedStudent", video: "Video", boxes: "BoxFile | None"
) -> int:
    from train.deploy.output import Undrawn, VideoWriter, coco_results
    from train.deploy.people import estimate

    results: list[dict[str, Any]] = []
    frames, boxed, outside, undrawn = 0, 0, 0, Undrawn(arguments.draw_above)
    target = arguments.out / f"{video.path.stem}.mp4"
    if target.resolve() == video.path.resolve():
        raise TrainError(f"{target} is the video itself; give another --out")
    with VideoWriter(target, video.rate, arguments.draw_above) as writer:
        scenes = _frames(video, boxes)
        for people in estimate(student, scenes, arguments.batch_size, arguments.decoder):
            results += coco_results(people)
            frames += 1
            boxed += len(people.scene.boxes.xywh) > 0
            outside += people.outside
            if not arguments.no_pictures:
                writer.write(people)
                undrawn.look(people)
        if boxes is not None and frames and not boxed:
            why = boxes.why_none((video.path.name, number) for number in range(frames))
            raise TrainError(f"no frame of {video.path} has a box in {boxes.path} that counts: {why}")
    if not frames:
        raise TrainError(f"{video.path} holds no frame that OpenCV can read")
    if frames < video.frames:
        say(f"{video.path} says it has {video.frames} frames; OpenCV could read {frames}")
    _finish(arguments, results, outside, counted(frames, "frame"))
    if line := undrawn.line("frames"):
        say(line)
    return 0


def _frames(video: "Video", boxes: "BoxFile | None") -> Iterator["Scene"]:
    """The frames of a video, numbered from 0: a box file's image_id is the number of the frame."""
    from train.deploy.boxes import NOBODY
    from train.deploy.people import Scene, whole_picture

    for number, pixels in enumerate(_told(video, "frames", video.frames)):
        there = whole_picture(pixels) if boxes is None else boxes.of(video.path.name, number) or NOBODY
        yield Scene(video.path.name, number, pixels, there)


def _finish(arguments: argparse.Namespace, results: list[dict[str, Any]], outside: int, looked_at: str) -> None:
    from train.deploy.output import write_results

    path = arguments.out / "keypoints.json"
    write_results(results, path)
    line = f"{path}: {counted(len(results), 'person')} in {looked_at}"
    if outside:
        line += f"; {counted(outside, 'box', 'boxes')} left out: no area inside the picture"
    print(line)


def _told(items: Iterable[Item], unit: str, total: int) -> Iterator[Item]:
    from kdcli.progress import show_progress

    with show_progress("predict", unit) as progress:
        done = 0
        for item in items:
            progress(done, total)
            yield item
            done += 1
        progress(done, total)
