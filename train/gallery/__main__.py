"""Show a gallery in FiftyOne: labels and networks over the original images, the worst first where one asks.

    python -m train.gallery --gallery runs/fiftyone --images data/val2017

It needs FiftyOne and nothing else: no torch, no store. `python -m train fiftyone` writes a gallery and calls it.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from console.flags import Parser
from train.errors import TrainError
from train.gallery.fiftyone_dataset import build
from train.gallery.read import read_gallery

PORT = 5151


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m train.gallery", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gallery", type=Path, required=True, metavar="DIR", help="folder of COCO files")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder of the original images")
    parser.add_argument("--port", type=int, default=PORT, help="of the App (default: %(default)s)")
    parser.add_argument("--no-app", action="store_true", help="make the dataset and stop")
    return parser


def _has_display() -> bool:
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def _open_app(fo: Any, dataset: Any, port: int) -> None:
    """Serve the App to this machine alone until it is interrupted.

    Where there is no display, the browser is the reader's to open.
    """
    session = fo.launch_app(dataset, port=port, address="127.0.0.1", remote=not _has_display())
    print(f"open http://localhost:{port}/datasets/{dataset.name} (Ctrl-C ends it)", flush=True)
    try:
        session.wait(-1)
    except KeyboardInterrupt:
        session.close()


def main(argv: list[str] | None = None) -> int:
    """Build the dataset and open the App; 0 when done, 1 with one line on stderr when refused."""
    arguments = _parser().parse_args(argv)
    os.environ.setdefault("FIFTYONE_DO_NOT_TRACK", "true")
    try:
        import fiftyone as fo
    except ImportError:
        print("error: there is no FiftyOne here: pip install fiftyone", file=sys.stderr)
        return 1
    from fiftyone.core.config import FiftyOneConfigError

    try:
        dataset = build(fo, read_gallery(arguments.gallery, arguments.images))
    except TrainError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except FiftyOneConfigError as error:
        reason = str(error).partition(". ")[0]
        print(f"error: FiftyOne has no database ({reason}); docs/looking.md says what to install", file=sys.stderr)
        return 1
    print(f"dataset {dataset.name!r}: {len(dataset)} images, {dataset.count('boxes.detections')} persons")
    if not arguments.no_app:
        _open_app(fo, dataset, arguments.port)
    return 0


if __name__ == "__main__":
    sys.exit(main())
