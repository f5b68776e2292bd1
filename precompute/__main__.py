r"""Run a teacher once over a data set and keep its heatmaps in a store.

    python -m precompute --images DIR --annotations FILE --teacher hrnet_w32 --input-size 256x192 \
           --checkpoint pose_hrnet_w32_256x192.pth --store coco-train.zarr
    python -m precompute --data DIR --split val --teacher onnx:FILE --store val.h5
    python -m precompute --data data/coco --teacher hrnet_w48_384x288 --store coco-train.zarr   # weights downloaded
    python -m precompute --config configs/coco-teacher.toml --store coco-train.zarr     # flags from a file
    python -m precompute ... --dry-run          # instances, bytes, time and disk, measured on a few batches
    python -m precompute ... --resume           # go on with an interrupted run
    python -m precompute ... --check 100        # run 100 random instances again and compare with the store
    torchrun --nproc-per-node 4 -m precompute ... --resume      # four processes (GPUs), each with its own shards

The store is complete or it is not there: until the last shard is written everything lies in STORE.partial.
docs/precompute.md has more on each of these.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from kdcli.config_file import ConfigError, add_config, parse
from kdcli.flags import Parser, positive
from kdlib.machine.process import keep_freed_memory, wait_passively
from precompute.data.folder import split_name
from precompute.errors import PrecomputeError


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m precompute",
        usage="%(prog)s --data DIR --teacher NAME --store PATH [FLAGS]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config(parser)
    data = parser.add_argument_group("data: --data and --split, or --images and --annotations")
    data.add_argument("--data", type=Path, metavar="DIR", help="data folder in COCO's layout, ours, or FiftyOne's")
    data.add_argument(
        "--split", type=split_name, default="train", help="split of --data, and its name in the manifest (train)"
    )
    data.add_argument("--images", type=Path, metavar="DIR", help="folder of the annotations' images")
    data.add_argument("--annotations", type=Path, metavar="FILE", help="COCO keypoint annotations")
    data.add_argument("--boxes", type=Path, metavar="FILE", help="COCO detections to use instead of annotated boxes")
    data.add_argument("--unlabelled", action="store_true", help="also take persons without labelled joints")
    data.add_argument("--limit", type=positive, metavar="N", help="the first N instances only")
    data.add_argument("--skip-missing", action="store_true", help="leave out persons whose image or box is unusable")
    teacher = parser.add_argument_group("teacher")
    teacher.add_argument("--teacher", required=True, help="hrnet_w32, hrnet_w48_384x288, ... or onnx:FILE")
    teacher.add_argument(
        "--checkpoint", type=Path, metavar="FILE", help="weights of an HRNet, in any known layout (published)"
    )
    teacher.add_argument(
        "--ensemble",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="average with this teacher too: NAME=CHECKPOINT or onnx:FILE, of the same proportions; may be given again",
    )
    teacher.add_argument(
        "--input-size", metavar="HxW", help="e.g. 256x192 (height x width); told by some names and ONNX files"
    )
    teacher.add_argument(
        "--flip-test",
        action=argparse.BooleanOptionalAction,
        help="store each view averaged with its mirror (with one view; not with --views)",
    )
    teacher.add_argument(
        "--views",
        type=positive,
        metavar="N",
        help="stored views: crop, mirror, then drawn ones; with --flip-test crop, then drawn ones (1)",
    )
    teacher.add_argument("--seed", type=int, default=0, help="of drawn views (0)")
    teacher.add_argument(
        "--precision",
        choices=["auto", "fp32", "bf16"],
        default="auto",
        help="of the network; auto takes bf16 where it is quick (auto)",
    )
    teacher.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (auto)")
    teacher.add_argument("--batch-size", type=positive, default=32, metavar="N", help="persons at a time (32)")
    store = parser.add_argument_group("store")
    store.add_argument("--store", type=Path, required=True, help="PATH.zarr or PATH.h5")
    store.add_argument("--codec", default="root4", help="root4, root4:LEVELS, float16 or float32 (root4)")
    store.add_argument("--no-frames", action="store_true", help="leave the pixels out; the trainer then needs --images")
    store.add_argument("--frame-scale", type=float, default=1.0, help="frame pixels a teacher input pixel (1)")
    store.add_argument("--resume", action="store_true", help="go on with an interrupted run, or rebuild bad shards")
    store.add_argument("--overwrite", action="store_true", help="start anew; replaces STORE when the new one is whole")
    store.add_argument("--dry-run", action="store_true", help="measure a few batches, write nothing")
    store.add_argument("--check", type=positive, metavar="N", help="compare N random instances with the store")
    store.add_argument("--json", action="store_true", help="of --dry-run and --check: print one JSON document")
    return parser


def _split(arguments: argparse.Namespace) -> Any:
    from precompute.data.folder import Split, find_split

    if arguments.data is not None and arguments.images is None and arguments.annotations is None:
        return find_split(arguments.data, arguments.split)
    if arguments.data is None and arguments.images is not None and arguments.annotations is not None:
        if not arguments.images.is_dir():
            raise PrecomputeError(f"no image folder at {arguments.images}")
        return Split(arguments.images, arguments.annotations)
    raise PrecomputeError("say where the data are: either --data DIR --split NAME, or --images DIR --annotations FILE")


def _members(arguments: argparse.Namespace) -> list[tuple[str, Path | None]]:
    """(name, checkpoint) of the teacher, and of those that it is averaged with."""
    from precompute.teacher.ensemble import parse_member

    return [(arguments.teacher, arguments.checkpoint), *map(parse_member, arguments.ensemble)]


def _teacher(arguments: argparse.Namespace) -> Any:
    from kdlib.geometry import parse_size
    from precompute.run.team import own_device
    from precompute.teacher.ensemble import ensemble
    from precompute.teacher.loading import load_teacher

    size = parse_size(arguments.input_size) if arguments.input_size else None
    device = own_device(arguments.device)
    (name, weights), *others = _members(arguments)
    choices = {"device": device, "precision": arguments.precision}
    first = load_teacher(name, weights, input_size=size, **choices)
    opened = [load_teacher(name, weights, usual_size=first.input_size, **choices) for name, weights in others]
    return ensemble([first, *opened]) if opened else first


def _job(arguments: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """Read the data and open the teacher; everything that can be refused is refused here."""
    from precompute.data.crops import Cropper
    from precompute.data.selection import select
    from precompute.data.views import ViewPlan, plan_geometry
    from precompute.run.job import Job
    from precompute.run.provenance import describe
    from precompute.run.team import local_share
    from precompute.teacher.loading import check_name

    for name, _ in _members(arguments):
        check_name(name)  # first: no look at the data for a slip of the hand
    split = _split(arguments)
    chosen = select(
        split,
        boxes=arguments.boxes,
        unlabelled=arguments.unlabelled,
        limit=arguments.limit,
        skip_missing=arguments.skip_missing,
    )
    teacher = _teacher(arguments)
    flip_test = arguments.views is None if arguments.flip_test is None else arguments.flip_test
    plan = ViewPlan(arguments.views or 1, flip_test=flip_test, seed=arguments.seed)
    geometry = plan_geometry(chosen.persons, teacher.input_size, plan, arguments.frame_scale)
    cropper = Cropper(split.images, chosen.persons, geometry, teacher.input_sizes, not arguments.no_frames)
    provenance = describe(
        teacher,
        annotations=split.annotations,
        boxes=arguments.boxes,
        split=arguments.split,
        selection=chosen.summary,
        plan=plan,
        frame_size=geometry.frame_size,
    )
    threads = max(1, min(16, (os.cpu_count() or 1) // local_share()[1]))
    job = Job(
        teacher,
        chosen.persons,
        chosen.ground_truth,
        cropper,
        geometry,
        plan,
        arguments.batch_size,
        threads,
        arguments.skip_missing,
    )
    return job, provenance


def _run(arguments: argparse.Namespace) -> int:
    import cache
    from precompute.run.team import assembled

    with assembled() as team:
        if team.size > 1 and (arguments.check is not None or arguments.dry_run):
            raise PrecomputeError("--dry-run and --check are for one process: run them without torchrun")
        codec = cache.codec_from_name(arguments.codec)
        try:
            job, provenance = _job(arguments)
        except ValueError as error:  # of the kinds that say what is wrong with a file, a name or a size
            raise PrecomputeError(str(error)) from error
        if arguments.check is not None:
            return _check(arguments, job, provenance)
        if arguments.dry_run:
            return _dry_run(arguments, job, codec)
        return _make(arguments, job, provenance, codec, team)


def _check(arguments: argparse.Namespace, job: Any, provenance: dict[str, Any]) -> int:
    import cache
    from kdcli.progress import progress
    from precompute.run.check import check

    with progress("check", "instances", passing=True) as tell:
        found = check(job, cache.open_store(arguments.store), provenance, arguments.check, tell)
    print(json.dumps(found.to_json(), indent=1) if arguments.json else found.page())
    if not found.passed:
        raise PrecomputeError(f"{arguments.store}: {found.verdict}")
    return 0


def _dry_run(arguments: argparse.Namespace, job: Any, codec: Any) -> int:
    from precompute.run.dry_run import dry_run

    cost = dry_run(job, codec, arguments.store)
    print(json.dumps(cost.to_json(), indent=1) if arguments.json else cost.page())
    return 0


def _make(arguments: argparse.Namespace, job: Any, provenance: dict[str, Any], codec: Any, team: Any) -> int:
    """Make the store, or what of it this process of a team is to make."""
    import cache
    from kdcli.progress import say
    from precompute.run.provenance import refuse_other
    from precompute.run.store import create_writer, fill, finish
    from precompute.run.team import restarted

    path = arguments.store
    resume = restarted() or (arguments.resume and not arguments.overwrite)
    if resume and not arguments.overwrite and path.exists() and not cache.awaits_repair(path):
        line = refuse_other(job, cache.open_store(path), codec, provenance)
        if team.rank == 0:
            print(line)
        return 0
    options = {"frames": not arguments.no_frames, "resume": resume, "overwrite": arguments.overwrite}
    writer = team.begin(lambda join: create_writer(job, path, codec, provenance, **options, join=join))
    try:
        skipped = fill(job, writer, team, show=team.rank == 0)
    except KeyboardInterrupt:
        left = len(writer.pending_shards())
        raise PrecomputeError(
            f"interrupted with {left} of {writer.spec.shards} shards to go; the same command with --resume goes on"
        ) from None

    def publish(skipped: list[str]) -> str:
        for line in skipped:
            say(f"skipped {line}")
        return _summary(*finish(writer), len(skipped))

    line = team.finish(skipped, publish)
    if line is not None:
        print(line)
    return 0


def _summary(path: Path, metrics: dict[str, Any], skipped: int) -> str:
    numbers = (f"{name} {metrics[name]:.1f}" for name in ("ap", "pck@0.05", "pck@0.1") if metrics[name] is not None)
    left_out = f", {skipped} skipped" if skipped else ""
    return f"{path}: {metrics['instances']} instances{left_out}; the teacher from the store: {', '.join(numbers)}"


def main(argv: list[str] | None = None) -> int:
    """Run; 0 when done, 1 with one line on stderr when refused."""
    try:
        arguments = parse(_parser(), argv)
    except (ConfigError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    wait_passively()
    keep_freed_memory()
    import cache

    try:
        return _run(arguments)
    except BrokenPipeError:
        raise  # see kdcli/flags.py
    except (PrecomputeError, cache.StoreError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("error: interrupted; the same command with --resume goes on", file=sys.stderr)
    return 1


if __name__ == "__main__":
    from kdcli.flags import exit_with

    exit_with(main)
