"""Train and judge students from stores; no teacher is loaded.

    python -m train baseline --store train.zarr --val-store val.zarr --out runs/baseline
    python -m train distill  --store train.zarr --val-store val.zarr --out runs/distilled
    python -m train evaluate --store val.zarr --student runs/distilled/best.pt
    python -m train evaluate --store val.zarr --teacher
    python -m train report   --store val.zarr --runs runs/baseline runs/distilled --out report.html
    python -m train export   --student runs/distilled/best.pt --store val.zarr --out student.onnx
    python -m train predict  photo.jpg --student student.onnx --out predictions
    python -m train fiftyone --store val.zarr --images data/val2017 --teacher --student runs/distilled/best.pt

The same commands run on a CPU and on a GPU, and on several: torchrun --nproc-per-node 2 -m train distill ...
An interrupted run goes on with --resume. --config FILE takes the flags of distill and baseline from a TOML file.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, Final

from console.config_file import ConfigError, add_config, parse
from console.flags import Parser
from kdlib.allocator import keep_freed_memory
from kdlib.openmp import wait_passively
from train import manual
from train.decoding import DECODER, DECODER_HELP
from train.errors import TrainError, refuse_folder
from train.export import command as export_command
from train.predict import command as predict_command

DEVICE: Final = "auto, cpu, cuda or cuda:N (default: auto)"


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    raw = argparse.RawDescriptionHelpFormatter
    for name, text, taught in (
        ("distill", "train a student on a store's teacher", manual.DISTILL),
        ("baseline", "the same without it", manual.BASELINE),
    ):
        usage = f"python -m train {name} --store PATH --val-store PATH --out DIR [FLAGS]"
        _add_training(commands.add_parser(name, help=text, usage=usage, description=taught, formatter_class=raw))
    for name, add_arguments, text, taught in (
        ("evaluate", _add_evaluate, "AP, AR and PCK of a student or of the store's teacher", manual.EVALUATE),
        ("report", _add_report, "one HTML file that shows teacher and students side by side", manual.REPORT),
        ("export", export_command.add_arguments, "a student as ONNX or torch.export file", str(export_command.__doc__)),
        ("predict", predict_command.add_arguments, "keypoints of pictures or a video", str(predict_command.__doc__)),
        ("fiftyone", _add_fiftyone, "teacher and students on the original images, in FiftyOne", manual.FIFTYONE),
    ):
        add_arguments(commands.add_parser(name, help=text, description=taught, formatter_class=raw))
    return parser


def _add_evaluate(evaluate: argparse.ArgumentParser) -> None:
    evaluate.add_argument("--store", type=Path, required=True, help="store to evaluate on")
    who = evaluate.add_mutually_exclusive_group(required=True)
    who.add_argument("--student", type=Path, metavar="FILE", help="RUN/best.pt, or an exported .onnx")
    who.add_argument("--teacher", action="store_true", help="decode the heatmaps in the store")
    evaluate.add_argument(
        "--decoder", choices=["argmax", "dark"], help=f"{DECODER_HELP} (default: {DECODER}, a teacher argmax)"
    )
    evaluate.add_argument("--out", type=Path, metavar="FILE", help="also write the metrics as JSON")
    evaluate.add_argument("--images", type=Path, metavar="DIR", help="image folder, for a store without frames")
    evaluate.add_argument("--device", default="auto", help=DEVICE)


def _add_report(report: argparse.ArgumentParser) -> None:
    report.add_argument("--store", type=Path, required=True, help="validation store")
    report.add_argument("--runs", type=Path, nargs="+", required=True, metavar="DIR", help="run folders")
    report.add_argument("--out", type=Path, required=True, metavar="FILE", help="the page")
    report.add_argument("--images", type=Path, metavar="DIR", help="image folder, for a store without frames")


def _add_fiftyone(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--store", type=Path, required=True, help="validation store")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder of the original images")
    parser.add_argument("--student", type=Path, nargs="+", default=[], metavar="FILE", help="checkpoints: RUN/best.pt")
    parser.add_argument("--teacher", action="store_true", help="also what the store's teacher says")
    parser.add_argument("--out", type=Path, default=Path("runs/fiftyone"), metavar="DIR", help="COCO files of it all")
    parser.add_argument("--python", default=sys.executable, metavar="FILE", help="interpreter that has FiftyOne")
    parser.add_argument("--port", type=int, default=5151, help="of the App (default: %(default)s)")
    parser.add_argument("--no-app", action="store_true", help="make the dataset and stop")
    parser.add_argument("--device", default="auto", help=DEVICE)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"a positive whole number is needed, got {text}")
    return number


def _add_training(parser: argparse.ArgumentParser) -> None:
    from train.recipe import add_arguments

    add_config(parser)
    parser.add_argument("--store", type=Path, required=True, help="store to learn from")
    parser.add_argument("--val-store", type=Path, required=True, help="store that chooses the best checkpoint")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="run folder")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    parser.add_argument("--overwrite", action="store_true", help="throw away the run in --out")
    parser.add_argument("--images", type=Path, metavar="DIR", help="image folder of a store without frames")
    parser.add_argument("--val-images", type=Path, metavar="DIR", help="the same for --val-store")
    parser.add_argument("--threads", type=_positive, metavar="N", help="threads that make batches")
    parser.add_argument("--device", default="auto", help=DEVICE)
    parser.add_argument("--compile", action="store_true", help="torch.compile the student, where a compiler is found")
    parser.add_argument(
        "--checkpoint-every",
        default="5m",
        metavar="STEPS|MINUTESm",
        help="write last.pt so often, e.g. 500 or 5m, beside the end of each epoch (default: 5m)",
    )
    parser.add_argument(
        "--skip-bad-records", action="store_true", help="replace corrupt records by others, and count them, not stop"
    )
    add_arguments(parser)


def _device(name: str) -> Any:
    from kdlib.device import choose_device

    try:
        return choose_device(name)
    except ValueError as error:
        raise TrainError(str(error)) from error


def _train(arguments: argparse.Namespace) -> int:
    import cache
    from train.interval import Interval
    from train.loop import fit
    from train.ranks import join
    from train.recipe import Recipe
    from train.run import Run
    from train.run_folder import refuse_foreign, refuse_unusable

    recipe, interval = Recipe.from_arguments(arguments), Interval.parse(arguments.checkpoint_every)
    if arguments.overwrite and arguments.resume:
        raise TrainError("--resume goes on with a run and --overwrite throws it away: give one of them")
    refuse_unusable(arguments.out)
    if arguments.overwrite:
        refuse_foreign(arguments.out)
    ranks = join(arguments.device)
    with ranks.together():
        store, val_store = cache.open_store(arguments.store), cache.open_store(arguments.val_store)
    run = Run(
        store=store,
        val_store=val_store,
        out=arguments.out,
        recipe=recipe,
        distil=arguments.command == "distill",
        device=ranks.device,
        resume=arguments.resume,
        overwrite=arguments.overwrite,
        images=arguments.images,
        val_images=arguments.val_images,
        threads=arguments.threads,
        skip_bad_records=arguments.skip_bad_records,
        compile=arguments.compile,
        checkpoint_every=interval,
        ranks=ranks,
    )
    metrics = fit(run)
    if ranks.first:
        print(_summary(metrics))
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    import torch

    import cache
    from console.progress import progress
    from train import evaluate
    from train.checkpoint import load_student
    from train.complexity import complexity
    from train.export.onnx_session import OnnxStudent

    if arguments.out:
        refuse_folder(arguments.out, "metrics.json")
    store, device = cache.open_store(arguments.store), _device(arguments.device)
    extra: dict[str, Any] = {}
    decoder = arguments.decoder or ("argmax" if arguments.teacher else DECODER)
    if arguments.teacher:
        name = str(store.manifest["provenance"]["teacher"]["name"])
        predictions = evaluate.cached_teacher(store, decoder)
    elif arguments.student.suffix == ".onnx":
        exported = OnnxStudent(arguments.student, arguments.device)
        name = exported.name
        evaluate.check_joints(store, exported.joints, str(arguments.student))
        loader = evaluate.student_loader(store, exported.input_size, 64, torch.device("cpu"), arguments.images)
        with progress("evaluate", "batches") as tell:
            predictions = evaluate.predict_exported(exported, loader, loss=exported.loss, decoder=decoder, tell=tell)
    else:
        student = load_student(arguments.student)
        name, extra = student.name, complexity(student.model, student.input_size)
        evaluate.check_joints(store, student.model.joints, str(arguments.student))
        loader = evaluate.student_loader(store, student.input_size, 64, device, arguments.images)
        model = student.model.to(device)
        with progress("evaluate", "batches") as tell:
            predictions = evaluate.predict(model, student.supervision, loader, decoder=decoder, tell=tell)
    metrics = {
        **evaluate.measure(store, predictions),
        **extra,
        "decoder": decoder,
        "model": name,
        "store": store.path.name,
    }
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(evaluate.to_json(metrics, indent=2) + "\n")
    print(_summary(metrics))
    return 0


def _report(arguments: argparse.Namespace) -> int:
    import cache
    from train.report import write_report

    write_report(cache.open_store(arguments.store), arguments.runs, arguments.out, arguments.images)
    print(f"report: {arguments.out}")
    return 0


def _export(arguments: argparse.Namespace) -> int:
    export_command.run(arguments)
    return 0


def _predict(arguments: argparse.Namespace) -> int:
    return predict_command.run(arguments)


def _fiftyone(arguments: argparse.Namespace) -> int:
    import cache
    from train.gallery.interpreter import become_fiftyone, require_fiftyone
    from train.gallery.port import require_free_port
    from train.gallery.write import predictions_by_name, write_gallery

    require_fiftyone(arguments.python)
    if not arguments.no_app:
        require_free_port(arguments.port)
    store = cache.open_store(arguments.store)
    device = _device(arguments.device)
    said = predictions_by_name(
        store, arguments.student, teacher=arguments.teacher, device=device, images=arguments.images
    )
    write_gallery(store, said, arguments.out)
    print(f"gallery: {arguments.out}", flush=True)
    options = ["--gallery", str(arguments.out), "--images", str(arguments.images), "--port", str(arguments.port)]
    become_fiftyone(arguments.python, [*options, *(["--no-app"] if arguments.no_app else [])])


def _summary(metrics: dict[str, Any]) -> str:
    names = ("ap", "ap50", "ar", "pck@0.05", "pck@0.1", "pck@0.2")
    numbers = ", ".join(f"{name} {metrics[name]:.1f}" for name in names)
    return f"{metrics['model']} on {metrics['instances']} instances of {metrics['store']}: {numbers}"


COMMANDS: Final = {
    "distill": _train,
    "baseline": _train,
    "evaluate": _evaluate,
    "report": _report,
    "export": _export,
    "predict": _predict,
    "fiftyone": _fiftyone,
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; 0 when done, 1 with one line on stderr when refused."""
    try:
        arguments = parse(_parser(), argv)
    except (ConfigError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    wait_passively()
    keep_freed_memory()
    command: Any = COMMANDS[arguments.command]
    import cache

    try:
        return command(arguments)
    except BrokenPipeError:
        raise  # see console/pipe.py
    except (TrainError, cache.StoreError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        goes_on = "; the same command with --resume goes on" if arguments.command in ("distill", "baseline") else ""
        print(f"error: interrupted{goes_on}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    from console.pipe import exit_with

    exit_with(main)
