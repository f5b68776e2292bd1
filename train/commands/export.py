"""Write the student of a checkpoint as a file that runs without this project.

    python -m train export --student runs/distilled/best.pt --store val.zarr --out student.onnx
    python -m train export ... --out student.pt2        # an archive of torch.export
    python -m train export ... --int8                   # also writes student.int8.onnx; prints AP and PCK of both
    python -m train export ... --normalised             # normalised float input, e.g. for --teacher onnx:FILE
    python -m train export ... --card                   # also writes a model card, student.md with student.svg

The file is kept only if its heatmaps agree with PyTorch's on crops of --store (without --store: on random noise).
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from kdcli.files import replacing
from kdcli.flags import local_path, positive
from kdcli.words import percentage
from train.errors import TrainError

if TYPE_CHECKING:
    from kdlib.students.loading import LoadedStudent, TorchStudent
    from train.deploy.network import Deployable

REPEATS: Final = 20
"""Runs of the network per timing. The median is printed, without the first quarter of the runs."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument(
        "--student", type=Path, required=True, metavar="FILE", help="checkpoint, e.g. RUN/best.pt, or a release folder"
    )
    parser.add_argument("--out", type=local_path, required=True, metavar="FILE", help="NAME.onnx or NAME.pt2")
    parser.add_argument("--store", type=Path, help="store with the crops to check the file on (default: random noise)")
    parser.add_argument(
        "--normalised", action="store_true", help="take (B, 3, H, W) float32 input that the caller normalises"
    )
    parser.add_argument(
        "--int8", action="store_true", help="also write NAME.int8.onnx, and measure both files on --store"
    )
    parser.add_argument("--card", action="store_true", help="also write NAME.md and NAME.svg, a card of the student")
    parser.add_argument("--calibrate", type=Path, metavar="STORE", help="store to calibrate int8 on (default: --store)")
    add_check_arguments(parser)


def add_check_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the checks of exported files."""
    parser.add_argument("--images", type=Path, metavar="DIR", help="image folder, for a store without frames")
    parser.add_argument(
        "--check", type=positive, default=64, metavar="N", help="number of crops to check on (default: 64)"
    )
    parser.add_argument(
        "--calibration-crops",
        type=positive,
        default=128,
        metavar="N",
        help="number of crops to calibrate on (default: 128)",
    )
    parser.add_argument(
        "--max-drop",
        type=float,
        default=2.0,
        metavar="POINTS",
        help="largest accepted loss of PCK@0.1 of the int8 file, in points; of AP on a store without labels of its "
        "persons (default: 2)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Export, check, and quantise if ``--int8`` is given; returns 0.

    Raises:
        TrainError: If a flag is missing, int8 cannot be measured on the store, or an exported file differs too much
            from PyTorch; that file is not kept.
    """
    from kdlib.students.loading import load_checkpoint
    from kdlib.students.release import student_file
    from train.deploy.formats import FORMATS
    from train.deploy.network import Deployable, describe
    from train.show.card.writing import check_replaceable

    suffix = arguments.out.suffix
    if suffix not in FORMATS:
        raise TrainError(f"--out must end in {' or '.join(FORMATS)}, got {arguments.out}")
    if arguments.int8 and (suffix != ".onnx" or arguments.store is None):
        raise TrainError(
            "--int8 quantises an ONNX file and measures it on a store: give --out NAME.onnx and --store STORE"
        )
    checkpoint = student_file(arguments.student)
    if arguments.card:
        check_replaceable(arguments.out.with_suffix(".md"))
    if arguments.int8:
        _judge_of_int8(arguments.store)  # refuses before anything is computed
    student = load_checkpoint(checkpoint)
    network = Deployable(student, normalised=arguments.normalised)
    facts = describe(student, normalised=arguments.normalised)
    export_float32(arguments, student, network, facts)
    measured = {}
    if arguments.int8:
        measured = export_int8(arguments, student, network, {**facts, "precision": "int8"})
    if arguments.card:
        _write_card(arguments, checkpoint, measured)
    return 0


def _judge_of_int8(path: Path) -> str:
    """The metric that decides whether the int8 file is kept: PCK@0.1, or AP if the store's persons have no labels."""
    import cache
    from train.evaluate import labels_of

    has_ap, has_pck = labels_of(cache.open_store(path))
    if not (has_ap or has_pck):
        raise TrainError(
            f"{path} has no ground truth, so int8 cannot be measured on it: give a --store with labelled persons; "
            "--calibrate takes a store without labels"
        )
    return "pck@0.1" if has_pck else "ap"


def _write_card(arguments: argparse.Namespace, checkpoint: Path, measured: dict[Path, dict[str, Any]]) -> None:
    """Write the card of the exported files beside them; the store is used if it is one of the run's."""
    import cache
    from train.deploy.measurements import list_checkpoint, list_exported
    from train.show.card.facts import read_run, stores_of
    from train.show.card.text import Card
    from train.show.card.writing import write_card

    out = arguments.out.with_suffix(".md")
    stores = stores_of(checkpoint, [cache.open_store(arguments.store)] if arguments.store else [])
    run = read_run(checkpoint, stores)
    files = list_exported(run, list(measured) or [arguments.out], out.parent, measured)
    card = Card(run, [*files, list_checkpoint(run, checkpoint, out.parent)], out.with_suffix(".svg").name)
    write_card(card, out)
    print(f"card: {out}")


def export_float32(
    arguments: argparse.Namespace, student: "TorchStudent", network: "Deployable", facts: dict[str, Any]
) -> None:
    """Write ``arguments.out`` and keep it if it agrees with PyTorch; raises `TrainError` if it does not."""
    from train.deploy.agreement import check_agreement, compare
    from train.deploy.formats import FORMATS
    from train.deploy.network import sample_crops

    write, read = FORMATS[arguments.out.suffix]
    crops, source = _crops(arguments, student.input_size)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(arguments.out) as path:
        write(network, sample_crops(student), facts, path)
        agreement = compare(network, read(network, path), crops)
        check_agreement(agreement, arguments.out)
    shape = "x".join(map(str, network.inputs(sample_crops(student, 1)).shape[1:]))
    print(f"{arguments.out}: {megabytes(arguments.out)}, input image Bx{shape} {facts['input']}, output heatmaps")
    print(f"checked against PyTorch on {len(crops)} crops of {source}: {agreement}")


def _crops(arguments: argparse.Namespace, input_size: tuple[int, int]) -> tuple[NDArray[np.uint8], str]:
    """The crops to check on, and their source for the message."""
    import cache
    from train.deploy.agreement import noise_crops, store_crops

    if arguments.store is None:
        return noise_crops(input_size, arguments.check), "noise (no --store was given)"
    store = cache.open_store(arguments.store)
    return store_crops(store, input_size, arguments.check, arguments.images), arguments.store.name


def export_int8(
    arguments: argparse.Namespace, student: "TorchStudent", network: "Deployable", facts: dict[str, Any]
) -> dict[Path, dict[str, Any]]:
    """Quantise the ONNX file ``arguments.out``, and keep the int8 file if it loses little accuracy.

    Returns:
        The measurements of both files.

    Raises:
        TrainError: If the int8 file loses too much accuracy.
    """
    import cache
    from kdlib.students.loading import OnnxStudent
    from train.deploy.agreement import store_crops
    from train.deploy.quantise import quantise

    target, judge = arguments.out.with_suffix(".int8.onnx"), _judge_of_int8(arguments.store)
    calibration = cache.open_store(arguments.calibrate or arguments.store)
    images = arguments.images if arguments.calibrate is None else None
    crops = store_crops(calibration, student.input_size, arguments.calibration_crops, images)
    with replacing(target) as path:
        quantise(network, arguments.out, crops, facts, path)
        before = _measure(arguments, OnnxStudent(arguments.out), crops)
        after = _measure(arguments, OnnxStudent(path), crops)
        print(_table({"float32": (arguments.out, before), "int8": (path, after)}))
        loss = before[judge] - after[judge]
        if not loss <= arguments.max_drop:
            raise TrainError(
                f"{target} was not kept: int8 costs {loss:.1f} points of {judge.upper()}, more than --max-drop "
                f"{arguments.max_drop:g}; calibrate on more crops (--calibration-crops), or use {arguments.out.name}"
            )
    print(f"{target}: {megabytes(target)}, calibrated on {len(crops)} crops of {calibration.path.name}")
    return {arguments.out: before, target: after}


def _measure(arguments: argparse.Namespace, student: "LoadedStudent", crops: NDArray[np.uint8]) -> dict[str, Any]:
    """AP and PCK in percent on the store, and ``ms``, milliseconds per crop."""
    import torch

    import cache
    from train import evaluate

    store = cache.open_store(arguments.store)
    loader = evaluate.student_loader(store, student.input_size, 16, torch.device("cpu"), arguments.images)
    predictions = evaluate.predict(student, loader)
    return {
        **evaluate.measure(store, predictions),
        "store": store.path.name,
        "ms": _milliseconds(student, crops[:1]),
    }


def _milliseconds(student: "LoadedStudent", crop: NDArray[np.uint8]) -> float:
    from train.deploy.measurements import time_crops

    return float(np.median(time_crops([student], crop, REPEATS)[0, REPEATS // 4 :]))


def _table(rows: dict[str, tuple[Path, dict[str, Any]]]) -> str:
    lines = [f"{'':8}{'AP':>8}{'PCK@0.05':>10}{'PCK@0.1':>9}{'ms/crop':>9}{'size':>10}"]
    lines += [
        f"{name:8}{percentage(m['ap']):>8}{percentage(m['pck@0.05']):>10}{percentage(m['pck@0.1']):>9}"
        f"{m['ms']:9.2f}{megabytes(path):>10}"
        for name, (path, m) in rows.items()
    ]
    return "\n".join(lines)


def megabytes(path: Path) -> str:
    """The size of a file, e.g. ``7.9 MB``."""
    return f"{path.stat().st_size / 1e6:.1f} MB"
