"""The tables that `bench` and `verify` print at the end."""

from harness.credible import credible
from harness.record import RunRecord, Status
from harness.report.numbers import matched
from harness.stats import Mean, rounded, solution_stats
from harness.tables import Table, columns, table


def summary_table(record: RunRecord) -> Table:
    """One row per solution: how many cells passed, and its speeds or, without a GPU, its worst accuracy."""
    record, _ = credible(record)
    timed = any(cell.speedup is not None for cell in record.cells)
    titles = ["average", "T<=901", "T>10K", "min", "max"] if timed else ["lowest matched ratio"]
    rows = []
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
        rows.append([solution.label, verdict, *_figures(record, solution.name, timed)])
    header = columns(*((title, title) for title in ("solution", "passed", *titles)))
    return table("summary", header, rows)


def verdict_table(record: RunRecord) -> Table:
    """One row per solution: how many checks passed, and which failed."""
    rows = []
    info = record.verification
    for solution in record.solutions:
        found = info.of(solution.name) if info else None
        if found is None:
            rows.append([solution.label, "SKIPPED", None, None, None])
            continue
        count = {
            outcome: sum(check.outcome == outcome for check in found.checks)
            for outcome in ("passed", "not_applicable")
        }
        failed = ", ".join(check.name for check in found.failed)
        verdict = "FAIL" if found.failed else "PASS"
        rows.append([solution.label, verdict, count["passed"], count["not_applicable"], failed])
    header = columns(
        ("solution", "solution"),
        ("verdict", "verdict"),
        ("passed", "passed", str),
        ("not_applicable", "not applicable", str),
        ("failed", "failed"),
    )
    return table("verdicts", header, rows)


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
