"""Axes, lines and figures in SVG, as text.

A figure stands without JavaScript, scales with the page, and is never colour alone: each series has its own dash, its own letter on the
line, and its numbers in the table below. Colours and dashes live in report.css, so that light, dark and print differ there only.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from d2st.adapter.report.markup import Html, attributes, details, join, note, tag, text

__all__ = ["MARKED", "SERIES_MAX", "Axis", "Plane", "figure", "legend", "letter", "panel_row", "steps"]

MARKED = (("s0", "circle"), ("s1", "square"))  # look and marks of charts with two series
SERIES_MAX = 6  # looks (s0 ... s5) that report.css tells apart
POINTS_MAX = 240  # of a line: more than this can't be seen
Points = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Axis:
    """From `low` to `high`, with (value, shown) ticks; `warp` bends it, values are given unbent."""

    label: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    warp: Callable[[float], float] = float

    def place(self, value: float) -> float:
        """0 to 1; what lies beyond an end lies on it."""
        low, high = self.warp(self.low), self.warp(self.high)
        return (self.warp(min(max(value, self.low), self.high)) - low) / ((high - low) or 1.0)


@dataclass(frozen=True)
class Plane:
    """Two axes on a canvas of `width` x `height` units, about pixels."""

    x: Axis
    y: Axis
    width: int = 420
    height: int = 340
    left: int = 52
    bottom: int = 46
    top: int = 12
    right: int = 14

    def at(self, x: float, y: float) -> tuple[float, float]:
        inner = self.width - self.left - self.right, self.height - self.top - self.bottom
        return self.left + inner[0] * self.x.place(x), self.top + inner[1] * (1 - self.y.place(y))

    def line(self, xs: Points, ys: Points, look: str) -> Html:
        """A line through (N,) points, thinned where nobody could see the difference."""
        keep = np.unique(np.linspace(0, len(xs) - 1, POINTS_MAX).astype(int)) if len(xs) > POINTS_MAX else range(len(xs))
        places = " ".join("{:.1f},{:.1f}".format(*self.at(xs[i], ys[i])) for i in keep)
        return tag("polyline", points=places, class_=f"line {look}")

    def mark(self, x: float, y: float, shape: str, look: str, *, hint: str = "", size: float = 4) -> Html:
        """A circle or a square with a tooltip."""
        cx, cy = self.at(x, y)
        inner = [tag("title", hint)] if hint else []
        if shape == "circle":
            return tag("circle", *inner, cx=f"{cx:.1f}", cy=f"{cy:.1f}", r=f"{size:.1f}", class_=f"mark {look}")
        side = {"x": f"{cx - size:.1f}", "y": f"{cy - size:.1f}", "width": f"{2 * size:.1f}", "height": f"{2 * size:.1f}"}
        return tag("rect", *inner, **side, class_=f"mark {look}")

    def badge(self, x: float, y: float, sign: str, look: str) -> Html:
        """A letter in a circle: which line this is."""
        cx, cy = self.at(x, y)
        circle = tag("circle", cx=f"{cx:.1f}", cy=f"{cy:.1f}", r=8, class_=f"badge {look}")
        return join([circle, tag("text", sign, x=f"{cx:.1f}", y=f"{cy + 3.5:.1f}", class_="sign")], "")

    def label(self, x: float, y: float, words: str, *, dx: float = 0, dy: float = 0, look: str = "") -> Html:
        px, py = self.at(x, y)
        return tag("text", words, x=f"{px + dx:.1f}", y=f"{py + dy:.1f}", class_=look or None)

    def grid(self) -> Html:
        """Grid, ticks and the axes' names."""
        made = []
        for value, shown in self.x.ticks:
            (x, bottom), (_, top) = self.at(value, self.y.low), self.at(value, self.y.high)
            made.append(_rule(x, bottom, x, top))
            made.append(tag("text", shown, x=f"{x:.1f}", y=f"{bottom + 16:.1f}", class_="tick mid"))
        for value, shown in self.y.ticks:
            (left, y), (right, _) = self.at(self.x.low, value), self.at(self.x.high, value)
            made.append(_rule(left, y, right, y))
            made.append(tag("text", shown, x=f"{left - 6:.1f}", y=f"{y + 4:.1f}", class_="tick end"))
        centre = (self.left + self.width - self.right) / 2, (self.top + self.height - self.bottom) / 2
        made.append(tag("text", self.x.label, x=f"{centre[0]:.1f}", y=self.height - 8, class_="axis mid"))
        spin = f"rotate(-90 13 {centre[1]:.1f})"
        made.append(tag("text", self.y.label, x=13, y=f"{centre[1]:.1f}", transform=spin, class_="axis mid"))
        return join(made, "")


def letter(place: int) -> str:
    return "ABCDEFGHIJ"[place]


def legend(entries: Sequence[tuple[str, str, object]]) -> Html:
    """(look, sign, words) each, with a piece of its line; the sign is the line's letter, or the shape of its marks."""
    items = []
    for look, sign, words in entries:
        drawn = [tag("line", x1=1, y1=8, x2=33, y2=8, class_=f"line {look}")]
        if sign == "circle":
            drawn.append(tag("circle", cx=17, cy=8, r=5, class_=f"mark {look}"))
        elif sign == "square":
            drawn.append(tag("rect", x=12, y=3, width=10, height=10, class_=f"mark {look}"))
        sample = tag("svg", *drawn, viewBox="0 0 34 16", aria_hidden="true")
        items.append(tag("li", sample, *([tag("b", sign), " "] if len(sign) == 1 else []), words))
    return tag("ul", *items, class_="legend")


def steps(top: float) -> list[tuple[float, str]]:
    """Four to nine round ticks from 0 to at most `top` > 0."""
    size = 10.0 ** np.floor(np.log10(top / 4))
    step = next(size * part for part in (5, 2, 1) if top / (size * part) >= 4)
    digits = max(0, -int(np.floor(np.log10(step))))
    return [(float(value), f"{value:.{digits}f}") for value in np.arange(0, top * (1 + 1e-9), step)]


def figure(
    name: str,
    title: str,
    description: str,
    body: Html,
    *,
    size: tuple[int, int],
    key: Html | None = None,
    data: Html | None = None,
) -> Html:
    """A chart: heading, drawing with title and description for those who can't see it, legend, and its numbers as a table."""
    drawing = Html(
        f"<svg{attributes(viewBox=f'0 0 {size[0]} {size[1]}', role='img', aria_labelledby=f'{name}-t {name}-d')}>"
        f'<title id="{text(name).source}-t">{text(title).source}</title>'
        f'<desc id="{text(name).source}-d">{text(description).source}</desc>{body.source}</svg>'
    )
    parts = [tag("figcaption", title), drawing, key, details("Numbers of this chart", data) if data else None]
    return tag("figure", *(part for part in parts if part), class_="chart", style=f"--wide:{size[0]}px")


def panel_row(figures: Sequence[Html], *, otherwise: str) -> Html:
    """Figures side by side where there is room."""
    return tag("div", *figures, class_="panels") if figures else note(otherwise)


def _rule(x1: float, y1: float, x2: float, y2: float) -> Html:
    return tag("line", x1=f"{x1:.1f}", y1=f"{y1:.1f}", x2=f"{x2:.1f}", y2=f"{y2:.1f}", class_="rule")
