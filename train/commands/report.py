"""Write one HTML page that compares teacher and students: metrics, learning curves, confidence, example persons.

    python -m train report --store val.zarr --runs runs/baseline runs/distilled --out report.html
    python -m train report --store val.zarr --runs runs/seed0 runs/seed1 runs/seed2 --out seeds.html

All measurements come from the store and each run's best.pt. The page opens in any browser, without a network
connection. docs/looking.md explains its parts.
"""

import argparse
from pathlib import Path

from kdcli.flags import local_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument("--store", type=Path, required=True, help="validation store")
    parser.add_argument(
        "--runs", type=Path, nargs="+", action="extend", required=True, metavar="DIR", help="run folders"
    )
    parser.add_argument("--out", type=local_path, required=True, metavar="FILE", help="HTML file to write")
    parser.add_argument("--images", type=Path, metavar="DIR", help="image folder, for a store without frames")


def run(arguments: argparse.Namespace) -> int:
    """Write the page; returns 0."""
    import cache
    from train.show.report.markup import MINUS
    from train.show.report.page import write_report

    for line in write_report(cache.open_store(arguments.store), arguments.runs, arguments.out, arguments.images):
        print(line.replace(MINUS, "-"))  # not every terminal has a minus sign
    print(f"report: {arguments.out}")
    return 0
