"""The tables of a report as plain data, for CSV and JSON."""

from collections.abc import Callable

from harness.record import RunRecord, Status
from harness.report.model import Report
from harness.report.numbers import error_size, matched, microseconds, times
from harness.report.view import build_report
from harness.tables import Column, Table, columns, spared, table


def _workload_columns() -> tuple[Column, ...]:
    return columns(("workload", "workload"), ("seq_len", "T", str), ("offset", "offset", str))


def _cells(report: Report) -> Table:
    header = [
        *_workload_columns(),
        *columns(
            ("solution", "solution"),
            ("status", "status"),
            ("speedup", "speedup", times),
            ("latency_us", "latency us", microseconds),
            ("interval_low_us", "interval from us", microseconds),
            ("interval_high_us", "to us", microseconds),
            ("floor_us", "floor us", microseconds),
            ("floor_ratio", "latency / floor", times),
            ("matched_ratio", "matched ratio", matched),
            ("max_abs_error", "abs. error", error_size),
            ("max_rel_error", "rel. error", error_size),
            ("reason", "reason"),
        ),
    ]
    header = spared(
        header,
        *("interval_low_us", "interval_high_us", "max_rel_error", "max_abs_error"),
        *("floor_us", "offset", "matched_ratio"),
    )
    rows = []
    for row in report.rows:
        for label, cell in zip(report.labels, row.cells, strict=True):
            interval = cell.interval_us
            rows.append(
                [
                    row.id,
                    row.seq_len,
                    row.local_expert_offset,
                    label,
                    cell.status.value,
                    cell.speedup,
                    cell.latency_us,
                    interval and interval.low,
                    interval and interval.high,
                    row.floor and row.floor.us,
                    cell.floor_ratio,
                    cell.matched_ratio,
                    cell.max_abs_error,
                    cell.max_rel_error,
                    cell.reason,
                ]
            )
    return table("cells", header, rows)


def _results(report: Report) -> Table:
    """Speedup by workload, a column for each solution; without any, there is no such table."""
    header = [*_workload_columns(), *columns(*((label, label, times) for label in report.labels))]
    rows = [
        [row.id, row.seq_len, row.local_expert_offset, *(cell.speedup for cell in row.cells)]
        for row in report.rows
    ]
    return table("results", header, rows if report.has_speed else [])


def _summary(report: Report) -> Table:
    header = columns(
        ("metric", "metric"),
        ("solution", "solution"),
        ("value", "value", times),
        ("workloads", "workloads", str),
        ("of", "of", str),
    )
    rows = [
        [row.name, label, mean.value, mean.count, mean.total]
        for row in report.summary
        for label, mean in zip(report.labels, row.values, strict=True)
    ]
    return table("summary", header, rows)


def _comparison(report: Report) -> Table:
    header = columns(
        ("solution", "solution"),
        ("other", "other"),
        ("ratio_of_averages", "ratio of averages", times),
        ("mean_of_ratios", "mean of ratios", times),
        ("lowest", "lowest", times),
        ("lowest_at", "at"),
        ("highest", "highest", times),
        ("highest_at", "at"),
        ("workloads", "workloads", str),
    )
    rows = [
        [
            report.best,
            row.other,
            row.comparison.ratio_of_averages,
            row.comparison.mean_of_ratios,
            row.comparison.lowest.value,
            row.lowest_at,
            row.comparison.highest.value,
            row.highest_at,
            len(row.comparison.ratios),
        ]
        for row in report.comparisons
    ]
    return table("comparison", header, rows)


def _ranking(report: Report) -> Table:
    header = columns(
        ("position", "#", str),
        ("solution", "solution"),
        ("average", "average", times),
        ("wins", "best alone", str),
        ("ties", "best in a tie", str),
    )
    rows = [
        [row.rank.position, row.label, row.rank.average.value, row.rank.wins, row.rank.ties]
        for row in report.ranks
    ]
    return table("ranking", header, rows)


def _correctness(report: Report) -> Table:
    header = columns(
        ("solution", "solution"),
        ("result", "result"),
        ("passed", "passed", str),
        ("of", "of", str),
        ("matched_ratio", "lowest matched ratio", matched),
        ("max_abs_error", "largest abs. error", error_size),
        ("max_rel_error", "largest rel. error", error_size),
    )
    rows = [
        [c.label, c.verdict, c.passed, c.total, c.matched_ratio, c.max_abs_error, c.max_rel_error]
        for c in report.correctness
    ]
    return table("correctness", header, rows)


def _failures(report: Report) -> Table:
    header = columns(
        ("solution", "solution"),
        ("workload", "workload"),
        ("seq_len", "T", str),
        ("status", "status"),
        ("reason", "reason"),
        ("log", "log"),
    )
    rows = [
        [label, row.id, row.seq_len, cell.status.value, cell.reason, cell.log_tail]
        for row in report.rows
        for label, cell in zip(report.labels, row.cells, strict=True)
        if cell.status is not Status.PASSED
    ]
    return table("failures", header, rows)


def _environment(report: Report) -> Table:
    return table("environment", columns(("key", "key"), ("value", "value")), report.environment)


def _verification(report: Report) -> Table:
    header = columns(
        ("solution", "solution"),
        ("verdict", "verdict"),
        ("passed", "passed", str),
        ("not_applicable", "not applicable", str),
        ("failed", "failed"),
        ("repeat", "identical calls"),
    )
    found = report.verification.verdicts if report.verification else ()
    rows = [
        [
            v.label,
            v.verdict,
            v.passed,
            v.not_applicable,
            ", ".join(c.name for c in v.failed),
            v.repeat,
        ]
        for v in found
    ]
    return table("verification", header, rows)


def _checks(report: Report) -> Table:
    header = columns(("check", "check"), ("solution", "solution"), ("outcome", "outcome"))
    seen = report.verification
    rows = [
        [name, label, outcome]
        for name, outcomes in (seen.checks if seen else ())
        for label, outcome in zip(seen.labels if seen else (), outcomes, strict=True)
    ]
    return table("checks", header, rows)


def _accuracy(report: Report) -> Table:
    """Errors against float64, of a full verification."""
    header = columns(
        ("workload", "workload"),
        ("seq_len", "T", str),
        ("solution", "solution"),
        ("matched_seed", "matched, seed", matched),
        ("matched_contest", "matched, contest", matched),
        ("cosine", "cosine", str),
        ("max_abs_error", "abs. error", error_size),
        ("max_rel_error", "rel. error", error_size),
    )
    seen = report.verification
    rows = [
        [row.short_id, row.seq_len, label, *entry]
        for row in (seen.accuracy if seen else ())
        for label, entry in zip(seen.labels if seen else (), row.entries, strict=True)
        if entry is not None
    ]
    return table("accuracy", header, rows)


TABLES: dict[str, Callable[[Report], Table]] = {
    "cells": _cells,
    "results": _results,
    "summary": _summary,
    "comparison": _comparison,
    "ranking": _ranking,
    "correctness": _correctness,
    "failures": _failures,
    "verification": _verification,
    "checks": _checks,
    "accuracy": _accuracy,
    "environment": _environment,
}
"""Every table of a report, by name; for a record that has no row for it, a header alone."""


def tables_of(record: RunRecord) -> dict[str, Table]:
    """The tables of the report of `record`, by name; those without a row are left out."""
    report = build_report(record)
    made = {name: make(report) for name, make in TABLES.items()}
    return {name: one for name, one in made.items() if one.rows}
