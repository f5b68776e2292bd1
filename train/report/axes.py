"""The frame of a chart: from values to SVG coordinates, round ticks, and labels that do not overlap."""

import dataclasses
import itertools
import math

from train.report.markup import Markup, element, join

TICKS = 5


def nice_ticks(low: float, high: float, count: int = TICKS) -> list[float]:
    """About that many round values (steps of 1, 2 or 5 times a power of ten) that enclose the range."""
    if not high > low:
        low, high = low - 0.5, low + 0.5
    rough = (high - low) / count
    magnitude = 10 ** math.floor(math.log10(rough))
    step = next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def tick_texts(ticks: list[float]) -> list[str]:
    """Ticks with the same number of digits behind the point, as many as the finest needs."""
    digits = max(len(f"{tick:g}".partition(".")[2]) for tick in ticks)
    return [f"{tick:.{digits}f}" for tick in ticks]


def spread(positions: list[float], gap: float, low: float, high: float) -> list[float]:
    """Positions moved apart to at least that gap, in the same order, as near as they can to where they were."""
    order = sorted(range(len(positions)), key=positions.__getitem__)
    placed = [max(position, low) for position in positions]
    for above, below in itertools.pairwise(order):
        placed[below] = max(placed[below], placed[above] + gap)
    limit = high
    for i in reversed(order):
        placed[i] = min(placed[i], limit)
        limit = placed[i] - gap
    return placed


@dataclasses.dataclass(frozen=True)
class Axes:
    """A plot's area in SVG units and the values at its edges."""

    x_ticks: list[float]
    y_ticks: list[float]
    width: float
    height: float
    left: float = 38.0
    right: float = 110.0
    top: float = 12.0
    bottom: float = 40.0

    def x(self, value: float) -> float:
        """Where a value lies from left to right."""
        share = (value - self.x_ticks[0]) / (self.x_ticks[-1] - self.x_ticks[0])
        return self.left + share * (self.width - self.left - self.right)

    def y(self, value: float) -> float:
        """Where a value lies from top to bottom."""
        share = (value - self.y_ticks[0]) / (self.y_ticks[-1] - self.y_ticks[0])
        return self.height - self.bottom - share * (self.height - self.top - self.bottom)

    def draw(self, x_label: str) -> Markup:
        """Grid lines, tick labels and the name of the horizontal axis."""
        start, end, foot = self.left, self.width - self.right, self.height - self.bottom
        rows = [
            element("line", x1=start, x2=end, y1=self.y(tick), y2=self.y(tick), class_="grid")
            + element("text", text, x=start - 6, y=self.y(tick) + 4, class_="tick end")
            for tick, text in zip(self.y_ticks, tick_texts(self.y_ticks), strict=True)
        ]
        columns = [
            element("text", f"{tick:g}", x=self.x(tick), y=foot + 18, class_="tick middle") for tick in self.x_ticks
        ]
        name = element("text", x_label, x=(start + end) / 2, y=self.height - 6, class_="tick middle")
        return join([*rows, *columns, name])
