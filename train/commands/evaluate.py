"""Measure AP, AR and PCK of a student, or of a store's teacher, on the instances of a store.

    python -m train evaluate --store val.zarr --teacher             # check the teacher before training
    python -m train evaluate --store val.zarr --student runs/distilled/best.pt
    python -m train evaluate --store val.zarr --student student.onnx --out metrics.json
    python -m train evaluate ... --decoder argmax                   # the peak, shifted by a quarter pixel, as in HRNet

The teacher's keypoints are decoded from the heatmaps in the store, as in HRNet's own evaluation. This takes seconds and
does not run a network.
"""

import argparse
from pathlib import Path
from typing import Any

from kdcli.flags import DEVICE, local_path
from kdcli.words import percentage
from kdlib.readout import DECODER, DECODER_HELP
from train.errors import check_is_not_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument("--store", type=Path, required=True, help="store to evaluate on")
    subject = parser.add_mutually_exclusive_group(required=True)
    subject.add_argument("--student", type=Path, metavar="PATH", help="RUN/best.pt, an .onnx file, or a release")
    subject.add_argument("--teacher", action="store_true", help="evaluate the heatmaps in the store")
    parser.add_argument(
        "--decoder", choices=["argmax", "dark"], help=f"{DECODER_HELP} (default: {DECODER}; for the teacher: argmax)"
    )
    parser.add_argument("--out", type=local_path, metavar="FILE", help="also write the metrics as JSON")
    parser.add_argument("--images", type=Path, metavar="DIR", help="image folder, for a store without frames")
    parser.add_argument("--device", default="auto", help=DEVICE)


def run(arguments: argparse.Namespace) -> int:
    """Measure, print one line, and write the metrics if ``--out`` is given; returns 0."""
    import cache
    from kdcli.progress import show_progress
    from kdlib.machine.device import forbid_tf32
    from kdlib.metrics.evaluation import sigmas_note
    from kdlib.samples.dataset import store_skeleton
    from kdlib.students.cost import complexity
    from kdlib.students.loading import TorchStudent, load_student
    from train import evaluate

    if arguments.out:
        check_is_not_folder(arguments.out, "metrics.json")
    store = cache.open_store(arguments.store)
    extra: dict[str, Any] = {}
    decoder = arguments.decoder or ("argmax" if arguments.teacher else DECODER)
    if arguments.teacher:
        name = str(store.manifest["provenance"]["teacher"]["name"])
        predictions = evaluate.cached_teacher(store, decoder)
    else:
        forbid_tf32()
        student = load_student(arguments.student, arguments.device)
        name, device = student.name, student.device
        if isinstance(student, TorchStudent):
            extra = complexity(student.model, student.input_size)
            student.model.to(device)
        evaluate.check_joints(store, student.skeleton, str(arguments.student))
        loader = evaluate.student_loader(store, student.input_size, 64, device, arguments.images)
        with show_progress("evaluate", "batches") as progress:
            predictions = evaluate.predict(student, loader, decoder=decoder, progress=progress)
    metrics = {
        **evaluate.measure(store, predictions),
        **extra,
        "decoder": decoder,
        "model": name,
        "store": store.path.name,
    }
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(evaluate.to_json(metrics, indent=2) + "\n", encoding="utf-8", newline="\n")
    print(summary(metrics))
    if note := sigmas_note(store_skeleton(store)):
        print(note)
    return 0


def summary(metrics: dict[str, Any]) -> str:
    """The most important metrics in one line; ``-`` for those that the store has no labels for."""
    names = ["ap", "ap50", "ar", "pck@0.05", "pck@0.1", "pck@0.2"]
    names += [name for name in ("pckh@0.5", "auc") if name in metrics]
    numbers = ", ".join(f"{name} {percentage(metrics[name])}" for name in names)
    if "epe" in metrics:
        numbers += f", epe {percentage(metrics['epe'])} pixels"
    return f"{metrics['model']} on {metrics['instances']} instances of {metrics['store']}: {numbers}"
