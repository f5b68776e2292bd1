"""Serve a page that runs an exported student in the browser, on pictures or the camera.

    python -m train web student.onnx
    python -m train web student.onnx --images photos/ --port 8000
    python -m train web student.onnx --runtime node_modules/onnxruntime-web/dist

Open the printed address in a browser. Pictures and camera frames do not leave the browser. The first start installs
onnxruntime-web with npm, in the user's cache folder; the page loads nothing from other servers. Ctrl-C ends the server.
"""

import argparse
from pathlib import Path

from train.errors import TrainError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument(
        "student",
        type=Path,
        metavar="STUDENT",
        help="an .onnx file that `python -m train export` wrote, or a release folder",
    )
    parser.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="an image, or a folder of images, that the page offers",
    )
    parser.add_argument("--port", type=int, default=8765, metavar="N", help="port; 0 takes a free one (default: 8765)")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to listen on (default: 127.0.0.1, this machine only); browsers allow the camera and several "
        "threads only at 127.0.0.1 and localhost",
    )
    parser.add_argument(
        "--runtime",
        type=Path,
        metavar="DIR",
        help="folder with the files of onnxruntime-web (default: installed with npm in the user's cache folder)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C; returns 0.

    Raises:
        TrainError: If the address cannot be used, or onnxruntime-web is missing and cannot be installed.
        KdlibError: If the student or the images cannot be opened.
    """
    from kdlib.inputs.folders import find_images
    from kdlib.students.loading import OnnxStudent
    from train.deploy.web.facts import exported_file
    from train.deploy.web.runtime import default_folder, find_runtime, is_complete, pinned_version
    from train.deploy.web.server import PageServer, resources

    if arguments.port < 0:
        raise TrainError(f"--port must not be negative, got {arguments.port}")
    student = exported_file(arguments.student)
    OnnxStudent(student)  # a wrong file is refused before the installation, which takes seconds
    images = find_images(arguments.images) if arguments.images else []
    if arguments.runtime is None and not is_complete(default_folder()):
        print(f"installing onnxruntime-web {pinned_version()} in {default_folder()}", flush=True)
    runtime = find_runtime(arguments.runtime)
    with PageServer(resources(student, runtime, images), arguments.host, arguments.port) as server:
        print(f"{student} runs at {server.url} (Ctrl-C ends the server)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
    return 0
