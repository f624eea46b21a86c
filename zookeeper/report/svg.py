"""Charts as inline SVG: an area with axes, and lines, bands, boxes and points in it.

Colours are classes of the page's stylesheet, so that a chart follows the reader's light or dark mode.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64] | Sequence[float]
Format = Callable[[float], str]


def share(value: float) -> str:
    """A share as a percentage, with a decimal only if it needs one.

    >>> share(0.9), share(0.975)
    ('90%', '97.5%')
    """
    return f"{100 * value:.1f}".removesuffix(".0") + "%"


def short(value: float) -> str:
    """A number in at most four digits.

    >>> short(0.00025), short(50.0), short(1234567)
    ('0.00025', '50', '1.235e+06')
    """
    return f"{value:.4g}"


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers within [low, high], roughly ``about`` of them.

    >>> ticks(0, 1), ticks(0, 50, 6)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [0.0, 10.0, 20.0, 30.0, 40.0, 50.0])
    """
    raw = (high - low) / max(1, about)
    power = 10.0 ** np.floor(np.log10(raw))
    step = float(next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999))
    first = np.ceil(low / step - 1e-9)
    count = int(np.floor(high / step + 1e-9) - first) + 1
    return [float(round((first + number) * step, 12)) for number in range(count)]


@dataclass(slots=True)
class Chart:
    """An SVG drawing being made: marks are added in order, `render` gives the text.

    ``x`` and ``y`` are the ranges of data shown; a range without extent is widened.
    """

    x: tuple[float, float]
    y: tuple[float, float]
    width: int = 460
    height: int = 260
    left: int = 52
    bottom: int = 40
    top: int = 10
    right: int = 12
    marks: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.x, self.y = _widened(self.x), _widened(self.y)

    def px(self, value: float) -> float:
        """Horizontal place of a value."""
        low, high = self.x
        return round(self.left + (value - low) / (high - low) * (self.width - self.left - self.right), 1)

    def py(self, value: float) -> float:
        """Vertical place of a value."""
        low, high = self.y
        return round(
            self.height - self.bottom - (value - low) / (high - low) * (self.height - self.bottom - self.top), 1
        )

    def axes(
        self, x_label: str, y_label: str, *, x_format: Format = short, y_format: Format = short, about: int = 5
    ) -> None:
        """Draw grid lines with their numbers and the names of both axes."""
        foot, end = self.height - self.bottom, self.width - self.right
        for value in ticks(*self.y, about):
            place = self.py(value)
            self.marks.append(f'<line class="grid" x1="{self.left}" x2="{end}" y1="{place}" y2="{place}"/>')
            self.text(self.left - 6, place + 4, y_format(value), anchor="end")
        for value in ticks(*self.x, about + 1):
            place = self.px(value)
            self.marks.append(f'<line class="tick" x1="{place}" x2="{place}" y1="{foot}" y2="{foot + 4}"/>')
            self.text(place, foot + 16, x_format(value), anchor="middle")
        self.marks.append(f'<line class="axis" x1="{self.left}" x2="{end}" y1="{foot}" y2="{foot}"/>')
        if x_label:
            self.text((self.left + end) / 2, self.height - 6, x_label, anchor="middle", kind="name")
        if y_label:
            middle = (self.top + foot) / 2
            turn = f' transform="rotate(-90 12 {middle:g})"'
            self.text(12, middle, y_label, anchor="middle", kind="name", extra=turn)

    def text(
        self, x: float, y: float, text: str, *, anchor: str = "start", kind: str = "label", extra: str = ""
    ) -> None:
        """Write text at a place in pixels."""
        self.marks.append(
            f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}"{extra}>{html.escape(text)}</text>'
        )

    def line(self, xs: Values, ys: Values, colour: str) -> None:
        """Join points by a line; a value that is not finite interrupts it."""
        path, pen = [], "M"
        for x, y in zip(xs, ys, strict=True):
            if np.isfinite(y):
                path.append(f"{pen}{self.px(x):g} {self.py(y):g}")
            pen = "L" if np.isfinite(y) else "M"
        self.marks.append(f'<path class="line {colour}" d="{"".join(path)}"/>')
        if len(path) == 1:
            self.points(xs, ys, [colour] * len(list(xs)), radius=3)

    def band(self, xs: Values, low: Values, high: Values, colour: str) -> None:
        """Fill between two lines where both are finite."""
        there = [(x, a, b) for x, a, b in zip(xs, low, high, strict=True) if np.isfinite(a) and np.isfinite(b)]
        forth = [f"{self.px(x):g} {self.py(b):g}" for x, _, b in there]
        back = [f"{self.px(x):g} {self.py(a):g}" for x, a, _ in reversed(there)]
        if there:
            self.marks.append(f'<path class="band {colour}" d="M{"L".join([*forth, *back])}Z"/>')

    def bar(self, x0: float, x1: float, y0: float, y1: float, colour: str, title: str = "") -> None:
        """Fill a rectangle given in data."""
        left, right = sorted((self.px(x0), self.px(x1)))
        top, foot = sorted((self.py(y0), self.py(y1)))
        tip = f"<title>{html.escape(title)}</title>" if title else ""
        self.marks.append(
            f'<rect class="bar {colour}" x="{left:g}" y="{top:g}" width="{max(0.5, right - left):g}" '
            f'height="{foot - top:g}">{tip}</rect>'
        )

    def points(
        self, xs: Values, ys: Values, colours: Sequence[str], *, titles: Sequence[str] = (), radius: float = 2.8
    ) -> None:
        """Draw a dot per pair; ``titles`` appear when a pointer rests on one."""
        for number, (x, y, colour) in enumerate(zip(xs, ys, colours, strict=True)):
            if np.isfinite(x) and np.isfinite(y):
                tip = f"<title>{html.escape(titles[number])}</title>" if titles else ""
                place = f'cx="{self.px(x):g}" cy="{self.py(y):g}"'
                self.marks.append(f'<circle class="dot {colour}" {place} r="{radius:g}">{tip}</circle>')

    def render(self, description: str) -> str:
        """The drawing as one SVG element that says to a screen reader what it shows."""
        return (
            f'<svg viewBox="0 0 {self.width} {self.height}" style="max-width:{1.2 * self.width:g}px" role="img" '
            f'aria-label="{html.escape(description)}">{"".join(self.marks)}</svg>'
        )


def _widened(span: tuple[float, float]) -> tuple[float, float]:
    low, high = span
    if not (np.isfinite(low) and np.isfinite(high)):
        return (0.0, 1.0)
    if high - low <= 1e-12 * max(1.0, abs(low)):
        extent = abs(low) * 0.1 or 1.0
        return (low - extent, high + extent)
    return (float(low), float(high))
