r"""Train students with different recipes and compare each with the first: `python -m benchmarks.study.recipes`.

    python -m benchmarks.study.recipes recipes --store train.zarr --val-store val.zarr --out runs/recipes \
        --seeds 0 1 2 --train-args "--input-size 128x96 --epochs 30 --pretrained squeezenet1_1.pth"

Every run is `python -m train` with the flags of its row, the seed and --train-args; student and steps are the same.
Finished runs are not trained again and interrupted runs are resumed, so the same command continues a stopped queue. The
table `views` needs a store of several views (`precompute --views 2` or more). The printed table has the mean and range
over seeds of the best checkpoint's metrics, and the difference in AP from the first row, per seed. This takes hours and
is not part of `make bench`.
"""

import argparse
import json
import shlex
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from kdcli.flags import Parser

NOTEBOOK = "distill --gt-weight 1 --logits raw --temperature 4 --joints labelled"
TABLES: dict[str, dict[str, str]] = {
    "recipes": {
        "labels alone": "baseline",
        "the notebook's": NOTEBOOK,
        "labels and teacher": "distill --gt-weight 1",
        "teacher alone": "distill",
    },
    "temperature": {
        f"{logits}, T = {temperature}": f"distill --logits {logits} --temperature {temperature}"
        for logits in ("log", "raw")
        for temperature in (0.5, 1, 2, 4, 8)
    },
    "joints": {joints: f"distill --joints {joints}" for joints in ("labelled", "all", "confidence")},
    "views": {views: f"distill --views {views}" for views in ("first", "matching", "average")}
    | {
        "replay": "distill --views replay --flip 0 --rotation 0 --scale 0",
        "replay, moved a little": "distill --views replay --flip 0 --rotation 10 --scale 0.1",
    },
    "heads": {head: f"distill --head {head}" for head in ("interp", "deconv", "pyramid", "fused")},
}
METRICS = ("ap", "ap50", "pck@0.05", "pck@0.1")


def train(flags: str, seed: int, out: Path, options: argparse.Namespace) -> dict[str, float] | None:
    """Train or resume one run, or read it if it is finished; return its metrics, or None if it failed."""
    metrics = out / "metrics.json"
    if not metrics.exists():
        command = [sys.executable, "-m", "train", *flags.split(), "--seed", str(seed)]
        command += ["--store", str(options.store), "--val-store", str(options.val_store)]
        command += ["--out", str(out), "--resume", *shlex.split(options.train_args)]
        print(shlex.join(command), file=sys.stderr, flush=True)
        if subprocess.run(command, check=False).returncode:
            return None
    return json.loads(metrics.read_text(encoding="utf-8"))


def table(rows: dict[str, list[dict[str, float] | None]]) -> str:
    """Format the metrics as a Markdown table, one row per recipe."""
    lines = ["| | " + " | ".join(METRICS) + " | AP minus that of the first row |", "|---" * (len(METRICS) + 2) + "|"]
    first = next(iter(rows.values()))
    for name, runs in rows.items():
        cells = [_cell([run[metric] for run in runs if run]) for metric in METRICS]
        gains = [run["ap"] - base["ap"] for run, base in zip(runs, first, strict=True) if run and base]
        lines.append("| " + " | ".join([name, *cells, ", ".join(f"{gain:+.1f}" for gain in gains)]) + " |")
    return "\n".join(lines)


def _cell(values: Sequence[float]) -> str:
    if not values:
        return "failed"
    several = f" ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{several}"


def main(argv: list[str] | None = None) -> int:
    """Train the runs of a table and print it; return 1 if a run failed."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--val-store", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--train-args", default="", help="flags for every run")
    options = parser.parse_args(argv)
    rows = {}
    for name, flags in TABLES[options.table].items():
        folders = [options.out / f"{_slug(name)}-{seed}" for seed in options.seeds]
        rows[name] = [train(flags, seed, out, options) for seed, out in zip(options.seeds, folders, strict=True)]
    print(table(rows))
    return int(any(run is None for runs in rows.values() for run in runs))


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name)


if __name__ == "__main__":
    sys.exit(main())
