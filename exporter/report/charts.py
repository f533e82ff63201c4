"""SVG charts as text: no script, no fonts, no network; colours come from the page's CSS (light and dark).

Every mark carries a <title>, which a browser shows as a tooltip.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

CELL_WIDTH, CELL_HEIGHT, LABEL_WIDTH, HEADER = 38, 22, 112, 18
PANEL_WIDTH, PANEL_HEIGHT, PANEL_GAP, PANEL_COLUMNS = 206, 92, 14, 4
BAR_HEIGHT, BAR_GAP, BAR_WIDTH, BAR_LABEL = 30, 14, 620, 150

DOT_ROW, DOT_WIDTH = 26, 460


@dataclass(frozen=True)
class Band:
    """One site's scale over the layers: lowest, middle and highest of its groups."""

    title: str
    low: Sequence[float]
    middle: Sequence[float]
    high: Sequence[float]


@dataclass(frozen=True)
class Bar:
    """A stacked bar: parts in the order of the legend, in bytes."""

    label: str
    parts: Sequence[tuple[str, int]]


def heatmap(
    rows: Sequence[str],
    columns: Sequence[str],
    cells: Sequence[Sequence[float | None]],
    strength: Callable[[float], float],
    text: Callable[[float], str],
    title: str,
) -> str:
    """A table of coloured cells; `strength` (0 to 1) of a value is how much colour it gets, None is empty."""
    marks = [
        tag(
            "text",
            column,
            class_="axis",
            x=LABEL_WIDTH + CELL_WIDTH * (j + 0.5),
            y=HEADER - 6,
            text_anchor="middle",
        )
        for j, column in enumerate(columns)
    ]
    for i, (row, values) in enumerate(zip(rows, cells, strict=True)):
        y = HEADER + CELL_HEIGHT * i
        marks.append(tag("text", row, class_="label", x=LABEL_WIDTH - 8, y=y + 15, text_anchor="end"))
        for j, value in enumerate(values):
            if value is not None:
                tip = f"layer {columns[j]}, {row}: {text(value)}"
                marks.append(cell(LABEL_WIDTH + CELL_WIDTH * j, y, strength(value), text(value), tip))
    return svg(LABEL_WIDTH + CELL_WIDTH * len(columns), HEADER + CELL_HEIGHT * len(rows), title, marks)


def cell(x: float, y: float, strength: float, text: str, tip: str) -> str:
    opacity = 0.04 + 0.9 * min(1.0, max(0.0, strength))
    box: dict[str, object] = {
        "x": x + 1,
        "y": y + 1,
        "width": CELL_WIDTH - 2,
        "height": CELL_HEIGHT - 2,
        "rx": 3,
    }
    shape = tag("rect", "", class_="heat", fill_opacity=round(opacity, 2), **box)
    label = tag("text", text, class_="cell", x=x + CELL_WIDTH / 2, y=y + 15, text_anchor="middle")
    return titled(shape + label, tip)


def small_multiples(bands: Sequence[Band], title: str) -> str:
    """One small panel a site: the scale over the layers, logarithmic, each panel with its own range."""
    marks = []
    for k, band in enumerate(bands):
        x = (k % PANEL_COLUMNS) * (PANEL_WIDTH + PANEL_GAP)
        y = (k // PANEL_COLUMNS) * (PANEL_HEIGHT + PANEL_GAP)
        marks.append(f'<g transform="translate({x} {y})">{panel(band)}</g>')
    lines = math.ceil(len(bands) / PANEL_COLUMNS)
    width = PANEL_COLUMNS * (PANEL_WIDTH + PANEL_GAP) - PANEL_GAP
    return svg(width, lines * (PANEL_HEIGHT + PANEL_GAP), title, marks)


def panel(band: Band) -> str:
    """A line with a band around it; the range stands in the corner in words."""
    low, high = min(band.low), max(band.high)
    top, bottom, left, right = 34, PANEL_HEIGHT - 8, 10, PANEL_WIDTH - 10
    span = math.log(high / low) if high > low else 1.0
    step = (right - left) / max(1, len(band.middle) - 1)

    def points(values: Sequence[float]) -> list[tuple[float, float]]:
        heights = (bottom - (math.log(value / low) / span) * (bottom - top) for value in values)
        return [(round(left + k * step, 1), round(y, 1)) for k, y in enumerate(heights)]

    dots = [
        titled(tag("circle", class_="dot", cx=x, cy=y, r=2.2), f"layer {k}: {band.middle[k]:.3g}")
        for k, (x, y) in enumerate(points(band.middle))
    ]
    frame = tag("rect", class_="panel", width=PANEL_WIDTH, height=PANEL_HEIGHT, rx=6)
    name = tag("text", band.title, class_="label", x=10, y=18)
    extent = f"{low:.2g} to {high:.2g}"
    corner = tag("text", extent, class_="axis", x=PANEL_WIDTH - 10, y=18, text_anchor="end")
    area = tag("polygon", class_="band", points=path(points(band.high) + points(band.low)[::-1]))
    line = tag("polyline", class_="line", points=path(points(band.middle)))
    return "".join([frame, name, corner, area, line, *dots])


def stacked_bars(bars: Sequence[Bar], title: str) -> str:
    """Horizontal stacked bars on one scale, each with its total at the end."""
    longest = max(sum(size for _, size in bar.parts) for bar in bars)
    marks = []
    for i, bar in enumerate(bars):
        y, x = i * (BAR_HEIGHT + BAR_GAP), float(BAR_LABEL)
        marks.append(tag("text", bar.label, class_="label", x=BAR_LABEL - 12, y=y + 20, text_anchor="end"))
        for k, (name, size) in enumerate(bar.parts):
            length = round(size / longest * BAR_WIDTH, 1)
            box = tag("rect", class_=f"part{k}", x=round(x, 1), y=y, width=length, height=BAR_HEIGHT)
            marks.append(titled(box, f"{name}: {megabytes(size)}"))
            x += length
        total = megabytes(sum(size for _, size in bar.parts))
        marks.append(tag("text", total, class_="value", x=round(x + 8, 1), y=y + 20))
    return svg(BAR_LABEL + BAR_WIDTH + 90, len(bars) * (BAR_HEIGHT + BAR_GAP), title, marks)


def dots(points: Sequence[tuple[str, float]], title: str, logarithmic: bool = True) -> str:
    """A line a label, a dot for its value on one axis, from the lowest to the highest.

    On a logarithmic axis zeros stand at the lowest value.
    """
    shown = [value for _, value in points if value > 0 or not logarithmic] or [1.0]
    low, high = min(shown), max(shown)

    def place(value: float) -> float:
        """0 to 1."""
        if high == low:
            return 0.0
        if not logarithmic:
            return (value - low) / (high - low)
        return math.log(max(value, low) / low) / math.log(high / low)

    label = 16 + 7 * max(len(name) for name, _ in points)
    marks = []
    for i, (name, value) in enumerate(points):
        y = DOT_ROW * i + 14
        x = round(label + place(value) * DOT_WIDTH, 1)
        marks.append(tag("text", name, class_="label", x=label - 12, y=y + 4, text_anchor="end"))
        marks.append(
            tag(
                "line",
                class_="axis",
                x1=label,
                x2=label + DOT_WIDTH,
                y1=y,
                y2=y,
                stroke="currentColor",
                stroke_opacity=0.15,
            )
        )
        marks.append(titled(tag("circle", class_="dot", cx=x, cy=y, r=5), f"{name}: {value:.3g}"))
        marks.append(tag("text", f"{value:.3g}", class_="value", x=x + 10, y=y + 4))
    return svg(label + DOT_WIDTH + 80, DOT_ROW * len(points) + 8, title, marks)


def megabytes(size: int) -> str:
    """A size for people: 10^6 bytes are 1 MB."""
    return f"{size / 1e6:.2f} MB" if size < 1e7 else f"{size / 1e6:.1f} MB"


def tag(name: str, text: str = "", **attributes: object) -> str:
    """One element; class_ is class, text_anchor is text-anchor."""
    items = ((key.rstrip("_").replace("_", "-"), escape(str(value))) for key, value in attributes.items())
    pairs = "".join(f' {key}="{value}"' for key, value in items)
    return f"<{name}{pairs}>{escape(text)}</{name}>"


def titled(marks: str, tip: str) -> str:
    """Marks that show `tip` under the pointer."""
    return f"<g>{tag('title', tip)}{marks}</g>"


def path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x},{y}" for x, y in points)


def svg(width: float, height: float, title: str, marks: Sequence[str]) -> str:
    size = f'viewBox="0 0 {width:g} {height:g}" width="{width:g}"'
    return f'<svg {size} role="img" aria-label="{escape(title, quote=True)}">{"".join(marks)}</svg>'
