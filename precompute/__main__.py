r"""Run a teacher once over a data set and write its heatmaps to a store.

    python -m precompute --images DIR --annotations FILE --teacher hrnet_w32 --input-size 256x192 \
           --checkpoint pose_hrnet_w32_256x192.pth --store coco-train.zarr
    python -m precompute --data DIR --split val --teacher onnx:FILE --store val.h5
    python -m precompute --data data/coco --teacher hrnet_w48_384x288 --store coco-train.zarr   # downloads the weights
    python -m precompute --config configs/coco-teacher.toml --store coco-train.zarr     # flags from a file
    python -m precompute ... --dry-run          # estimate instances, time, bytes and disk space from a few batches
    python -m precompute ... --resume           # continue an interrupted run
    python -m precompute ... --check 100        # recompute 100 random instances and compare them with the store
    torchrun --nproc-per-node 4 -m precompute ... --resume      # four processes (GPUs); each writes its own shards
    python -m precompute ... --share 2/8        # every eighth shard, beside other processes; see docs/coco.md

STORE appears when it is complete. Until then, all files are in STORE.partial.
See docs/precompute.md for details.
"""

import argparse
import json
import os
from typing import TYPE_CHECKING

from kdcli.config_file import ConfigError, parse
from kdcli.flags import exit_with, refuse, run_command
from kdlib.machine.process import keep_freed_memory, wait_passively
from precompute.errors import PrecomputeError
from precompute.run.flags import build_parser

if TYPE_CHECKING:  # imported in the functions that use them, which keeps --help fast
    from cache import Codec
    from precompute.run.job import Job
    from precompute.run.team import SingleProcess, Team


def main(argv: list[str] | None = None) -> int:
    """Run the command. Returns 0 when done, or 1 after an error, with one line on stderr."""
    try:
        arguments = parse(_parser(), argv)
    except (ConfigError, OSError) as error:
        return refuse(error)
    wait_passively()
    keep_freed_memory()
    import cache

    errors = (PrecomputeError, cache.StoreError, OSError)
    return run_command(lambda: _run(arguments), errors, "interrupted; run the same command with --resume to continue")


def _parser() -> argparse.ArgumentParser:
    return build_parser(__doc__ or "")


def _run(arguments: argparse.Namespace) -> int:
    """Build the job that the flags describe; then write its store, check it, or estimate its cost."""
    import cache
    from cache.files.location import local_target

    if arguments.check is None:  # a check only reads the store
        arguments.store = local_target(arguments.store, "python -m precompute ... --store")

    from precompute.run.job import Job
    from precompute.run.team import join_team

    if arguments.share is not None:
        _refuse_beside_share(arguments)
        arguments.resume = True  # another process may have begun the store
    with join_team(arguments.share) as team:
        if team.size > 1 and (arguments.check is not None or arguments.dry_run):
            raise PrecomputeError("--dry-run and --check run in one process: run them without torchrun")
        codec = cache.codec_from_name(arguments.codec)
        try:
            job = Job.from_flags(arguments, team)
        except ValueError as error:  # its subclasses name what is wrong with a file, a name or a size
            raise PrecomputeError(str(error)) from error
        if arguments.check is not None:
            return _check(arguments, job)
        if arguments.dry_run:
            return _dry_run(arguments, job, codec)
        return _write(arguments, job, codec, team)


def _refuse_beside_share(arguments: argparse.Namespace) -> None:
    given = {"--overwrite": arguments.overwrite, "--dry-run": arguments.dry_run, "--check": arguments.check is not None}
    others = [flag for flag, is_given in given.items() if is_given]
    if others:
        raise PrecomputeError(f"--share writes a part of a new store; it cannot be combined with {others[0]}")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise PrecomputeError("--share is for processes that do not communicate: leave out torchrun, or --share")


def _write(arguments: argparse.Namespace, job: "Job", codec: "Codec", team: "SingleProcess | Team") -> int:
    from precompute.run.store import write_store
    from precompute.run.team import is_restarted

    resume = is_restarted() or (arguments.resume and not arguments.overwrite)
    written = write_store(job, arguments.store, codec, team, resume=resume, overwrite=arguments.overwrite)
    if written is not None:
        print(written.to_text())
    return 0


def _check(arguments: argparse.Namespace, job: "Job") -> int:
    import cache
    from kdcli.progress import show_progress
    from precompute.run.check import check

    with show_progress("check", "instances", transient=True) as progress:
        found = check(job, cache.open_store(arguments.store), arguments.check, progress)
    print(json.dumps(found.to_json(), indent=1) if arguments.json else found.to_text())
    if not found.passed:
        raise PrecomputeError(f"{arguments.store}: {found.verdict}")
    return 0


def _dry_run(arguments: argparse.Namespace, job: "Job", codec: "Codec") -> int:
    from kdcli.progress import say
    from precompute.run.dry_run import dry_run

    cost = dry_run(job, codec, arguments.store)
    for line in job.notices.lines():
        say(f"noticed: {line}")
    print(json.dumps(cost.to_json(), indent=1) if arguments.json else cost.to_text())
    return 0


if __name__ == "__main__":
    exit_with(main)
