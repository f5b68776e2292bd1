"""The commands `distill` and `baseline`: one training run, on the teacher's heatmaps or on the labels alone."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kdcli.config_file import add_config
from kdcli.flags import DEVICE, Repeated, local_path, positive, weighted
from train import recipe
from train.commands.evaluate import summary
from train.errors import TrainError

if TYPE_CHECKING:
    from cache import Store

DISTILL: Final = """\
Train a student on the teacher's heatmaps in a store; the teacher itself is not needed.

    python -m train distill --store train.zarr --val-store val.zarr --out runs/distilled
    python -m train distill --config configs/coco.toml --out runs/coco     # flags from a file
    python -m train distill --store coco.zarr --store mine.h5:3 ... # several stores; persons of mine.h5 three times
    python -m train distill ... --temperature 2 --gt-weight 0.5     # softer targets, and also the labels
    python -m train distill ... --resume                            # continue an interrupted run
    torchrun --nproc-per-node 2 -m train distill ...                # two processes train one student

The run folder contains best.pt (the epoch with the highest AP on --val-store; of epochs with equal AP, the one with the
highest PCK@0.05), last.pt (to resume from), config.json, history.jsonl, metrics.json, and TensorBoard's events.
docs/choosing.md explains which settings matter.
"""

BASELINE: Final = """\
Train the same student on the labels alone, for comparison with distillation.

    python -m train baseline --store train.zarr --val-store val.zarr --out runs/baseline
    python -m train baseline --config configs/coco.toml --out runs/baseline     # the recipe of the distilled run
    python -m train baseline ... --resume                           # continue an interrupted run

Give it the flags of the distilled run, including --seed. The two runs then differ in the teacher only.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of both commands."""
    add_config(parser)
    parser.add_argument(
        "--store",
        type=weighted,
        action=Repeated,
        required=True,
        metavar="STORE[:WEIGHT]",
        help="store to train on; several --store are mixed. WEIGHT is how often each person of the store is seen per "
        "epoch, e.g. 3 or 0.5 (default: 1)",
    )
    parser.add_argument(
        "--val-store", type=Path, required=True, help="store to validate on after each epoch, to choose best.pt"
    )
    parser.add_argument("--out", type=local_path, required=True, metavar="DIR", help="run folder")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out")
    parser.add_argument("--overwrite", action="store_true", help="delete the run in --out and start again")
    parser.add_argument(
        "--images",
        type=Path,
        action=Repeated,
        metavar="DIR",
        help="image folder, for a --store without frames; with several, for all --store without frames, or one folder "
        "for each of them, in their order",
    )
    parser.add_argument("--val-images", type=Path, metavar="DIR", help="image folder, for a --val-store without frames")
    parser.add_argument(
        "--threads",
        type=positive,
        metavar="N",
        help="threads that load batches, for training and evaluation, per process (default: one per core)",
    )
    parser.add_argument("--device", default="auto", help=DEVICE)
    parser.add_argument("--compile", action="store_true", help="use torch.compile, if it works on this machine")
    parser.add_argument(
        "--resident",
        choices=["off", "auto", "on"],
        default="off",
        help="keep the store's frames and heatmaps in the memory of the device: on, or auto (on a GPU, if they fit) "
        "(default: off)",
    )
    parser.add_argument(
        "--checkpoint-every",
        default="5m",
        metavar="STEPS|MINUTESm",
        help="interval between checkpoints within an epoch, e.g. 500 or 5m (default: 5m)",
    )
    parser.add_argument(
        "--timeout",
        type=positive,
        default=recipe.TIMEOUT,
        metavar="SECONDS",
        help=f"how long each of several processes waits for the others (default: {recipe.TIMEOUT})",
    )
    parser.add_argument(
        "--skip-bad-records", action="store_true", help="replace corrupt records by other records, and count them"
    )
    recipe.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Train; returns 0.

    Raises:
        TrainError: If the flags contradict each other, the folder cannot be used, or the run ends early.
    """
    import cache
    from kdlib.samples.mixture import Part
    from train.run.folder import check_overwritable, check_writable
    from train.run.loop import fit
    from train.run.ranks import join
    from train.run.settings import Interval, Run

    settings, interval = recipe.Recipe.from_arguments(arguments), Interval.parse(arguments.checkpoint_every)
    if arguments.overwrite and arguments.resume:
        raise TrainError("--resume continues a run and --overwrite deletes it: give one of them")
    check_writable(arguments.out)
    if arguments.overwrite:
        check_overwritable(arguments.out)
    ranks = join(arguments.device, timeout=arguments.timeout)
    with ranks.fail_together():
        opened = [cache.open_store(place) for place, _ in arguments.store]
        folders = image_folders(opened, arguments.images or [])
        parts = [
            Part(store, weight, images)
            for store, (_, weight), images in zip(opened, arguments.store, folders, strict=True)
        ]
        val_store = cache.open_store(arguments.val_store)
    run = Run(
        store=tuple(parts),
        val_store=val_store,
        out=arguments.out,
        recipe=settings,
        distil=arguments.command == "distill",
        device=ranks.device,
        resume=arguments.resume,
        overwrite=arguments.overwrite,
        val_images=arguments.val_images,
        threads=arguments.threads,
        skip_bad_records=arguments.skip_bad_records,
        compile=arguments.compile,
        resident=arguments.resident,
        checkpoint_every=interval,
        ranks=ranks,
    )
    metrics = fit(run)
    if ranks.first:
        print(summary(metrics))
    return 0


def image_folders(stores: Sequence["Store"], given: Sequence[Path]) -> list[Path | None]:
    """The image folder of each training store; None for a store whose frames are read.

    One store is read from its folder even if it holds frames. Of several, only those without frames have a folder.

    Raises:
        TrainError: If the number of folders does not fit the number of stores that need one.
    """
    if len(stores) == 1 and len(given) <= 1:
        return [*given] or [None]
    bare = [store for store in stores if not store.has_frames]
    if not bare and given:
        raise TrainError(f"--images {given[0]} is not used: every --store holds frames; leave it out")
    if len(given) not in (0, 1, len(bare)):
        raise TrainError(
            f"--images is given {len(given)} times, but {len(bare)} of the stores hold no frames: give one folder for "
            "all of them, or one for each in the order of --store"
        )
    folders = iter(given if len(given) == len(bare) else [*given] * len(bare))
    return [None if store.has_frames else next(folders, None) for store in stores]
