"""The frame of a chart: from values to SVG coordinates, round ticks, and labels that do not overlap."""

import dataclasses
import math
from collections.abc import Callable

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


def spread(positions: list[float], gap: float, low: float, high: float) -> list[float]:
    """Positions moved apart to at least that gap, in the same order, as near as they can to where they were."""
    order = sorted(range(len(positions)), key=positions.__getitem__)
    placed = list(positions)
    for before, after in zip(order, order[1:], strict=False):
        placed[after] = max(placed[after], placed[before] + gap)
    excess = placed[order[-1]] - high if order else 0.0
    if excess > 0:
        placed[order[-1]] = high
        for after, before in zip(reversed(order), list(reversed(order))[1:], strict=False):
            placed[before] = min(placed[before], placed[after] - gap)
    return [max(position, low) for position in placed]


@dataclasses.dataclass(frozen=True)
class Axes:
    """A plot's area in SVG units and the values at its edges."""

    x_ticks: list[float]
    y_ticks: list[float]
    width: float = 440.0
    height: float = 270.0
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

    def draw(self, x_label: str, x_text: Callable[[float], str], y_text: Callable[[float], str]) -> Markup:
        """Grid lines, tick labels and the name of the horizontal axis."""
        start, end, foot = self.left, self.width - self.right, self.height - self.bottom
        rows = [
            element("line", x1=start, x2=end, y1=self.y(tick), y2=self.y(tick), class_="grid")
            + element("text", y_text(tick), x=start - 6, y=self.y(tick) + 4, class_="tick end")
            for tick in self.y_ticks
        ]
        columns = [
            element("text", x_text(tick), x=self.x(tick), y=foot + 16, class_="tick middle") for tick in self.x_ticks
        ]
        name = element("text", x_label, x=(start + end) / 2, y=self.height - 6, class_="tick middle")
        return join([Markup(row) for row in rows] + columns + [name])
