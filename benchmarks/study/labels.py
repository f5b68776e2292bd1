r"""Students trained on N persons, on the labels or on the teacher: `python -m benchmarks.study.labels`.

    for n in 250 500 1000; do python -m precompute ... --limit $n --store train$n.zarr; done
    python -m benchmarks.study.labels --store train.zarr --parts train250.zarr train500.zarr train1000.zarr \
        --val-store val.zarr --epochs 12 --out runs/labels \
        --train-args "--input-size 128x96 --pretrained squeezenet1_1.pth"

The command trains two students on each part and on the whole store: a baseline on the labels, and a student on the
store's heatmaps without labels. All students see the same number of samples. Students of a part are evaluated more
often, which favours them slightly. The command prints a table and draws ``labels.svg`` (needs matplotlib). Finished
runs are not trained again. This takes hours and is not part of `make bench`.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np

import cache
from benchmarks.study.recipes import METRICS, train
from kdcli.flags import Parser

Curve = dict[int, dict[str, float]]
"""Number of training persons -> metrics of the student."""
SUPERVISIONS: Final = {"baseline": "labels of N persons", "distill": "the store's teacher on the same N, no label"}
"""Command of `python -m train` -> its supervision, as named in the table."""
COLOURS: Final = ("#4477aa", "#ee6677")


def count_records(store: Path) -> int:
    """Count the usable records of a store."""
    return int(np.count_nonzero(cache.open_store(store).written))


def table(curves: Mapping[str, Curve]) -> str:
    """Format the metrics as a Markdown table, one row per student."""
    lines = ["| student | " + " | ".join(METRICS) + " |", "|---" * (len(METRICS) + 1) + "|"]
    for command, curve in curves.items():
        for count, metrics in curve.items():
            name = SUPERVISIONS[command].replace("N", f"{count:,}")
            lines.append("| " + " | ".join([name, *(f"{metrics[metric]:.1f}" for metric in METRICS)]) + " |")
    return "\n".join(lines)


def draw(curves: Mapping[str, Curve], path: Path) -> None:
    """Draw AP over persons for both supervisions as SVG; a dashed line marks the teacher on all persons."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "labels"  # the same file from the same numbers
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    for i, (command, curve) in enumerate(curves.items()):
        counts, heights = list(curve), [metrics["ap"] for metrics in curve.values()]
        axes.plot(counts, heights, "o-", color=COLOURS[i], label=SUPERVISIONS[command])
        for count, height in curve.items():
            at, beside = (count, height["ap"]), (0, 7 if i else -15)
            axes.annotate(f"{height['ap']:.1f}", at, textcoords="offset points", xytext=beside, ha="center")
    axes.axhline(heights[-1], color=COLOURS[-1], linestyle="--", linewidth=0.8)
    axes.set(xscale="log", xticks=counts, xticklabels=[f"{n:,}" for n in counts], xlabel="persons", ylabel="AP")
    axes.set_ylim(0, 1.15 * max(metrics["ap"] for curve in curves.values() for metrics in curve.values()))
    axes.minorticks_off()
    axes.legend(loc="lower right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _run(command: str, store: Path, name: str, epochs: int, options: argparse.Namespace) -> dict[str, float] | None:
    given = {**vars(options), "store": store, "train_args": f"{options.train_args} --epochs {epochs}"}
    return train(command, options.seed, options.out / name, argparse.Namespace(**given))


def main(argv: list[str] | None = None) -> int:
    """Train, print and draw; return 1 if a run failed."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True, help="store of all persons")
    parser.add_argument("--parts", type=Path, nargs="+", default=[], help="stores of parts of these persons")
    parser.add_argument("--val-store", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and of labels.svg")
    parser.add_argument("--epochs", type=int, required=True, help="epochs over --store; a part gets as many samples")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train-args", default="", help="flags for every run")
    options = parser.parse_args(argv)
    counts = {store: count_records(store) for store in (*options.parts, options.store)}
    curves: dict[str, Curve] = {command: {} for command in SUPERVISIONS}
    for store, count in sorted(counts.items(), key=lambda counted: counted[1]):
        epochs = round(options.epochs * counts[options.store] / count)
        for command, curve in curves.items():
            metrics = _run(command, store, f"{command}-{count}-{options.seed}", epochs, options)
            if metrics is None:
                return 1
            curve[count] = metrics
    print(table(curves))
    draw(curves, options.out / "labels.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
