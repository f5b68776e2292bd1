r"""Draw what more persons are worth: `python -m benchmarks.study.persons --out docs/images/persons.svg`.

The numbers are those of the entries of docs/log.md that --points names (default: benchmarks/results/persons.json). Each
curve is one number of persons and what the students learned from; its points are the mean AP over seeds after a number
of samples (steps times batch size). The command prints them as a Markdown table, and draws them if --out is given
(needs matplotlib).
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Final

from kdcli.flags import Parser

POINTS: Final = Path(__file__).parents[1] / "results" / "persons.json"
COLOURS: Final = {"teacher": "#ee6677", "labels": "#4477aa"}
STYLES: Final = ("-", "--", ":")
"""Line styles of the curves of one colour, most persons first."""


@dataclasses.dataclass(frozen=True)
class Curve:
    """Students that learned from the same persons.

    Attributes:
        source: ``teacher`` (heatmaps, without labels) or ``labels``.
        persons: Number of persons N.
        points: AP by seed for each number of samples.
    """

    source: str
    persons: int
    points: dict[int, list[float]]

    @property
    def name(self) -> str:
        """The curve's name in table and drawing."""
        what = "the teacher's heatmaps" if self.source == "teacher" else "the labels"
        return f"{what} of {self.persons:,} persons"


def read_curves(path: Path) -> list[Curve]:
    """Read the curves, those of the teacher first, most persons first."""
    entries = json.loads(path.read_text(encoding="utf-8"))["curves"]
    curves = [
        Curve(entry["source"], entry["persons"], {int(samples): ap for samples, ap in entry["ap"].items()})
        for entry in entries
    ]
    return sorted(curves, key=lambda curve: (curve.source != "teacher", -curve.persons))


def table(curves: Sequence[Curve]) -> str:
    """Format the curves as a Markdown table, one row per student or group of seeds."""
    lines = ["| trained on | samples | AP by seed |", "|---|---|---|"]
    for curve in curves:
        for samples, values in sorted(curve.points.items()):
            lines.append(f"| {curve.name} | {samples:,} | {', '.join(f'{ap:.1f}' for ap in values)} |")
    return "\n".join(lines)


def draw(curves: Sequence[Curve], path: Path) -> None:
    """Draw the mean AP over samples as SVG."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "persons"  # the same file from the same numbers
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    drawn: dict[str, int] = {}
    for curve in curves:
        style = STYLES[min(drawn.get(curve.source, 0), len(STYLES) - 1)]
        drawn[curve.source] = drawn.get(curve.source, 0) + 1
        at = sorted(curve.points)
        heights = [fmean(curve.points[samples]) for samples in at]
        axes.plot(at, heights, "o", linestyle=style, color=COLOURS[curve.source], label=curve.name)
        axes.annotate(f"{heights[-1]:.1f}", (at[-1], heights[-1]), textcoords="offset points", xytext=(8, -3))
    ticks = [20_000, 40_000, 80_000, 160_000, 320_000, 640_000]
    axes.set(xscale="log", xticks=ticks, xticklabels=[f"{tick:,}" for tick in ticks], ylabel="AP")
    axes.set_xlabel("samples (steps times batch size)")
    axes.set_xlim(right=850_000)
    axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
    axes.minorticks_off()
    axes.legend(loc="lower right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main(argv: list[str] | None = None) -> int:
    """Print the table and draw the curves."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=Path, default=POINTS, help="JSON file of the numbers")
    parser.add_argument("--out", type=Path, help="SVG file to draw")
    options = parser.parse_args(argv)
    curves = read_curves(options.points)
    print(table(curves))
    if options.out:
        draw(curves, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
