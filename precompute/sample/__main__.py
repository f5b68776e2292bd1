"""Write the embedded sample, drawn people in COCO's format: for a first try of the software, and for CI.

    python -m precompute.sample --out data/sample                             # the demo's sample: ~2,000 + ~400 persons
    python -m precompute.sample --out data/sample --few 150                   # the same, and a split with few labels
    python -m precompute.sample --out data/small --train 60 --val 20 --contact-sheet people.png
    python -m precompute.sample --out data/teacher --train 9000 --seed 1 --clean-train

The same options give the same files. If the folder holds this sample already, nothing is written.
"""

import argparse
from pathlib import Path

from kdcli.flags import Parser, exit_with, local_path, positive, run_command
from kdlib.machine.process import available_cores
from precompute.sample.spec import SampleSpec


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    arguments = _parser().parse_args(argv)
    from precompute.sample.dataset import SampleError

    interrupted = f"interrupted; {arguments.out} was not written"
    return run_command(lambda: _run(arguments), (SampleError, OSError), interrupted)


def _run(arguments: argparse.Namespace) -> None:
    from kdcli.progress import show_progress
    from precompute.sample.dataset import FEW, write_few, write_sample

    spec = SampleSpec(arguments.seed, arguments.train, arguments.val, arguments.clean_train)
    out: Path = arguments.out
    with show_progress("drawing people", "images") as progress:
        written = write_sample(out, spec, workers=arguments.workers, overwrite=arguments.overwrite, progress=progress)
    print(f"{out}: {'written' if written else 'holds this sample already, nothing to do'}")
    if arguments.few:
        labelled, persons = write_few(out, arguments.few)
        print(f"{out}: {labelled} of {persons:,} persons have labels in the split {FEW}")
    if arguments.contact_sheet:
        from precompute.sample.sheet import write_sheet

        write_sheet(out, arguments.contact_sheet)
        print(f"{arguments.contact_sheet}: contact sheet")


def _parser() -> argparse.ArgumentParser:
    description, _, rest = (__doc__ or "").partition("\n")
    parser = Parser(
        prog="python -m precompute.sample",
        description=description,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = SampleSpec()
    parser.add_argument("--out", type=local_path, required=True, metavar="DIR", help="folder to create")
    parser.add_argument(
        "--train", type=int, default=default.train, metavar="N", help="number of train images (default: %(default)s)"
    )
    parser.add_argument(
        "--val", type=int, default=default.val, metavar="N", help="number of val images (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=default.seed, help="random seed (default: %(default)s)")
    parser.add_argument("--clean-train", action="store_true", help="no label noise in the train split")
    parser.add_argument(
        "--few",
        type=positive,
        metavar="N",
        help="also write the split 'few': the train split, in which only the first N persons have keypoints, and the "
        "others boxes",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=available_cores(),
        metavar="N",
        help="number of processes (default: number of cores)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace another sample (other folders are never replaced)"
    )
    parser.add_argument(
        "--contact-sheet",
        type=_image_file,
        metavar="FILE",
        help="also write an image of persons and joints, .png or .jpg",
    )
    return parser


def _image_file(name: str) -> Path:
    if not name.endswith((".png", ".jpg", ".jpeg")):
        raise argparse.ArgumentTypeError(f"{name!r} must end in .png or .jpg")
    return Path(name)


if __name__ == "__main__":
    exit_with(main)
