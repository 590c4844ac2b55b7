"""The table that `bench` prints at the end."""

from rich.markup import escape
from rich.table import Table

from harness.credible import credible
from harness.record import RunRecord, Status
from harness.report.numbers import matched
from harness.stats import Mean, rounded, solution_stats


def summary_table(record: RunRecord) -> Table:
    """One row per solution: how many cells passed, and its speeds or, without a GPU, its worst accuracy."""
    record, _ = credible(record)
    timed = any(cell.speedup is not None for cell in record.cells)
    columns = ["average", "T<=901", "T>10K", "min", "max"] if timed else ["lowest matched ratio"]
    table = Table("solution", "passed", *columns)
    for solution in record.solutions:
        cells = [c for c in record.cells if c.solution == solution.name]
        passed = sum(c.status is Status.PASSED for c in cells)
        verdict = f"{passed}/{len(record.workloads)}"
        if len(cells) < len(record.workloads):  # an interrupted run did not get there
            verdict = f"INCOMPLETE {verdict}"
        elif all(c.status is Status.SKIPPED for c in cells):
            verdict = "SKIPPED"
        elif not timed:
            verdict = f"{'PASS' if passed == len(record.workloads) else 'FAIL'} {verdict}"
        table.add_row(escape(solution.label), verdict, *_figures(record, solution.name, timed))
    return table


def verdict_table(record: RunRecord) -> Table:
    """One row per solution: how many checks passed, and which failed."""
    table = Table("solution", "verdict", "passed", "not applicable", "failed")
    info = record.verification
    for solution in record.solutions:
        found = info.of(solution.name) if info else None
        if found is None:
            table.add_row(escape(solution.label), "SKIPPED", "-", "-", "-")
            continue
        count = {
            outcome: sum(check.outcome == outcome for check in found.checks)
            for outcome in ("passed", "not_applicable")
        }
        table.add_row(
            escape(solution.label),
            "FAIL" if found.failed else "PASS",
            str(count["passed"]),
            str(count["not_applicable"]),
            escape(", ".join(check.name for check in found.failed)) or "-",
        )
    return table


def _figures(record: RunRecord, solution: str, timed: bool) -> list[str]:
    if timed:
        stats = solution_stats(record, solution)
        means = [_mean(mean) for mean in (stats.average, stats.small, stats.large)]
        return [*means, _times(stats.min), _times(stats.max)]
    ratios = [
        c.matched_ratio
        for c in record.cells
        if c.solution == solution and c.matched_ratio is not None
    ]
    return [matched(min(ratios)) if ratios else "-"]


def _mean(mean: Mean) -> str:
    if mean.value is None:
        return "-"
    return _times(mean.value) + ("" if mean.complete else f" ({mean.count} of {mean.total})")


def _times(value: float | None) -> str:
    return "-" if value is None else f"{rounded(value)}x"
