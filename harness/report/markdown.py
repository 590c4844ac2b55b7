"""A report as markdown, from the template beside this module."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from harness.record import RunRecord, Status
from harness.report import shell
from harness.report.model import CellView, Correctness, Failure, Report, RowView
from harness.report.numbers import (
    ABSENT,
    count,
    error_size,
    listed,
    matched,
    microseconds,
    shortened,
    span,
    times,
)
from harness.report.series import Chart, charts_of
from harness.report.verification import VerificationView
from harness.report.view import build_report
from harness.roofline import COUNTED
from harness.stats import Mean

TEMPLATES = Path(__file__).parent / "templates"
CHARTS_FOLDER = "charts"
"""Beside comparison.md, which embeds the files in it."""

_ANSI = re.compile(r"\x1b(\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[@-Z\\-_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def render_markdown(record: RunRecord) -> str:
    """The whole comparison. A pure function: the same record gives the same bytes, anywhere and at
    any time."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
        autoescape=False,
    )
    environment.filters |= {
        "text": text,
        "cell": table_cell,
        "code": code,
        "code_cell": code_cell,
        "quote": quote,
        "bash": shell.wrapped,
        "bash_line": shell.line,
    }
    environment.globals |= {
        "count": count,
        "shortened": shortened,
        "fenced": fenced,
        "results_table": results_table,
        "correctness_table": correctness_table,
        "floor_table": floor_table,
        "interval_table": interval_table,
        "matched_table": matched_table,
        "error_table": error_table,
        "summary_table": summary_table,
        "comparison_table": comparison_table,
        "ranking_table": ranking_table,
        "verdict_table": verdict_table,
        "checks_table": checks_table,
        "accuracy_table": accuracy_table,
        "measured_errors": measured_errors,
        "floor_counts": COUNTED,
    }
    report = build_report(record)
    charts = {chart.name: chart for chart in charts_of(report)}
    environment.globals["chart"] = lambda name: chart_image(charts.get(name))
    return environment.get_template("comparison.md.j2").render(report=report)


def chart_image(chart: Chart | None) -> str:
    """The chart as an embedded image with its description; empty when the record has no such chart."""
    if chart is None:
        return ""
    alt = re.sub(r"([\\\[\]])", r"\\\1", text(chart.alt))
    return f"![{alt}]({CHARTS_FOLDER}/{chart.name}.svg)\n\n"


# Free text: nothing that a manifest, a log or a document says may break a table or open a block.


def text(value: str) -> str:
    """Free text on one line, with inline markdown left alone and HTML shown as it is written."""
    return " ".join(plain_text(value).split()).replace("<", "&lt;")


def table_cell(value: str) -> str:
    """Free text inside a table cell."""
    return text(value).replace("\\", "\\\\").replace("|", "\\|")


def code(value: str) -> str:
    """Machine text on one line as a code span, whatever backticks it holds."""
    flat = " ".join(plain_text(value).split())
    if not flat:
        return ""
    fence = "`" * (_longest_run(flat) + 1)
    pad = " " if flat.startswith("`") or flat.endswith("`") else ""
    return f"{fence}{pad}{flat}{pad}{fence}"


def code_cell(value: str) -> str:
    """A code span inside a table cell: pipes must be escaped even there."""
    return code(value).replace("|", "\\|")


def fenced(value: str, language: str = "text") -> str:
    """A code block, with a fence longer than any run of backticks inside and without control
    characters."""
    fence = "`" * max(3, _longest_run(value) + 1)
    return f"{fence}{language}\n{plain_text(value).strip(chr(10))}\n{fence}"


def quote(value: str) -> str:
    """Free markdown as a block quote: an open fence or a heading in it stays in it."""
    lines = plain_text(value).strip().split("\n")
    return "\n".join(f"> {line}".rstrip() for line in lines)


def plain_text(value: str) -> str:
    """Free text without terminal escapes and control characters; only newlines and tabs are left."""
    value = _ANSI.sub("", value.replace("\r\n", "\n").replace("\r", "\n"))
    return _CONTROL.sub("", value)


def _longest_run(value: str) -> int:
    return max((len(run) for run in re.findall(r"`+", value)), default=0)


# Tables.


def table(header: Sequence[str], align: str, rows: Iterable[Sequence[str]]) -> str:
    """A markdown table; `align` has one of l, r per column. Empty without rows."""
    marks = {"l": "---", "r": "--:"}
    body = [f"| {' | '.join(row)} |" for row in rows]
    if not body:
        return ""
    return "\n".join([f"| {' | '.join(header)} |", f"|{'|'.join(marks[a] for a in align)}|", *body])


def _labels(report: Report) -> list[str]:
    return [table_cell(label) for label in report.labels]


def _workload(row: RowView) -> list[str]:
    return [table_cell(row.short_id), str(row.seq_len), str(row.local_expert_offset)]


def _workload_header(report: Report) -> list[str]:
    return [report.workload_heading, "T", "offset"]


def _speed(cell: CellView) -> str:
    if cell.speedup is None:
        return _unmeasured(cell)
    value = times(cell.speedup)
    return f"**{value}**" if cell.best else value


def _unmeasured(cell: CellView) -> str:
    """How a cell without a speed ended; of one that failed verification, the check."""
    if cell.status is Status.VERIFY_FAILED:
        check = re.match(r"(?:failed verification: )?(\w+):", cell.reason or "")
        return f"{cell.status.value} ({check[1] if check else 'no reason recorded'})"
    return cell.status.value


def _winner(row: RowView) -> str:
    who = table_cell(listed(row.winners)) if row.winners else ABSENT
    return f"tie: {who}" if len(row.winners) > 1 else who


def results_table(report: Report) -> str:
    """Speedups by workload, or how a cell ended; the best in bold when there is something to
    compare."""
    several = len(report.labels) > 1
    return table(
        [*_workload_header(report), *_labels(report), *(["best"] if several else [])],
        "lrr" + "r" * len(report.labels) + ("l" if several else ""),
        [
            [*_workload(row), *map(_speed, row.cells), *([_winner(row)] if several else [])]
            for row in report.rows
        ],
    )


def _outcome(cell: CellView) -> str:
    ratio = "" if cell.matched_ratio is None else f" {matched(cell.matched_ratio)}"
    if cell.status is Status.PASSED:
        return f"PASS{ratio}"
    if cell.status in (Status.MISSING, Status.SKIPPED):
        return cell.status.value
    return (
        f"FAIL{ratio} {_unmeasured(cell)}"
        if cell.status is Status.VERIFY_FAILED
        else (f"FAIL{ratio} ({cell.status.value})")
    )


def correctness_table(report: Report) -> str:
    """PASS or how it failed, with the matched ratio, by workload."""
    return table(
        [*_workload_header(report), *_labels(report)],
        "lrr" + "l" * len(report.labels),
        [[*_workload(row), *map(_outcome, row.cells)] for row in report.rows],
    )


def floor_table(report: Report) -> str:
    """Latency, floor and their ratio by workload."""
    labels = _labels(report)
    floor_header = ["floor us", "bound by"] if report.has_floor else []
    per_solution = [f"{label} us" for label in labels]
    if report.has_floor:
        per_solution += [f"{label} / floor" for label in labels]

    def cells(row: RowView) -> list[str]:
        found = []
        if report.has_floor:
            found += [microseconds(row.floor.us), row.floor.bound] if row.floor else [ABSENT] * 2
        found += [_or_absent(cell.latency_us, microseconds) for cell in row.cells]
        if report.has_floor:
            found += [_or_absent(cell.floor_ratio, times) for cell in row.cells]
        return found

    return table(
        [*_workload_header(report)[:2], *floor_header, *per_solution],
        "lr" + ("rl" if report.has_floor else "") + "r" * len(per_solution),
        [[*_workload(row)[:2], *cells(row)] for row in report.rows],
    )


def interval_table(report: Report) -> str:
    """Median latency with its interval by workload."""

    def entry(cell: CellView) -> str:
        if cell.latency_us is None or cell.interval_us is None:
            return _or_absent(cell.latency_us, microseconds)
        low, high = microseconds(cell.interval_us.low), microseconds(cell.interval_us.high)
        return f"{microseconds(cell.latency_us)} ({low} to {high})"

    return table(
        [*_workload_header(report)[:2], *(f"{label} us" for label in _labels(report))],
        "lr" + "r" * len(report.labels),
        [[*_workload(row)[:2], *map(entry, row.cells)] for row in report.rows],
    )


def matched_table(report: Report) -> str:
    """Matched ratio by workload."""
    return table(
        [*_workload_header(report)[:2], *_labels(report)],
        "lr" + "r" * len(report.labels),
        [
            [*_workload(row)[:2], *(_or_absent(cell.matched_ratio, matched) for cell in row.cells)]
            for row in report.rows
        ],
    )


def error_table(report: Report) -> str:
    """Per solution: verdict, lowest matched ratio and largest errors, of what was recorded."""

    def row(entry: Correctness) -> list[str]:
        return [
            table_cell(entry.label),
            entry.verdict,
            f"{entry.passed} of {entry.total}",
            _or_absent(entry.matched_ratio, matched),
            _or_absent(entry.max_abs_error, error_size),
            _or_absent(entry.max_rel_error, error_size),
        ]

    header = ["Solution", "Result", "Passed", "Lowest matched ratio"]
    header += ["Largest absolute error", "Largest relative error"]
    return table(header, "llrrrr", [row(entry) for entry in report.correctness])


def _mean(value: Mean, best: bool) -> str:
    if value.value is None:
        return ABSENT
    number = f"**{times(value.value)}**" if best else times(value.value)
    return number if value.complete else f"{number} (over {value.count} of {value.total})"


def summary_table(report: Report) -> str:
    """Summary statistics by solution."""
    return table(
        ["Metric", *_labels(report)],
        "l" + "r" * len(report.labels),
        [
            [
                row.name,
                *(_mean(v, b) for v, b in zip(row.values, row.best, strict=True)),
            ]
            for row in report.summary
        ],
    )


def comparison_table(report: Report) -> str:
    """The best solution against each other one."""
    return table(
        [
            "vs",
            "Ratio of averages",
            "Mean of ratios",
            "Range of ratios",
            "Lowest at",
            "Highest at",
            "Workloads",
        ],
        "lrrrllr",
        [
            [
                table_cell(row.other),
                f"**{times(row.comparison.ratio_of_averages)}**",
                times(row.comparison.mean_of_ratios),
                span(row.comparison.lowest.value, row.comparison.highest.value),
                table_cell(row.lowest_at),
                table_cell(row.highest_at),
                f"{len(row.comparison.ratios)} of {row.comparison.total}",
            ]
            for row in report.comparisons
        ],
    )


def ranking_table(report: Report) -> str:
    """Positions, averages, wins and ties."""
    return table(
        ["#", "Solution", "Average", "Best alone", "Best in a tie"],
        "rlrrr",
        [
            [
                ABSENT if row.rank.position is None else str(row.rank.position),
                table_cell(row.label),
                _mean(row.rank.average, False),
                str(row.rank.wins),
                str(row.rank.ties),
            ]
            for row in report.ranks
        ],
    )


def verdict_table(view: VerificationView) -> str:
    """Verdict by solution."""
    return table(
        [
            "Solution",
            "Verdict",
            "Passed",
            "Not applicable",
            "Failed",
            "Repeat of an identical call",
        ],
        "llrrll",
        [
            [
                table_cell(row.label),
                row.verdict,
                str(row.passed),
                str(row.not_applicable),
                table_cell(", ".join(check.name for check in row.failed)) or ABSENT,
                table_cell(row.repeat),
            ]
            for row in view.verdicts
        ],
    )


def checks_table(view: VerificationView) -> str:
    """Outcome by check and solution."""
    return table(
        ["Check", *map(table_cell, view.labels)],
        "l" * (1 + len(view.labels)),
        [[code_cell(name), *outcomes] for name, outcomes in view.checks],
    )


def accuracy_table(view: VerificationView, index: int) -> str:
    """Errors of one solution against float64, by workload."""
    return table(
        [
            "Workload",
            "T",
            "Matched (seed)",
            "Matched (contest)",
            "1 - cosine",
            "Largest abs",
            "Largest rel",
        ],
        "lrrrrrr",
        [
            [
                table_cell(row.short_id),
                str(row.seq_len),
                matched(entry[0]),
                matched(entry[1]),
                error_size(1.0 - entry[2]),
                error_size(entry[3]),
                error_size(entry[4]),
            ]
            for row in view.accuracy
            if (entry := row.entries[index]) is not None
        ],
    )


def measured_errors(failure: Failure) -> str:
    """What was measured of a wrong result, in one sentence; empty when nothing was."""
    parts = []
    if failure.matched_ratio is not None:
        parts.append(f"lowest matched ratio {matched(failure.matched_ratio)}")
    if failure.max_abs_error is not None:
        parts.append(f"largest absolute error {error_size(failure.max_abs_error)}")
    if failure.max_rel_error is not None:
        parts.append(f"largest relative error {error_size(failure.max_rel_error)}")
    return f"Measured: {', '.join(parts)}." if parts else ""


def _or_absent(value: float | None, write) -> str:
    return ABSENT if value is None else write(value)
