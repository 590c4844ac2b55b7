"""What each chart plots, as plain numbers: a chart exists only where the record has points for it."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from harness.record import Status
from harness.report.model import CellView, Report, RowView
from harness.report.numbers import (
    count,
    listed,
    matched,
    microseconds,
    plain,
    shortened,
    times,
)


@dataclass(frozen=True)
class Point:
    """One mark."""

    x: float
    """Number of tokens, or the position of the workload on an axis with `Chart.ticks`."""
    y: float
    note: str
    """What hovering over the mark says."""


@dataclass(frozen=True)
class Series:
    """The marks of one solution, from left to right; its place in `Report.labels` gives the colour."""

    index: int
    label: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Guide:
    """What the marks are read against: a line of points, or one level over the whole width."""

    label: str
    points: tuple[Point, ...] = ()
    level: float | None = None


@dataclass(frozen=True)
class Chart:
    """One chart, without anything of how it is drawn."""

    name: str
    """File name without its ending."""
    title: str
    x_label: str
    y_label: str
    ticks: tuple[str, ...]
    """Names along x, one per workload; empty: x is the number of tokens on a logarithmic axis."""
    log_y: bool
    series: tuple[Series, ...]
    guide: Guide | None
    alt: str
    """The chart in words, for those who do not see it."""
    notes: tuple[str, ...] = ()
    """What must be said beside it, a line each."""


def charts_of(report: Report) -> tuple[Chart, ...]:
    """The charts that `report` has points for, in the order in which it shows them."""
    ratio = report.required_matched_ratio
    candidates = (
        _by_workload(
            report,
            name="speedup",
            title="Speedup over the reference",
            y_label="speedup (x)",
            value=lambda cell: cell.speedup,
            write=times,
            log_y=True,
        ),
        _latency(report),
        _by_workload(
            report,
            name="floor-ratio",
            title="Latency over the physical floor",
            y_label="latency / floor",
            value=lambda cell: cell.floor_ratio,
            write=times,
            log_y=True,
            guide=Guide("floor", level=1.0),
        ),
        _by_workload(
            report,
            name="matched-ratio",
            title="Matched ratio",
            y_label="share of elements within tolerance",
            value=lambda cell: cell.matched_ratio,
            write=matched,
            log_y=False,
            guide=Guide(f"required: {plain(ratio, 4).rstrip('0').rstrip('.')}", level=ratio),
        ),
    )
    return tuple(chart for chart in candidates if chart.series)


def _by_workload(
    report: Report,
    *,
    name: str,
    title: str,
    y_label: str,
    value: Callable[[CellView], float | None],
    write: Callable[[float], str],
    log_y: bool,
    guide: Guide | None = None,
) -> Chart:
    def point(index: int, row: RowView, cell: CellView) -> Point | None:
        y = value(cell)
        return Point(index, y, "") if _drawable(y, log_y) else None

    series = _series(report, point)
    return Chart(
        name=name,
        title=title,
        x_label="workload, by number of tokens T",
        y_label=y_label,
        ticks=_ticks(report),
        log_y=log_y,
        series=series,
        guide=guide,
        alt=_alt(title, series, write),
        notes=_without_points(report, series),
    )


def _latency(report: Report) -> Chart:
    def point(_: int, row: RowView, cell: CellView) -> Point | None:
        there = row.seq_len > 0 and _drawable(cell.latency_us, True)
        return Point(row.seq_len, cell.latency_us, "") if there else None

    floors = tuple(
        Point(
            row.seq_len, row.floor.us, f"floor of {row.short_id}: {microseconds(row.floor.us)} us"
        )
        for row in report.rows
        if row.floor and row.seq_len > 0
    )
    series = _series(report, point)
    return Chart(
        name="latency",
        title="Latency against the number of tokens",
        x_label="number of tokens T",
        y_label="latency (us)",
        ticks=(),
        log_y=True,
        series=series,
        guide=Guide("floor", points=floors) if floors else None,
        alt=_alt("Latency in microseconds", series, microseconds)
        + (" The floor is drawn in." if floors else ""),
        notes=(
            f"{'Latency and floor depend' if floors else 'Latency depends'} on routing and offset too, not on T alone.",
            *_without_points(report, series),
        ),
    )


def _without_points(report: Report, series: tuple[Series, ...]) -> tuple[str, ...]:
    """A line that names the solutions of which the chart shows nothing, where there are any."""
    drawn = {one.index for one in series}
    absent = [label for index, label in enumerate(report.labels) if index not in drawn]
    return (f"No point: {shortened(absent, 4)}.",) if absent else ()


def _series(
    report: Report, point: Callable[[int, RowView, CellView], Point | None]
) -> tuple[Series, ...]:
    found = []
    for column, label in enumerate(report.labels):
        points = []
        for index, row in enumerate(report.rows):
            cell = row.cells[column]
            mark = point(index, row, cell)
            if mark:
                note = f"{label} on {row.short_id} (T={row.seq_len}): {describe(cell)}"
                points.append(Point(mark.x, mark.y, note))
        if points:
            found.append(Series(column, label, tuple(points)))
    return tuple(found)


def describe(cell: CellView) -> str:
    """What is known of a cell, in one line: how it ended, its speed and its accuracy."""
    parts = [] if cell.status is Status.PASSED else [cell.status.value]
    if cell.speedup is not None:
        parts.append(times(cell.speedup))
    if cell.latency_us is not None:
        often = cell.interval_us
        between = f" ({microseconds(often.low)} to {microseconds(often.high)})" if often else ""
        parts.append(f"{microseconds(cell.latency_us)} us{between}")
    if cell.floor_ratio is not None:
        parts.append(f"{times(cell.floor_ratio)} the floor")
    if cell.matched_ratio is not None:
        parts.append(f"matched ratio {matched(cell.matched_ratio)}")
    return ", ".join(parts) or cell.status.value


def _drawable(value: float | None, log: bool) -> bool:
    return value is not None and math.isfinite(value) and (value > 0 or not log)


def _ticks(report: Report) -> tuple[str, ...]:
    tokens = Counter(row.seq_len for row in report.rows)
    return tuple(
        str(row.seq_len) if tokens[row.seq_len] == 1 else f"{row.seq_len} {row.short_id[:12]}"
        for row in report.rows
    )


def _alt(title: str, series: tuple[Series, ...], write: Callable[[float], str]) -> str:
    if not series:
        return ""
    workloads = max(len(one.points) for one in series)
    ranges = []
    for one in series:
        values = [point.y for point in one.points]
        low, high = write(min(values)), write(max(values))
        ranges.append(f"{one.label} {low}" + (f" to {high}" if high != low else ""))
    return f"{title} on {count(workloads, 'workload')}: {listed(ranges)}."
