"""Line charts: what is drawn, and its drawing as SVG text for a page that asks for nothing from elsewhere.

The colours are CSS variables of the page (`STYLE` has them, light and dark), so a chart follows its reader's theme.
All text is escaped.
"""

import dataclasses
import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 480, 270
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 10, 34
COLOURS = 8
BUCKETS = 240
"""Points of a thinned line: about one for every two pixels of a chart."""
LARGEST = 1e200
"""Numbers below this can be subtracted, and given a margin on a logarithmic axis."""

STYLE = """
:root { --c0: #2f6fd0; --c1: #d2691e; --c2: #2e8b57; --c3: #b03a5b; --c4: #7b52c4; --c5: #8a7a12; --c6: #17828f;
        --c7: #6b7280 }
@media (prefers-color-scheme: dark) {
  :root { --c0: #6ea8fe; --c1: #f2a365; --c2: #6fcf97; --c3: #f48fb1; --c4: #b79cf7; --c5: #d9c84a; --c6: #5cc8d6;
          --c7: #a3abb5 }
}
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); gap: 1.6rem 1.2rem }
figure { margin: 0; min-width: 0 } figcaption { font-size: .85rem }
figure b { display: block; margin-bottom: .2rem }
svg { width: 100%; height: auto; display: block }
svg text { fill: var(--faint); font: 11px system-ui, sans-serif; font-variant-numeric: tabular-nums }
svg .grid { stroke: var(--faint); stroke-opacity: .22; stroke-width: 1 }
svg .mark { stroke: var(--ink); stroke-dasharray: 5 4; stroke-width: 1 }
svg .line { fill: none; stroke-width: 1.6; stroke-linejoin: round } svg .band { opacity: .2 }
.legend { display: flex; flex-wrap: wrap; gap: .1rem .8rem; font-size: .8rem; color: var(--ink); margin: .25rem 0 }
.legend span { overflow-wrap: anywhere }
.legend i { display: inline-block; width: .9em; height: .25em; border-radius: 2px; margin-right: .35em;
            vertical-align: middle }
""" + "".join(
    f".s{i} {{ stroke: var(--c{i}) }} .f{i} {{ fill: var(--c{i}) }} .b{i} {{ background: var(--c{i}) }}\n"
    for i in range(COLOURS)
)


@dataclass(frozen=True, kw_only=True)
class Point:
    """One point of a line, and how far its band reaches.

    Args:
        x: to the right.
        y: upwards.
        low: the band's lower edge; y itself for no band.
        high: its upper edge.
    """

    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a chart: its name in the legend, its points from left to right, and whether each has a dot."""

    label: str
    points: Sequence[Point]
    dots: bool = False


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Some lines over one x.

    Args:
        title: what stands above it, with the unit of y.
        lines: what is drawn.
        x_label: what x is.
        note: what stands below.
        log: y on a logarithmic axis; values that are not above 0 are left out.
        from_zero: the axis of y has 0 on it; not with `log`.
        mark: a y at which a dashed line crosses the chart; not with `log`.
    """

    title: str
    lines: Sequence[Line]
    x_label: str
    note: str = ""
    log: bool = False
    from_zero: bool = False
    mark: float | None = None


def thin(xy: Iterable[tuple[float, float]], buckets: int = BUCKETS) -> list[Point]:
    """The points of a line, no more than `buckets`: where there are more, means, the band from least to greatest.

    Points that are nan, infinite or beyond `LARGEST` are left out.

    >>> [(point.y, point.low, point.high) for point in thin([(1, 5.0), (2, 7.0), (3, 1.0), (4, 2.0)], buckets=2)]
    [(6.0, 5.0, 7.0), (1.5, 1.0, 2.0)]
    """
    finite = [(x, y) for x, y in xy if abs(x) < LARGEST and abs(y) < LARGEST]  # no comparison holds for nan
    size = math.ceil(len(finite) / buckets) or 1
    points = []
    for start in range(0, len(finite), size):
        xs, ys = zip(*finite[start : start + size], strict=True)
        mean = math.fsum(y / len(ys) for y in ys)
        points.append(Point(x=sum(xs) / len(xs), y=mean, low=min(ys), high=max(ys)))
    return points


def nice_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers between two bounds, 1, 2 or 5 times a power of ten apart, at most `most`.

    >>> nice_ticks(0, 1000)
    [0.0, 200.0, 400.0, 600.0, 800.0, 1000.0]
    >>> nice_ticks(-3.2, -1.9)
    [-3.0, -2.5, -2.0]
    """
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    for step in (power, 2 * power, 5 * power, 10 * power):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most:
            break
    # Rounded to the digits that the step has: 3 * .1 is not .3.
    digits = max(0, -math.floor(math.log10(step)))
    return [round(i * step, digits) + 0.0 for i in range(first, last + 1)]


def svg(chart: Chart) -> str:
    """A chart as an HTML figure; without a single point it says so. Lines past the eighth take colours again."""
    lines = _lines(chart)
    points = [point for line in lines for point in line.points]
    head = f"<figure><b>{html.escape(chart.title)}</b>"
    if not points:
        return f"{head}<figcaption>No finite value to draw. {html.escape(chart.note)}</figcaption></figure>"
    marks = [] if chart.mark is None else [chart.mark]
    ys = [*marks, *(point.low for point in points), *(point.high for point in points)]
    frame = _Frame(
        x_low=min(point.x for point in points),
        x_high=max(point.x for point in points),
        y_low=min([0.0, *ys] if chart.from_zero else ys),
        y_high=max(ys),
        log=chart.log,
    )
    drawn = [
        frame.axes(chart.x_label),
        *(f'<line class="mark" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{frame.y(y)}" y2="{frame.y(y)}"/>' for y in marks),
        *(frame.line(line, i % COLOURS) for i, line in enumerate(lines)),
    ]
    label = html.escape(f"{chart.title}, by {chart.x_label}", quote=True)
    caption = f"<figcaption>{html.escape(chart.note)}</figcaption>" if chart.note else ""
    picture = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(drawn)}</svg>'
    return f"{head}{picture}{_legend(lines)}{caption}</figure>"


def _lines(chart: Chart) -> Sequence[Line]:
    if not chart.log:
        return chart.lines
    return [dataclasses.replace(line, points=_above_zero(line.points)) for line in chart.lines]


def short(value: float) -> str:
    """A number in few characters.

    >>> short(12000), short(0.25), short(1e-5), short(2500000)
    ('12k', '0.25', '1e-05', '2.5M')
    """
    for least, unit, letter in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if least <= abs(value) < 1e12:
            return f"{value / unit:.4g}{letter}"
    return f"{value:.6g}"


@dataclass(kw_only=True)
class _Frame:
    """Where values lie in the picture."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float
    log: bool

    def __post_init__(self) -> None:
        """A bound that equals the other one is moved off it; y gets some air."""
        if self.x_low == self.x_high:
            self.x_low, self.x_high = self.x_low - 1, self.x_high + 1
        if self.log:
            self.y_low, self.y_high = math.log10(self.y_low), math.log10(self.y_high)
        if self.y_low == self.y_high == 0 and not self.log:
            self.y_high = 1
        margin = (self.y_high - self.y_low) / 20
        if margin <= abs(self.y_high) * 1e-9:
            margin = abs(self.y_high) / 20 or 0.05  # log10 of 1 is 0
        self.y_low, self.y_high = self.y_low - margin, self.y_high + margin

    def x(self, value: float) -> float:
        share = (value - self.x_low) / (self.x_high - self.x_low)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def y(self, value: float) -> float:
        value = math.log10(value) if self.log else value
        share = (value - self.y_low) / (self.y_high - self.y_low)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)

    def axes(self, x_label: str) -> str:
        right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
        parts = []
        for tick in self._y_ticks():
            y = self.y(tick)
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y}" y2="{y}"/>')
            parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{short(tick)}</text>')
        for tick in nice_ticks(self.x_low, self.x_high):
            x = self.x(tick)
            parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{TOP}" y2="{bottom}"/>')
            parts.append(f'<text x="{x}" y="{bottom + 15}" text-anchor="middle">{short(tick)}</text>')
        middle = (LEFT + right) / 2
        parts.append(f'<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{html.escape(x_label)}</text>')
        return "".join(parts)

    def _y_ticks(self) -> list[float]:
        if not self.log:
            return nice_ticks(self.y_low, self.y_high, most=5)
        if self.y_high - self.y_low < 1.5:  # too few powers of ten
            low, high = 10**self.y_low, 10**self.y_high
            return [tick for tick in nice_ticks(low, high, most=5) if tick > 0]
        powers = nice_ticks(self.y_low, self.y_high, most=5)
        return [10.0**power for power in powers if power == int(power) and power > -300]

    def line(self, line: Line, colour: int) -> str:
        parts = []
        if any(point.low < point.high for point in line.points):
            edge = [(point.x, point.high) for point in line.points]
            edge += [(point.x, point.low) for point in reversed(line.points)]
            parts.append(f'<polygon class="band f{colour}" points="{self._path(edge)}"/>')
        path = self._path([(point.x, point.y) for point in line.points])
        parts.append(f'<polyline class="line s{colour}" points="{path}"/>')
        if line.dots or len(line.points) == 1:
            parts += [
                f'<circle class="f{colour}" cx="{self.x(point.x)}" cy="{self.y(point.y)}" r="2.5">'
                f"<title>{html.escape(line.label)}: {point.y:.5g} at {short(point.x)}</title></circle>"
                for point in line.points
            ]
        return "".join(parts)

    def _path(self, xy: Iterable[tuple[float, float]]) -> str:
        return " ".join(f"{self.x(x):g},{self.y(y):g}" for x, y in xy)


def _above_zero(points: Sequence[Point]) -> list[Point]:
    return [dataclasses.replace(point, low=point.low if point.low > 0 else point.y) for point in points if point.y > 0]


def _legend(lines: Sequence[Line]) -> str:
    if len(lines) < 2:  # the title says it
        return ""
    labels = (f'<span><i class="b{i % COLOURS}"></i>{html.escape(line.label)}</span>' for i, line in enumerate(lines))
    return f'<div class="legend">{"".join(labels)}</div>'
