"""Train, evaluate, export and run students from stores; no teacher is loaded.

    python -m train baseline --store train.zarr --val-store val.zarr --out runs/baseline
    python -m train distill  --store train.zarr --val-store val.zarr --out runs/distilled
    python -m train evaluate --store val.zarr --student runs/distilled/best.pt
    python -m train evaluate --store val.zarr --teacher
    python -m train report   --store val.zarr --runs runs/baseline runs/distilled --out report.html
    python -m train export   --student runs/distilled/best.pt --store val.zarr --out student.onnx
    python -m train card     runs/distilled --student student.onnx
    python -m train release  runs/distilled --store train.zarr val.zarr --out release
    python -m train predict  photo.jpg --student student.onnx --out predictions
    python -m train web      student.onnx --images photos/
    python -m train fiftyone --store val.zarr --images data/val2017 --teacher --student runs/distilled/best.pt

The same commands run on a CPU and on a GPU. On several GPUs: torchrun --nproc-per-node 2 -m train distill ...
--resume continues an interrupted run. --config FILE reads the flags of distill and baseline from a TOML file.
"""

import argparse
from typing import Final

from kdcli.config_file import ConfigError, parse
from kdcli.flags import Parser, exit_with, refuse, run_command
from kdlib.errors import KdlibError
from kdlib.machine.process import keep_freed_memory, wait_passively
from train.commands import card, evaluate, export, fiftyone, fit, predict, release, report, web

COMMANDS: Final = {
    "distill": (fit, "train a student on the heatmaps of a store's teacher", fit.DISTILL),
    "baseline": (fit, "train the same student on the labels alone", fit.BASELINE),
    "evaluate": (evaluate, "measure AP, AR and PCK of a student or of the store's teacher", evaluate.__doc__),
    "report": (report, "write an HTML page that compares teacher and students", report.__doc__),
    "card": (card, "write a model card of a run", card.__doc__),
    "export": (export, "write a student as an ONNX or torch.export file", export.__doc__),
    "release": (release, "gather student, card, exported files and report in one folder", release.__doc__),
    "predict": (predict, "predict keypoints in images or in a video", predict.__doc__),
    "web": (web, "serve a page that runs an exported student in the browser", web.__doc__),
    "fiftyone": (fiftyone, "show teacher and students on the original images, in FiftyOne", fiftyone.__doc__),
}
"""Each command's module, its line in the list of commands, and the description in its help."""


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser(prog="python -m train", description=__doc__, formatter_class=raw)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, text, description) in COMMANDS.items():
        usage = f"python -m train {name} --store PATH --val-store PATH --out DIR [FLAGS]" if module is fit else None
        module.add_arguments(
            commands.add_parser(name, help=text, usage=usage, description=description, formatter_class=raw)
        )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns 0, or 1 after an error, with one line on stderr."""
    try:
        arguments = parse(_parser(), argv)
    except (ConfigError, OSError) as error:
        return refuse(error)
    wait_passively()
    keep_freed_memory()
    import cache

    command = COMMANDS[arguments.command][0]
    remedy = "; run the same command with --resume to continue" if command is fit else ""
    errors = (KdlibError, cache.StoreError, OSError)
    return run_command(lambda: command.run(arguments), errors, f"interrupted{remedy}")


if __name__ == "__main__":
    exit_with(main)
