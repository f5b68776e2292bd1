"""One HTML file that shows teacher and students side by side: numbers, curves, confidence, persons.

    python -m train report --store val.zarr --runs runs/baseline runs/distilled --out report.html
    python -m train report --store val.zarr --runs runs/seed0 runs/seed1 runs/seed2 --out seeds.html

Everything on it is measured anew from the store and each run's best.pt. It opens in any browser and asks nothing of a
network. docs/looking.md says what each part answers.
"""

import argparse
from pathlib import Path


def add_arguments(report: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    report.add_argument("--store", type=Path, required=True, help="validation store")
    report.add_argument("--runs", type=Path, nargs="+", required=True, metavar="DIR", help="run folders")
    report.add_argument("--out", type=Path, required=True, metavar="FILE", help="the page")
    report.add_argument("--images", type=Path, metavar="DIR", help="image folder, for a store without frames")


def run(arguments: argparse.Namespace) -> int:
    """Write the page; 0 when done."""
    import cache
    from train.show.report.page import write_report

    write_report(cache.open_store(arguments.store), arguments.runs, arguments.out, arguments.images)
    print(f"report: {arguments.out}")
    return 0
