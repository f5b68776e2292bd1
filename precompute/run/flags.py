"""The flags of `python -m precompute`. Imports no large library, which keeps --help fast."""

import argparse
import re
from pathlib import Path

from cache.codec.registry import CODEC_HELP
from kdcli.config_file import add_config
from kdcli.flags import DEVICE, Parser, positive, positive_or_auto
from precompute.data.folder import to_coco_split


def build_parser(description: str) -> argparse.ArgumentParser:
    """Build the parser; `precompute.run.job.Job.from_flags` reads its result."""
    parser = Parser(
        prog="python -m precompute",
        usage="%(prog)s --data DIR --teacher NAME --store PATH [FLAGS]",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config(parser)
    _add_data(parser.add_argument_group("data: --data and --split, or --images and --annotations"))
    _add_teacher(parser.add_argument_group("teacher"))
    _add_store(parser.add_argument_group("store"))
    return parser


def _add_data(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="data folder in the layout of COCO, of FiftyOne's zoo, or of the sample; or the data.yaml of a YOLO-pose "
        "data set",
    )
    group.add_argument(
        "--split",
        type=to_coco_split,
        default="train",
        help="split of --data, and its name in the manifest (default: train)",
    )
    group.add_argument("--images", type=Path, metavar="DIR", help="folder with the images of --annotations")
    group.add_argument("--annotations", type=Path, metavar="FILE", help="COCO keypoint annotations")
    group.add_argument(
        "--boxes",
        type=Path,
        metavar="FILE",
        help="boxes to use instead of the annotated ones: COCO detections or annotations",
    )
    group.add_argument(
        "--category",
        metavar="NAME",
        help="category of the annotations whose instances are used (default: the one with COCO's joints, else the one "
        "named person, else all that list the same joints)",
    )
    group.add_argument(
        "--skeleton",
        metavar="FILE",
        help="the joints of the annotations: a TOML file, or the name of a built-in skeleton, such as coco; the file "
        "may list them in another order (default: those of the annotations' category)",
    )
    group.add_argument("--unlabelled", action="store_true", help="include instances without labelled keypoints")
    group.add_argument(
        "--exif",
        choices=["auto", "apply", "ignore"],
        help="EXIF orientation of the images; auto compares the annotated size with the image (default: auto; with "
        "--resume and --check: that of the store)",
    )
    group.add_argument("--limit", type=positive, metavar="N", help="use only the first N instances")
    group.add_argument(
        "--skip-missing", action="store_true", help="leave out instances whose image or box cannot be used"
    )


def _add_teacher(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--teacher",
        required=True,
        help="hrnet_w32, hrnet_w48_384x288, ..., onnx:FILE, hf:ORG/NAME[@REVISION] or hf:FOLDER",
    )
    group.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FILE",
        help="weights of the teacher, .pth or .safetensors (default: published weights, if any, are downloaded)",
    )
    group.add_argument(
        "--ensemble",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="another teacher, to average heatmaps with: NAME=CHECKPOINT, onnx:FILE or hf:ORG/NAME, with the same "
        "aspect ratio; repeatable",
    )
    group.add_argument(
        "--input-size",
        metavar="HxW",
        help="height x width of the teacher's input, e.g. 256x192; not needed if its name or ONNX file gives it",
    )
    group.add_argument(
        "--teacher-skeleton",
        default="",
        metavar="NAME|FILE",
        help="the joints that the teacher predicts, in the order of its heatmaps: a built-in skeleton, a TOML file, or "
        "data, which means those of the data (default: those that its weights state; 17 without names are COCO's)",
    )
    group.add_argument(
        "--joints-from-teacher",
        type=parse_names,
        default=(),
        metavar="NAMES",
        help="cut a teacher that predicts more joints than the data have: names between commas, "
        "JOINT_OF_THE_DATA=JOINT_OF_THE_TEACHER where they differ; or data, which means all joints of the data",
    )
    group.add_argument(
        "--udp",
        action="store_true",
        help="the PyTorch or ONNX teacher was trained with UDP: the last heatmap pixel is at the last pixel of the "
        "crop (default: no; teachers hf: always are)",
    )
    group.add_argument(
        "--expert",
        metavar="NAME|N",
        help="expert of a ViTPose+ teacher: coco, aic, mpii, ap10k, apt36k, wholebody, or its number (default: that of "
        "the teacher's joints)",
    )
    group.add_argument(
        "--flip-test",
        action=argparse.BooleanOptionalAction,
        help="average the heatmaps of each stored view with those of its mirror image (default: yes, with --views: no)",
    )
    group.add_argument(
        "--views",
        type=positive,
        metavar="N",
        help="number of stored views per instance: the crop, its mirror image, then random views; with --flip-test: "
        "the crop, then random views (default: 1)",
    )
    group.add_argument("--seed", type=int, default=0, help="seed of the random views (default: 0)")
    group.add_argument(
        "--precision",
        choices=["auto", "fp32", "bf16", "fp16"],
        default="auto",
        help="precision of the network; auto uses bf16 where it is fast, or else fp16 on a GPU (default: auto)",
    )
    group.add_argument("--device", default="auto", help=DEVICE)
    group.add_argument(
        "--batch-size",
        type=positive_or_auto,
        default="auto",
        metavar="N",
        help="instances per batch; auto is 32 on a CPU; on a GPU it is measured, and recorded in the store "
        "(default: auto)",
    )
    group.add_argument(
        "--onnx-provider",
        choices=["auto", "cpu", "cuda", "tensorrt"],
        default="auto",
        help="what runs ONNX teachers; auto is CUDA where onnxruntime has it, or else the CPU (default: auto)",
    )
    group.add_argument(
        "--mean",
        type=parse_statistics,
        metavar="M,M,M",
        help="mean of each channel of the pixels, scaled to 0..1, that an ONNX teacher takes; 123.675/255 is a number, "
        "too (default: ImageNet's)",
    )
    group.add_argument(
        "--std",
        type=parse_spreads,
        metavar="S,S,S",
        help="standard deviation of each channel, likewise; 1/255 for pixels of 0 to 255 (default: ImageNet's)",
    )
    group.add_argument(
        "--bgr", action="store_true", help="an ONNX teacher takes the channels as BGR; --mean and --std have its order"
    )
    group.add_argument(
        "--activation",
        choices=["none", "sigmoid", "softmax"],
        default="",
        help="what turns the outputs of an ONNX teacher into heatmaps: sigmoid for logits, softmax for those of SimCC "
        "(default: none, and other values than those of heatmaps are refused)",
    )
    group.add_argument(
        "--threads",
        type=positive,
        metavar="N",
        help="threads that prepare crops, threads that encode heatmaps, and threads that read them back at the end "
        "(default: one per available core)",
    )


def _add_store(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--store", type=Path, required=True, help="PATH.zarr or PATH.h5, on this machine")
    group.add_argument("--codec", default="root4", help=f"{CODEC_HELP} (default: root4)")
    group.add_argument("--no-frames", action="store_true", help="store no pixels; training then needs --images")
    group.add_argument(
        "--frame-scale", type=float, default=1.0, help="frame pixels per teacher input pixel (default: 1)"
    )
    group.add_argument("--resume", action="store_true", help="continue an interrupted run, or rebuild damaged shards")
    group.add_argument(
        "--share",
        type=parse_share,
        metavar="K/N",
        help="write only every N-th shard, from the K-th on (K from 0 to N - 1), beside processes with other shares, "
        "e.g. of a job array; the same command without --share completes the store",
    )
    group.add_argument(
        "--overwrite",
        action="store_true",
        help="start again; an existing STORE is replaced when the new one is complete",
    )
    group.add_argument(
        "--dry-run", action="store_true", help="estimate time and disk space from a few batches; write nothing"
    )
    group.add_argument(
        "--check", type=positive, metavar="N", help="recompute N random instances and compare them with the store"
    )
    group.add_argument("--json", action="store_true", help="print one JSON document (with --dry-run or --check)")


def parse_names(text: str) -> tuple[str, ...]:
    """Convert names between commas to a tuple, as the ``type`` of an argparse argument."""
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise argparse.ArgumentTypeError(f"names between commas are needed, e.g. nose,left_eye, got {text!r}")
    return names


def parse_statistics(text: str) -> tuple[float, float, float]:
    """Convert three numbers between commas, such as ``0.485,0.456,0.406`` or ``1/255,1/255,1/255``."""
    example = "three numbers of pixels scaled to 0..1 are needed, e.g. 0.485,0.456,0.406 or 123.675/255,116.28/255,..."
    try:
        pairs = [part.partition("/") for part in text.split(",")]
        first, second, third = (float(number) / float(divisor or 1) for number, _, divisor in pairs)
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"{example}, got {text!r}") from None
    if not all(abs(number) <= 1 for number in (first, second, third)):
        raise argparse.ArgumentTypeError(f"{example}, got {text!r}: divide by 255")
    return first, second, third


def parse_spreads(text: str) -> tuple[float, float, float]:
    """The same for standard deviations, which are above 0."""
    found = parse_statistics(text)
    if min(found) <= 0:
        raise argparse.ArgumentTypeError(f"standard deviations above 0 are needed, got {text!r}")
    return found


def parse_share(text: str) -> tuple[int, int]:
    """Convert ``K/N`` to (K, N), as the ``type`` of an argparse argument."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if found is None or int(found[1]) >= int(found[2]):
        raise argparse.ArgumentTypeError(f"K/N with K from 0 to N - 1 is needed, e.g. 0/8, got {text}")
    return int(found[1]), int(found[2])
