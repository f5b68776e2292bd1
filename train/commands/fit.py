"""`distill` and `baseline`: one training run, with the store's teacher or with the labels alone."""

import argparse
from pathlib import Path
from typing import Final

from kdcli.config_file import add_config
from kdcli.flags import DEVICE, positive
from train.commands.evaluate import summary
from train.errors import TrainError

DISTILL: Final = """\
Train a student on what a store's teacher said; the teacher itself is not needed.

    python -m train distill --store train.zarr --val-store val.zarr --out runs/distilled
    python -m train distill --config configs/coco.toml --out runs/coco     # flags from a file; those typed win
    python -m train distill ... --temperature 2 --gt-weight 0.5     # a softer teacher, and the labels beside it
    python -m train distill ... --resume                            # go on with an interrupted run
    torchrun --nproc-per-node 2 -m train distill ...                # several processes, the same student

The run folder gets best.pt (of the epoch with the highest AP on --val-store), last.pt to go on from, config.json,
history.jsonl, metrics.json, and TensorBoard's view. docs/choosing.md says which knobs matter.
"""

BASELINE: Final = """\
Train the same student on the labels alone: what distillation has to beat.

    python -m train baseline --store train.zarr --val-store val.zarr --out runs/baseline
    python -m train baseline --config configs/coco.toml --out runs/baseline     # the recipe of the distilled run
    python -m train baseline ... --resume                           # go on with an interrupted run

Give it the flags of the distilled run, --seed too: then the teacher is all that differs.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of both commands."""
    from train import recipe

    add_config(parser)
    parser.add_argument("--store", type=Path, required=True, help="store to learn from")
    parser.add_argument("--val-store", type=Path, required=True, help="store that chooses the best checkpoint")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="run folder")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    parser.add_argument("--overwrite", action="store_true", help="throw away the run in --out")
    parser.add_argument("--images", type=Path, metavar="DIR", help="image folder of a store without frames")
    parser.add_argument("--val-images", type=Path, metavar="DIR", help="the same for --val-store")
    parser.add_argument("--threads", type=positive, metavar="N", help="threads that make batches")
    parser.add_argument("--device", default="auto", help=DEVICE)
    parser.add_argument("--compile", action="store_true", help="torch.compile the student, where a compiler is found")
    parser.add_argument(
        "--checkpoint-every",
        default="5m",
        metavar="STEPS|MINUTESm",
        help="write last.pt so often, e.g. 500 or 5m, beside the end of each epoch (default: 5m)",
    )
    parser.add_argument(
        "--skip-bad-records", action="store_true", help="replace corrupt records by others, and count them, not stop"
    )
    recipe.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Train; 0 when done."""
    import cache
    from train.recipe import Recipe
    from train.run.folder import refuse_foreign, refuse_unusable
    from train.run.loop import fit
    from train.run.ranks import join
    from train.run.settings import Interval, Run

    recipe, interval = Recipe.from_arguments(arguments), Interval.parse(arguments.checkpoint_every)
    if arguments.overwrite and arguments.resume:
        raise TrainError("--resume goes on with a run and --overwrite throws it away: give one of them")
    refuse_unusable(arguments.out)
    if arguments.overwrite:
        refuse_foreign(arguments.out)
    ranks = join(arguments.device)
    with ranks.together():
        store, val_store = cache.open_store(arguments.store), cache.open_store(arguments.val_store)
    run = Run(
        store=store,
        val_store=val_store,
        out=arguments.out,
        recipe=recipe,
        distil=arguments.command == "distill",
        device=ranks.device,
        resume=arguments.resume,
        overwrite=arguments.overwrite,
        images=arguments.images,
        val_images=arguments.val_images,
        threads=arguments.threads,
        skip_bad_records=arguments.skip_bad_records,
        compile=arguments.compile,
        checkpoint_every=interval,
        ranks=ranks,
    )
    metrics = fit(run)
    if ranks.first:
        print(summary(metrics))
    return 0
