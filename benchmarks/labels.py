r"""How many labels is a store worth? AP over the number of labelled persons: `python -m benchmarks.labels`.

    for n in 250 500 1000; do python -m precompute ... --limit $n --store train$n.zarr; done
    python -m benchmarks.labels --store train.zarr --parts train250.zarr train500.zarr train1000.zarr \
        --val-store val.zarr --epochs 12 --out runs/labels \
        --train-args "--input-size 128x96 --pretrained squeezenet1_1.pth"

Trains a baseline on the labels of each part and of the whole store, and one student on the whole store's teacher, which
needs no label. All see as many samples; a part is evaluated more often, which favours it a little. Prints a table and
draws ``labels.svg`` (needs matplotlib). A finished run is not trained again. This takes hours and is no part of `make
bench`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import cache
from benchmarks.recipes import METRICS, train
from console.flags import Parser

Point = tuple[int, dict[str, float]]
"""Labelled persons, and what a student reached from them."""


def persons(store: Path) -> int:
    """Usable records of a store."""
    return int(np.count_nonzero(cache.open_store(store).written))


def table(baselines: Sequence[Point], distilled: dict[str, float], taught: int) -> str:
    """Markdown: a row a student."""
    lines = ["| student | " + " | ".join(METRICS) + " |", "|---" * (len(METRICS) + 1) + "|"]
    rows = [(f"labels of {count} persons", metrics) for count, metrics in baselines]
    for name, metrics in [*rows, (f"no labels, the store's teacher on {taught}", distilled)]:
        lines.append("| " + " | ".join([name, *(f"{metrics[metric]:.1f}" for metric in METRICS)]) + " |")
    return "\n".join(lines)


def draw(baselines: Sequence[Point], distilled: dict[str, float], taught: int, path: Path) -> None:
    """The curve as a picture."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "labels"  # the same picture from the same numbers
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    counts, heights = [count for count, _ in baselines], [metrics["ap"] for _, metrics in baselines]
    axes.plot(counts, heights, "o-", color="#4477aa", label="from labels alone")
    says = f"from the store's teacher on {taught} persons, no labels"
    axes.axhline(distilled["ap"], color="#ee6677", linestyle="--", label=says)
    for count, height in zip(counts, heights, strict=True):
        axes.annotate(f"{height:.1f}", (count, height), textcoords="offset points", xytext=(0, -14), ha="center")
    axes.annotate(f"{distilled['ap']:.1f}", (counts[0], distilled["ap"]), textcoords="offset points", xytext=(0, 5))
    axes.set(xscale="log", xticks=counts, xticklabels=counts, xlabel="labelled persons", ylabel="AP")
    axes.set_ylim(0, 1.15 * max(*heights, distilled["ap"]))
    axes.minorticks_off()
    axes.legend(loc="lower right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _run(kind: str, store: Path, epochs: int, options: argparse.Namespace) -> dict[str, float] | None:
    given = {**vars(options), "store": store, "train_args": f"{options.train_args} --epochs {epochs}"}
    return train(
        kind, options.seed, options.out / f"{kind}-{persons(store)}-{options.seed}", argparse.Namespace(**given)
    )


def main(argv: list[str] | None = None) -> int:
    """Train, print and draw; 1 if a run failed."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True, help="all persons")
    parser.add_argument("--parts", type=Path, nargs="+", default=[], help="stores of some of them")
    parser.add_argument("--val-store", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and of labels.svg")
    parser.add_argument("--epochs", type=int, required=True, help="over --store; of a part as many samples are seen")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train-args", default="", help="flags of every run")
    options = parser.parse_args(argv)
    whole = persons(options.store)
    runs: dict[int, Any] = {}
    for store in sorted([*options.parts, options.store], key=persons):
        epochs = round(options.epochs * whole / persons(store))
        runs[persons(store)] = _run("baseline", store, epochs, options)
    distilled = _run("distill", options.store, options.epochs, options)
    if distilled is None or None in runs.values():
        return 1
    baselines = list(runs.items())
    print(table(baselines, distilled, whole))
    draw(baselines, distilled, whole, options.out / "labels.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
