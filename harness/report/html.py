"""A report as one HTML file that needs nothing else: tables to sort and filter, charts, and every section of the markdown."""

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup, escape

from harness.record import RunRecord, Status
from harness.report.charts import GRID, INK, PAPER
from harness.report.markdown import TEMPLATES, plain_text, render_markdown
from harness.report.model import CellView, Report, RowView
from harness.report.numbers import ABSENT, error_size, matched, microseconds, times
from harness.report.series import charts_of, describe
from harness.report.view import build_report

INTERACTIVE = "Results (sorted by number of tokens)"
"""Section of the markdown whose place the sortable tables take."""
TIP_LOG_LINES = 8
"""Lines of a failure's log in the text shown on hover; the table of cells has all that was recorded."""


@dataclass(frozen=True)
class Entry:
    """One value of the table of cells: as shown, and what it sorts by."""

    text: str
    sort: str
    """A number in digits, or text; empty: there is no value, which sorts last."""


@dataclass(frozen=True)
class Column:
    """One column of the table of cells."""

    key: str
    title: str
    numeric: bool


@dataclass(frozen=True)
class CellRow:
    """One solution on one workload."""

    label: str
    seq_len: int
    status: Status
    entries: tuple[Entry, ...]
    """In the order of the columns."""
    reason: str
    log: str


def render_html(record: RunRecord, charts: Mapping[str, str]) -> str:
    """The whole report as one page. A pure function of its arguments.

    Args:
        charts: SVG text by chart name; a chart of the record that is not among them is left out.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
        autoescape=True,
    )
    environment.globals |= {"tip": tip, "shown_outcome": shown_outcome}
    report = build_report(record)
    columns = _columns(report)
    known = charts_of(report)
    head, sections = _split(render_markdown(record))
    return environment.get_template("report.html.j2").render(
        report=report,
        head=_to_html(head),
        sections=[_to_html(body, title) for title, body in sections if title != INTERACTIVE],
        charts=[(c, _inline(charts[c.name])) for c in known if c.name in charts],
        drawn=sorted({(line.index, line.label) for chart in known for line in chart.series}),
        undrawn=bool(known) and not charts,
        columns=columns,
        cells=[
            _cell_row(row, label, cell, columns)
            for row in report.rows
            for label, cell in zip(report.labels, row.cells, strict=True)
        ],
        explained=any(cell.reason or cell.log_tail for row in report.rows for cell in row.cells),
        statuses=sorted({cell.status.value for row in report.rows for cell in row.cells}),
        css=Markup((TEMPLATES / "report.css").read_text()),
        js=Markup((TEMPLATES / "report.js").read_text()),
        ink=INK,
        grid=GRID,
        paper=PAPER,
    )


def shown_outcome(report: Report, cell: CellView) -> str:
    """What the matrix shows of a cell: the speedup, else how it ended."""
    if cell.speedup is not None:
        return times(cell.speedup)
    if report.correctness_only and cell.status is Status.PASSED:
        return f"PASS {matched(cell.matched_ratio)}" if cell.matched_ratio is not None else "PASS"
    return cell.status.value


def tip(label: str, row: RowView, cell: CellView) -> str:
    """Everything known of a cell, a line each; a failure ends with the last lines of its log."""
    lines = [f"{label} on {row.short_id} (T={row.seq_len})", describe(cell)]
    if cell.max_abs_error is not None:
        lines.append(f"largest absolute error {error_size(cell.max_abs_error)}")
    if cell.max_rel_error is not None:
        lines.append(f"largest relative error {error_size(cell.max_rel_error)}")
    if cell.reason:
        lines.append(plain_text(cell.reason))
    if cell.log_tail and cell.log_tail.strip():
        lines += ["", *plain_text(cell.log_tail).strip().splitlines()[-TIP_LOG_LINES:]]
    return "\n".join(lines)


def _columns(report: Report) -> tuple[Column, ...]:
    """Columns for which some cell has a value."""
    cells = [cell for row in report.rows for cell in row.cells]
    measured = (
        ("speedup", "Speedup", report.has_speed),
        ("latency", "Latency us", report.has_latency),
        ("floor", "Latency / floor", any(cell.floor_ratio is not None for cell in cells)),
        ("matched", "Matched ratio", report.has_matched_ratio),
        ("abs", "Abs. error", any(cell.max_abs_error is not None for cell in cells)),
        ("rel", "Rel. error", any(cell.max_rel_error is not None for cell in cells)),
    )
    return (
        Column("t", "T", True),
        Column("workload", report.workload_heading, False),
        Column("solution", "Solution", False),
        Column("status", "Status", False),
        *(Column(key, title, True) for key, title, there in measured if there),
    )


def _cell_row(row: RowView, label: str, cell: CellView, columns: tuple[Column, ...]) -> CellRow:
    def number(value: float | None, write) -> Entry:
        # "inf" and "nan" order as JavaScript's Infinity, so that the worst errors come last.
        return Entry(ABSENT, "") if value is None else Entry(write(value), f"{value:.8g}")

    values = {
        "t": Entry(str(row.seq_len), str(row.seq_len)),
        "workload": Entry(row.short_id, row.short_id),
        "solution": Entry(label, label),
        "status": Entry(cell.status.value, cell.status.value),
        "speedup": number(cell.speedup, times),
        "latency": number(cell.latency_us, microseconds),
        "floor": number(cell.floor_ratio, times),
        "matched": number(cell.matched_ratio, matched),
        "abs": number(cell.max_abs_error, error_size),
        "rel": number(cell.max_rel_error, error_size),
    }
    return CellRow(
        label=label,
        seq_len=row.seq_len,
        status=cell.status,
        entries=tuple(values[column.key] for column in columns),
        reason=plain_text(cell.reason or ""),
        log=plain_text(cell.log_tail or "").strip(),
    )


def _split(markdown: str) -> tuple[str, list[tuple[str, str]]]:
    """What precedes the first section, and each section with its title; headings inside code blocks are none."""
    head, sections, fence = "", [], ""
    for line in markdown.splitlines(keepends=True):
        if fence:
            fence = "" if line.rstrip("\n") == fence else fence
        elif opening := re.match(r"`{3,}", line):
            fence = opening[0]
        elif line.startswith("## "):
            sections.append([line[3:].strip(), ""])
        if sections:
            sections[-1][1] += line
        else:
            head += line
    return head, [(title, body) for title, body in sections]


def _to_html(markdown: str, title: str = "") -> Markup:
    """Markdown as HTML, without its images (charts have a section of their own) and with tables that scroll by themselves.

    Args:
        title: names the tables for those who hear the page.
    """
    # An image within other text, in notes say, would be fetched from somewhere.
    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    body = parser.render(re.sub(r"(?m)^!\[.*\]\(.*\)\n", "", markdown))
    numbers = itertools.count(1)
    several = body.count("<table>") > 1

    def region(_: re.Match[str]) -> str:
        number = f" {next(numbers)}" if several else ""
        name = escape(f"{title}: table{number}")
        return f'<div class="scroll" tabindex="0" role="region" aria-label="{name}"><table>'

    body = re.sub("<table>", region, body)
    return Markup(body.replace("</table>", "</table></div>"))


def _inline(svg: str) -> Markup:
    """An SVG for use inside a page: the page's own style sheet decides on ink and paper."""
    return Markup(re.sub(r"<style>.*?</style>", "", svg, count=1, flags=re.S))
