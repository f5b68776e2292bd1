"""Show a gallery in FiftyOne's App: labels and predictions over the original images.

    python -m train.show.gallery --gallery runs/fiftyone --images data/val2017

The program needs FiftyOne, but neither torch nor a store. `python -m train fiftyone` writes a gallery and starts it.
"""

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import Any, Final

from kdcli.flags import Parser, exit_with, run_command
from kdlib.errors import KdlibError
from train.errors import TrainError
from train.show.gallery.app import HOST, check_port_free
from train.show.gallery.dataset import build
from train.show.gallery.read import read_gallery

PORT: Final = 5151


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m train.show.gallery", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gallery", type=Path, required=True, metavar="DIR", help="folder of COCO files")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder of the original images")
    parser.add_argument("--port", type=int, default=PORT, help="port of the App (default: %(default)s)")
    parser.add_argument("--no-app", action="store_true", help="build the dataset, but do not open the App")
    return parser


def _has_display() -> bool:
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def _open_app(fo: Any, dataset: Any, port: int) -> None:
    """Run the App on this machine until it is interrupted, which also works while it starts.

    Without a display this prints the address to open and the command for another machine. FiftyOne's own message
    always names port 5151.
    """
    remote = not _has_display()
    logging.getLogger("fiftyone.core.session.session").setLevel(logging.WARNING)
    try:
        session = fo.launch_app(dataset, port=port, address=HOST, remote=remote)
        print(f"open http://localhost:{port}/datasets/{dataset.name} (Ctrl-C stops the App)", flush=True)
        if remote:
            print(f"on another machine, first run: ssh -N -L {port}:{HOST}:{port} THIS_MACHINE", flush=True)
        session.wait(-1)
    except KeyboardInterrupt:
        fo.close_app()


def _connect(fo: Any) -> None:
    """Start FiftyOne's database or connect to it.

    Raises:
        TrainError: If there is none, or FiftyOne does not accept its version.
    """
    from fiftyone.core.config import FiftyOneConfigError
    from fiftyone.core.service import ServiceListenTimeout

    try:
        fo.list_datasets()
    except (FiftyOneConfigError, ServiceListenTimeout, ConnectionError, RuntimeError) as error:
        reason = str(error).partition(". ")[0]
        raise TrainError(f"FiftyOne has no database that it can use ({reason}); see docs/looking.md") from error


def _show(arguments: argparse.Namespace) -> None:
    if not arguments.no_app:
        check_port_free(arguments.port)
    gallery = read_gallery(arguments.gallery, arguments.images)
    os.environ.setdefault("FIFTYONE_DO_NOT_TRACK", "true")
    try:
        import fiftyone as fo
    except ImportError as error:
        raise TrainError("FiftyOne is not installed here: pip install fiftyone") from error
    _connect(fo)
    dataset = build(fo, gallery)
    print(f"dataset {dataset.name!r}: {len(dataset)} images, {dataset.count('boxes.detections')} persons")
    if not arguments.no_app:
        _open_app(fo, dataset, arguments.port)


def main(argv: list[str] | None = None) -> int:
    """Build the dataset and open the App; returns 0, or 1 after an error, with one line on stderr."""
    arguments = _parser().parse_args(argv)
    return run_command(lambda: _show(arguments), (KdlibError,))


if __name__ == "__main__":
    exit_with(main)
