r"""Show labels, teacher and students on the original images, in FiftyOne's App. On the sample: `make fiftyone`.

    python -m train fiftyone --store val.zarr --images data/coco/val2017 --teacher \
           --student runs/baseline/best.pt runs/distilled/best.pt --python .venv-fiftyone/bin/python
    python -m train fiftyone ... --no-app                           # build the dataset and stop
    python -m train.show.gallery --gallery runs/fiftyone --images data/coco/val2017     # show it again

The command writes labels and predictions to --out as COCO files. docs/looking.md explains how to filter and sort the
persons.
"""

import argparse
import sys
from pathlib import Path

from kdcli.flags import DEVICE, local_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument("--store", type=Path, required=True, help="validation store")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder of the original images")
    parser.add_argument(
        "--student", type=Path, nargs="+", action="extend", default=[], metavar="FILE", help="checkpoints: RUN/best.pt"
    )
    parser.add_argument("--teacher", action="store_true", help="include the predictions of the store's teacher")
    parser.add_argument(
        "--out",
        type=local_path,
        default=Path("runs/fiftyone"),
        metavar="DIR",
        help="folder for the COCO files (default: %(default)s)",
    )
    parser.add_argument(
        "--python", default=sys.executable, metavar="FILE", help="Python interpreter with FiftyOne (default: this one)"
    )
    parser.add_argument("--port", type=int, default=5151, help="port of the App (default: %(default)s)")
    parser.add_argument("--no-app", action="store_true", help="build the dataset, but do not open the App")
    parser.add_argument("--device", default="auto", help=DEVICE)


def run(arguments: argparse.Namespace) -> int:
    """Write the gallery, then replace this process by one that shows it."""
    import cache
    from kdlib.machine.device import choose_device, forbid_tf32
    from train.show.gallery.app import check_database, check_fiftyone, check_port_free, exec_gallery
    from train.show.gallery.write import predictions_by_name, write_gallery

    check_fiftyone(arguments.python)
    if not arguments.no_app:
        check_port_free(arguments.port)
    check_database(arguments.python)
    store = cache.open_store(arguments.store)
    device = choose_device(arguments.device)
    forbid_tf32()
    predictions = predictions_by_name(
        store, arguments.student, teacher=arguments.teacher, device=device, images=arguments.images
    )
    write_gallery(store, predictions, arguments.out)
    print(f"gallery: {arguments.out}", flush=True)
    options = ["--gallery", str(arguments.out), "--images", str(arguments.images), "--port", str(arguments.port)]
    exec_gallery(arguments.python, [*options, *(["--no-app"] if arguments.no_app else [])])
