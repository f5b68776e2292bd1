"""Write a model card: what a run's student is, its numbers and their limits, its origin, its licences, and its use.

    python -m train card runs/distilled                          # writes runs/distilled/card.md
    python -m train card runs/distilled --student student.onnx   # writes student.md beside the exported file
    python -m train card runs/distilled --store train.zarr val.zarr --license apache-2.0

The card is Markdown with the YAML header that the Hugging Face Hub reads. A picture of the learning curves is written
beside it. The numbers come from the run folder and, with confidence intervals, from a report of the run. The manifests
of the stores come from config.json; for runs of versions that did not record them, give the stores. The card says what
is not known.
"""

import argparse
import re
from pathlib import Path

from kdcli.flags import local_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder")
    parser.add_argument(
        "--out",
        type=local_path,
        metavar="FILE",
        help="card to write, NAME.md (default: beside --student, else RUN/card.md)",
    )
    parser.add_argument(
        "--student",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="exported files of this run, to list first",
    )
    add_source_arguments(parser)


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that name the sources of a card, and the licence."""
    parser.add_argument(
        "--store",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="STORE",
        help="training and validation store of the run",
    )
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FILE",
        help="report of this run (default: report.html in the run folder or beside it, if it is of this run)",
    )
    parser.add_argument(
        "--license",
        type=_license,
        metavar="ID",
        help="licence of the student, as the Hub names it, e.g. apache-2.0 (default: not stated)",
    )


def _license(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9]+([.-][a-z0-9]+)*", text):
        raise argparse.ArgumentTypeError(f"an identifier such as apache-2.0 is needed, got {text!r}")
    return text


def run(arguments: argparse.Namespace) -> int:
    """Write the card; returns 0.

    Raises:
        TrainError: If RUN is not a run, a store, report or exported file is not of this run, or a file cannot be
            written.
    """
    import cache
    from train.deploy.measurements import list_checkpoint, list_exported
    from train.show.card.facts import read_run
    from train.show.card.text import Card
    from train.show.card.writing import CARD, check_replaceable, write_card

    folder = arguments.run if arguments.run.is_dir() else arguments.run.parent
    beside = arguments.student[0].with_suffix(".md") if arguments.student else folder / CARD
    out = arguments.out or beside
    check_replaceable(out)
    found = read_run(arguments.run, [cache.open_store(store) for store in arguments.store], arguments.report)
    files = list_exported(found, arguments.student, out.parent)
    files.append(list_checkpoint(found, found.checkpoint, out.parent))
    write_card(Card(found, files, out.with_suffix(".svg").name, arguments.license), out)
    print(f"card: {out}")
    return 0
