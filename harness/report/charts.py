"""Charts as SVG files that are the same whenever and wherever they are drawn, up to the sixth decimal of a coordinate.

Colours are those of Okabe and Ito, the lightest two darkened until they stand out from white paper. For some colour-blind
readers two of them are close, so a marker per solution tells them apart without colour. Ink and paper follow the reader's light
or dark mode through a style sheet inside the file, and every mark has a `<title>` that browsers show on hover.
"""

import io
import math
import re
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from harness.report.series import Chart, Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#C28500", "#3A93C9", "#8A8A8A")
"""Each has a contrast of 3 or more to both papers."""
LINES = ("-", ":", "-.", (0, (6, 1.5, 1, 1.5, 1, 1.5)))
"""The next one where the palette begins again; dashes are the guide's."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")
"""As many as have no common divisor with the palette: 77 solutions differ in colour or marker."""
INK, GRID, PAPER = "#24292f", "#d0d7de", "#ffffff"
DARK = {INK: "#e6edf3", GRID: "#3d444d", PAPER: "#0d1117"}
"""What takes the place of ink, grid and paper in dark mode."""
DARK_RULES = "".join(
    f'[style*="{prop}: {light}"]{{{prop}:{dark} !important}}'
    for light, dark in DARK.items()
    for prop in ("fill", "stroke")
)
MAX_X_TICKS = 40
SIZE_INCHES = (8.0, 4.8)
LEGEND_COLUMNS = 5
LEGEND_CHARACTERS = 88
"""As many fit into one row of the legend, with 6 for each mark."""
STYLE: dict[str, Any] = {
    "svg.hashsalt": "harness",  # ids in the file follow from its content
    "svg.fonttype": "none",  # text stays text: small, and readable by screen readers
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10.0,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.facecolor": PAPER,
    "figure.facecolor": PAPER,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.0,
}
SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"


def can_draw() -> bool:
    """Whether matplotlib is installed; a host that only measures may lack it."""
    return find_spec("matplotlib") is not None


def draw(chart: Chart) -> str:
    """The chart as the text of an SVG file."""
    import matplotlib.style
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=SIZE_INCHES, layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        notes = _plot(axes, chart)
        _scale(axes, chart)
        axes.set_title(_plain(chart.title), parse_math=False)
        axes.set_xlabel("\n".join(map(_plain, (chart.x_label, *chart.notes))), parse_math=False)
        axes.set_ylabel(chart.y_label)
        _legend(figure, axes.get_lines())
        out = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        with warnings.catch_warnings():
            # Text stays text, which the reader's fonts draw: what DejaVu Sans lacks is no loss.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            figure.savefig(out, format="svg", metadata=nothing)
    return _finished(out.getvalue(), chart, notes)


def _legend(figure: "Figure", lines: "Sequence[Line2D]") -> None:
    """Name the lines under the axes, where it hides no mark and leaves them the whole width of a phone."""
    labels = [_plain(str(line.get_label())) for line in lines]
    # Put in afterwards: matplotlib leaves out labels that begin with '_', and reads formulas between '$'.
    legend = figure.legend(
        *(lines, [str(number) for number in range(len(labels))]),
        loc="outside lower left",
        ncols=_legend_columns(labels),
        columnspacing=1.2,
    )
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set_parse_math(False)
        text.set_text(label)


def _plain(text: str) -> str:
    """Text on one line and without characters that an XML file cannot hold."""
    return "".join(c if c.isprintable() else " " for c in text)


def _legend_columns(labels: Sequence[str]) -> int:
    """As many as fit, with rows of nearly one length; matplotlib fills column after column."""
    for rows in range(math.ceil(len(labels) / LEGEND_COLUMNS), len(labels)):
        columns = [labels[i : i + rows] for i in range(0, len(labels), rows)]
        if sum(max(map(len, column)) + 6 for column in columns) <= LEGEND_CHARACTERS:
            return len(columns)
    return 1


def _plot(axes: "Axes", chart: Chart) -> dict[str, Sequence[Point]]:
    """Draw every line; returns its points by the id of its group in the file."""
    notes: dict[str, Sequence[Point]] = {}
    guide = chart.guide
    if guide and guide.level is not None:
        axes.axhline(guide.level, color=INK, linestyle="--", label=guide.label, gid="guide")
    elif guide:
        notes["guide"] = guide.points
        x, y = [p.x for p in guide.points], [p.y for p in guide.points]
        axes.plot(x, y, color=INK, linestyle="--", marker="_", label=guide.label, gid="guide")
    for series in chart.series:
        gid = f"series-{series.index}"
        notes[gid] = series.points
        x, y = _with_gaps(series.points, bool(chart.ticks))
        axes.plot(
            x,
            y,
            # Along a true T axis neighbours lie close: thin lines and small marks keep them apart.
            linewidth=1.0 if chart.ticks else 0.6,
            markersize=5.5 if chart.ticks else 4.5,
            color=PALETTE[series.index % len(PALETTE)],
            linestyle=LINES[series.index // len(PALETTE) % len(LINES)],
            marker=MARKERS[series.index % len(MARKERS)],
            markeredgecolor=INK,
            markeredgewidth=0.5,
            label=series.label,
            gid=gid,
        )
    return notes


def _with_gaps(points: Sequence[Point], categorical: bool) -> tuple[list[float], list[float]]:
    """Coordinates with a break wherever workloads between two marks have none."""
    x: list[float] = []
    y: list[float] = []
    for point in points:
        if categorical and x and point.x > x[-1] + 1:
            x.append(x[-1] + 1)
            y.append(math.nan)
        x.append(point.x)
        y.append(point.y)
    return x, y


def _scale(axes: "Axes", chart: Chart) -> None:
    from matplotlib.ticker import FixedLocator, NullFormatter

    if chart.log_y:
        axes.set_yscale("log")
    axes.set_ylim(*_limits(_heights(chart), chart.log_y))
    if chart.log_y:
        _log_ticks(axes.yaxis)
    if chart.ticks:
        step = max(1, math.ceil(len(chart.ticks) / MAX_X_TICKS))
        shown = range(0, len(chart.ticks), step)
        axes.set_xlim(-0.5, len(chart.ticks) - 0.5)
        names = [_plain(chart.ticks[i]) for i in shown]
        axes.set_xticks(list(shown), names, rotation=90, parse_math=False)
        axes.xaxis.set_minor_locator(FixedLocator([]))
    else:
        axes.set_xscale("log")
        axes.set_xlim(*_limits([p.x for s in chart.series for p in s.points], True))
        _log_ticks(axes.xaxis)
    axes.yaxis.set_minor_formatter(NullFormatter())


def _heights(chart: Chart) -> list[float]:
    values = [point.y for series in chart.series for point in series.points]
    if chart.guide:
        values += [point.y for point in chart.guide.points]
        values += [] if chart.guide.level is None else [chart.guide.level]
    return values


def _limits(values: Sequence[float], log: bool) -> tuple[float, float]:
    """Room around the values: a single one must not lie on the frame."""
    low, high = min(values), max(values)
    if log:
        return low / 1.35, high * 1.35
    room = 0.06 * (high - low) or 0.05
    return low - room, high + room


def _log_ticks(axis: Any) -> None:
    """1, 2, 5, 10 ... in plain digits."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    low, high = axis.get_view_interval()
    subs = (1.0, 2.0, 5.0) if high / low < 1e3 else (1.0,)
    axis.set_major_locator(LogLocator(base=10, subs=subs, numticks=20))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def _finished(svg: str, chart: Chart, notes: dict[str, Sequence[Point]]) -> str:
    """Add name, description, hover texts and dark mode, and make ids unique among the charts of one page."""
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    root = ElementTree.fromstring(svg)
    for group, points in notes.items():
        _hover(root, group, points)
    root.attrib.pop("width")
    root.attrib.pop("height")
    root.set("role", "img")
    root.set("aria-label", _plain(f"{chart.title}. {chart.alt}"))
    style = ElementTree.Element(f"{{{SVG}}}style")
    style.text = (
        "text{font-family:'DejaVu Sans',Verdana,sans-serif}"
        f"@media (prefers-color-scheme:dark){{{DARK_RULES}}}"
    )
    metadata = root.find(f"{{{SVG}}}metadata")
    if metadata is not None:
        root.remove(metadata)
    root.insert(0, style)
    for element in root.iter():
        if "id" in element.attrib:
            element.set("id", f"{chart.name}-{element.get('id')}")
        link = f"{{{XLINK}}}href"
        if element.get(link, "").startswith("#"):
            element.set(link, f"#{chart.name}-{element.get(link)[1:]}")
        if "clip-path" in element.attrib:
            clip = element.get("clip-path", "")
            element.set("clip-path", re.sub(r"url\(#", f"url(#{chart.name}-", clip))
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _hover(root: ElementTree.Element, group: str, points: Sequence[Point]) -> None:
    there = root.find(f".//*[@id='{group}']")
    marks = [] if there is None else list(there.iter(f"{{{SVG}}}use"))
    if len(marks) != len(points):
        raise AssertionError(f"{group}: {len(marks)} marks drawn for {len(points)} points")
    for parent in [] if there is None else there.iter():
        mine = [child for child in parent if child in marks]
        styles = {mark.get("style", "") for mark in mine}
        if len(styles) == 1:  # written once for all marks instead of on each
            parent.set("style", styles.pop())
            for mark in mine:
                mark.attrib.pop("style", None)
    for mark, point in zip(marks, points, strict=True):
        ElementTree.SubElement(mark, f"{{{SVG}}}title").text = _plain(point.note)
