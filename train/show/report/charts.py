"""Charts as plain SVG: lines with labels at their ends, and dot plots. Hovering over a mark shows its value."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from train.show.report.markup import Markup, compact, element, fixed, has_value, join

LABEL_GAP: Final = 14.0
"""Smallest distance between two labels at the ends of lines, in SVG units."""
MAX_LABEL: Final = 20
"""Largest number of characters of a label; longer labels are shortened."""
DOT_STEP: Final = 4.5
"""Largest vertical distance between two dots of a row, in SVG units."""
NO_LABELS: Final = "The persons of this store have no labels for it."
TICKS: Final = 5
"""Approximate number of ticks of an axis."""
PICTURE_MARGIN: Final = 20.0
"""Space around the charts of a `picture`, in SVG units."""
STYLE_SHEET: Final = Path(__file__).with_name("charts.css")
"""Colours and lines of all charts."""


# --- axes -------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Axes:
    """The area of a plot in SVG units, and the ticks of its axes."""

    x_ticks: list[float]
    y_ticks: list[float]
    width: float
    height: float
    left: float = 38.0
    right: float = 110.0
    top: float = 12.0
    bottom: float = 40.0

    def x(self, value: float) -> float:
        """Horizontal position of a value, in SVG units."""
        share = (value - self.x_ticks[0]) / (self.x_ticks[-1] - self.x_ticks[0])
        return self.left + share * (self.width - self.left - self.right)

    def y(self, value: float) -> float:
        """Vertical position of a value, in SVG units."""
        share = (value - self.y_ticks[0]) / (self.y_ticks[-1] - self.y_ticks[0])
        return self.height - self.bottom - share * (self.height - self.top - self.bottom)

    def draw(self, x_label: str) -> Markup:
        """Draw grid lines, tick labels and the name of the horizontal axis."""
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


def nice_ticks(low: float, high: float, count: int = TICKS) -> list[float]:
    """Choose about ``count`` round values that enclose a range; steps are 1, 2 or 5 times a power of ten."""
    if not high > low:
        low, high = low - 0.5, low + 0.5
    rough = (high - low) / count
    magnitude = 10 ** math.floor(math.log10(rough))
    step = next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def tick_texts(ticks: list[float]) -> list[str]:
    """Format ticks with the same number of digits after the decimal point, as many as the finest tick needs."""
    digits = max(len(f"{tick:g}".partition(".")[2]) for tick in ticks)
    return [f"{tick:.{digits}f}" for tick in ticks]


def spread(positions: list[float], gap: float, low: float, high: float) -> list[float]:
    """Move positions apart to at least ``gap`` within [low, high], keeping their order and changing them little."""
    order = sorted(range(len(positions)), key=positions.__getitem__)
    placed = [max(position, low) for position in positions]
    for above, below in itertools.pairwise(order):
        placed[below] = max(placed[below], placed[above] + gap)
    limit = high
    for i in reversed(order):
        placed[i] = min(placed[i], limit)
        limit = placed[i] - gap
    return placed


# --- line charts ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a line chart."""

    label: str
    series: str
    """CSS class that sets the colour."""
    points: list[tuple[float, float]]
    """(x, y); a point without a value interrupts the line."""
    dashed: bool = False
    marks: list[tuple[float, float, str]] = dataclasses.field(default_factory=list)
    """(x, y, text) of numbered circles on the line."""
    texts: Sequence[str] = ()
    """Text of each point on hover; x and y if empty."""
    dots: bool = True
    """Whether this line shows its points, in a chart that shows points."""


@dataclasses.dataclass(frozen=True)
class Style:
    """Title, axes and size of a line chart."""

    title: str
    x_label: str
    y_zero: bool = True
    """Whether the vertical axis starts at zero."""
    dots: bool = True
    """Whether the lines show their points."""
    digits: int = 1
    """Digits after the decimal point in texts on hover."""
    width: float = 350.0
    height: float = 235.0
    x_ticks: Sequence[float] = ()
    y_ticks: Sequence[float] = ()
    """Ticks of an axis, which reaches from the first to the last; if empty, they are chosen to enclose the lines."""
    nothing: str = NO_LABELS
    """The note if no line has a value."""


def line_chart(style: Style, lines: Sequence[Line]) -> Markup:
    """Draw lines as a figure with a title, or a note if no line has a value."""
    lines = [line for line in lines if any(has_value(y) for _, y in line.points)]
    if not lines:
        return _figure(style.title, element("p", style.nothing, class_="nothing"))
    return _figure(style.title, _svg(style.width, style.height, style.title, _drawn(style, lines)))


def picture(charts: Sequence[tuple[Style, Sequence[Line]]]) -> str | None:
    """Draw line charts side by side as an SVG file of its own, or return None if no line has a value.

    The colours are those of the page, and follow the reader's light or dark setting.
    """
    drawn: list[Markup] = []
    right, below = 0.0, 0.0
    for style, all_lines in charts:
        lines = [line for line in all_lines if any(has_value(y) for _, y in line.points)]
        if lines:
            title = element("text", style.title, x=0.0, y=-8.0, class_="strong", font_weight=600)
            place = f"translate({compact(right + PICTURE_MARGIN)} {compact(PICTURE_MARGIN + 20)})"
            drawn.append(element("g", title, *_drawn(style, lines), transform=place))
            right += style.width + 2 * PICTURE_MARGIN
            below = max(below, style.height)
    if not drawn:
        return None
    width, height = right, below + 20 + 2 * PICTURE_MARGIN
    size = {"width": width, "height": height}
    return element(
        "svg",
        element("style", Markup(STYLE_SHEET.read_text(encoding="utf-8"))),
        element("rect", **size, fill="var(--paper)"),
        *drawn,
        **size,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {compact(width)} {compact(height)}",
        font_family="var(--sans)",
    )


def _drawn(style: Style, lines: Sequence[Line]) -> list[Markup]:
    """The elements of a line chart; every line has a value."""
    axes = _axes(style, lines)
    marks = [element("g", *(_mark(axes, *mark) for mark in line.marks), class_=line.series) for line in lines]
    return [axes.draw(style.x_label), *(_line(axes, line, style) for line in lines), *marks, _end_labels(axes, lines)]


def _axes(style: Style, lines: Sequence[Line]) -> Axes:
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points if has_value(y)]
    longest = max(len(_short(line.label)) for line in lines)
    x_ticks = style.x_ticks or _whole_ticks(min(xs), max(xs))
    y_ticks = style.y_ticks or nice_ticks(0.0 if style.y_zero else min(ys), max(ys))
    return Axes(list(x_ticks), list(y_ticks), style.width, style.height, right=20 + 6.5 * longest)


def _whole_ticks(low: float, high: float) -> list[float]:
    """Choose round whole numbers between two values, and include both values."""
    if high <= low:
        return [low - 1, low, low + 1]
    inner = [tick for tick in nice_ticks(low, high) if tick == round(tick)]
    step = inner[1] - inner[0] if len(inner) > 1 else 1.0
    return [low, *(tick for tick in inner if low + step / 2 < tick < high - step / 2), high]


def _line(axes: Axes, line: Line, style: Style) -> Markup:
    path = element("path", d=_path(axes, line.points), class_="line dashed" if line.dashed else "line")
    texts = line.texts or [f"{line.label}, {style.x_label} {x:g}: {fixed(y, style.digits)}" for x, y in line.points]
    points = list(zip(line.points, texts, strict=True)) if style.dots and line.dots else []
    dots = [_dot(axes, text, x, y) for (x, y), text in points if has_value(y)]
    return element("g", path, *dots, class_=line.series)


def _path(axes: Axes, points: Sequence[tuple[float, float]]) -> str:
    steps, pen_down = [], False
    for x, y in points:
        if has_value(y):
            steps.append(f"{'L' if pen_down else 'M'}{compact(axes.x(x))} {compact(axes.y(y))}")
        pen_down = has_value(y)
    return "".join(steps)


def _dot(axes: Axes, text: str, x: float, y: float) -> Markup:
    return element("circle", element("title", text), cx=axes.x(x), cy=axes.y(y), r=2.6, class_="dot")


def _mark(axes: Axes, x: float, y: float, text: str) -> Markup:
    at_x, at_y = axes.x(x), axes.y(y)
    return element("circle", cx=at_x, cy=at_y, r=7.5, class_="mark") + element(
        "text", text, x=at_x, y=at_y + 3.4, class_="mark-text middle"
    )


def _end_labels(axes: Axes, lines: Sequence[Line]) -> Markup:
    ends = [next((x, y) for x, y in reversed(line.points) if has_value(y)) for line in lines]
    heights = spread([axes.y(y) for _, y in ends], LABEL_GAP, axes.top, axes.height - axes.bottom)
    edge = axes.width - axes.right + 12
    return join(
        element(
            "text", _short(line.label), element("title", line.label), x=edge, y=y + 4, class_=f"label {line.series}"
        )
        for line, y in zip(lines, heights, strict=True)
    )


def _short(label: str) -> str:
    return label if len(label) <= MAX_LABEL else label[: MAX_LABEL - 1] + "…"


# --- dot plots --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Dot:
    """One value in a row of a dot plot."""

    series: str
    value: float
    text: str
    """Text on hover."""


def dot_plot(title: str, rows: Sequence[tuple[str, Sequence[Dot]]], row_height: float = 27.0) -> Markup:
    """Draw rows of dots on a scale from 0 to 100; a thin line connects the dots of a row.

    Args:
        title: Title of the figure.
        rows: Name and dots of each row.
        row_height: In SVG units.
    """
    left = 14 + 7.2 * max(len(label) for label, _ in rows)
    axes = Axes([0, 20, 40, 60, 80, 100], [0, 1], 440.0, row_height * len(rows) + 34, left=left, right=14, bottom=30)
    foot = axes.height - axes.bottom
    grid = [
        element("line", x1=axes.x(tick), x2=axes.x(tick), y1=4.0, y2=foot, class_="grid")
        + element("text", f"{tick:g}", x=axes.x(tick), y=foot + 16, class_="tick middle")
        for tick in axes.x_ticks
    ]
    drawn = [_dot_row(axes, label, dots, row_height * (i + 0.5) + 4) for i, (label, dots) in enumerate(rows)]
    return _figure(title, _svg(axes.width, axes.height, title, [*grid, *drawn]))


def _dot_row(axes: Axes, label: str, dots: Sequence[Dot], y: float) -> Markup:
    shown = [dot for dot in dots if has_value(dot.value)]
    name = element("text", label, x=axes.left - 8, y=y + 4, class_="tick end strong")
    if not shown:
        return name
    values = [axes.x(dot.value) for dot in shown]
    bar = element("line", x1=min(values), x2=max(values), y1=y, y2=y, class_="range")
    circles = [
        element("circle", element("title", dot.text), cx=x, cy=y + offset, r=5.0, class_=f"dot big {dot.series}")
        for dot, x, offset in zip(shown, values, _offsets(len(shown)), strict=True)
    ]
    return join([name, bar, *circles])


def _offsets(count: int) -> list[float]:
    """Vertical offsets of the dots in a row, so that equal values do not hide each other."""
    step = min(DOT_STEP, 3 * DOT_STEP / count)
    return [step * (i - (count - 1) / 2) for i in range(count)]


# --- figures ----------------------------------------------------------------------------------------------------------


def _svg(width: float, height: float, title: str, content: Sequence[Markup]) -> Markup:
    box = f"0 0 {compact(width)} {compact(height)}"
    return element("svg", *content, viewBox=box, role="img", aria_label=title, class_="chart")


def _figure(title: str, content: Markup) -> Markup:
    return element("figure", element("figcaption", title), content)
