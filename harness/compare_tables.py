"""What became of records' cells, as sentences and tables."""

from collections import Counter
from collections.abc import Sequence

from harness.compare import Change, RecordChange
from harness.grid import grid_of
from harness.record import Cell, Status
from harness.report.names import Names
from harness.report.numbers import count, microseconds, shortened, times
from harness.stats import by_tokens
from harness.tables import Table, columns, spared, table


def only_one_has(change: RecordChange) -> list[str]:
    """One sentence for each side that has solutions or workloads which the other lacks."""
    found = []
    for record, labels, workloads in (
        (change.before, change.only_before, change.workloads_only_before),
        (change.after, change.only_after, change.workloads_only_after),
    ):
        if labels:
            found.append(f"Only {record.run_id} has {', '.join(labels)}.")
        if workloads:
            names = map(Names(record).workload_at, workloads)
            found.append(
                f"{count(len(workloads), 'workload')} only in {record.run_id}: {shortened(names, 4)}."
            )
    return found


def verdict(change: RecordChange, threshold: float) -> str:
    """'b against a: 2 regressions, 0 lost, 1 gain, 16 within 5%, of 19 cells.'"""
    cells = change.cells
    numbers = Counter(cell.change for cell in cells)
    parts = [
        count(numbers[Change.REGRESSION], "regression"),
        f"{numbers[Change.LOST]} lost",
        count(numbers[Change.GAIN], "gain"),
        f"{numbers[Change.SAME]} within {threshold * 100:g}%",
    ]
    for kind in (Change.NOISE, Change.MENDED, Change.PASSED, Change.NOT_COMPARED):
        parts += [f"{numbers[kind]} {kind.value}"] if numbers[kind] else []
    names = f"{change.after.run_id} against {change.before.run_id}"
    return f"{names}: {', '.join(parts)}, of {count(len(cells), 'cell')}."


def summary_table(changes: Sequence[RecordChange]) -> Table:
    """One row for each solution and later record."""
    header = columns(
        ("solution", "solution"),
        ("run", "run"),
        ("sources", "sources"),
        ("ratio", "time now / then", times),
        ("regressions", "slower", str),
        ("gains", "faster", str),
        ("lost", "lost", str),
        ("mended", "mended", str),
        ("cells", "cells", str),
    )
    header = spared(header, "cells", "sources")
    sources = {True: "same", False: "changed", None: "not known"}
    rows = []
    for change in changes:
        names = Names(change.after)
        for one in change.solutions:
            kinds = (Change.REGRESSION, Change.GAIN, Change.LOST, Change.MENDED)
            numbers = [one.number(kind) for kind in kinds]
            label, run = names.label(one.solution), change.after.run_id
            source = sources[one.same_source]
            rows.append([label, run, source, one.ratio, *numbers, len(one.cells)])
    return table("summary", header, rows)


def cells_table(changes: Sequence[RecordChange], only_changed: bool = False) -> Table:
    """For people, side by side: one row for each solution and workload, with what each record has for it."""
    first = changes[0].before
    header = [*columns(("solution", "solution"), ("workload", "workload"), ("seq_len", "T", str))]
    header += columns((first.run_id, first.run_id, str))
    for change in changes:
        run = change.after.run_id
        header += columns(
            (run, run, str), (f"{run} ratio", "now / then", times), (f"{run} change", "change")
        )
    header = spared(header, *(f"{change.after.run_id} change" for change in changes), "workload")
    then = grid_of(first)
    by_key = [{(c.solution, c.workload): c for c in change.cells} for change in changes]
    names = Names(first)
    rows = []
    order = {workload.id: place for place, workload in enumerate(by_tokens(first))}
    for key, before in sorted(then.items(), key=lambda entry: order[entry[0][1]]):
        found = [cells.get(key) for cells in by_key]
        quiet = {Change.SAME, Change.NOISE, Change.PASSED, Change.NOT_COMPARED}
        if not any(found) or (only_changed and all(c is None or c.change in quiet for c in found)):
            continue
        tokens = next(c.seq_len for c in found if c)
        row: list[object] = [names.label(key[0]), names.workload(key[1]), tokens, describe(before)]
        for cell in found:
            row += [describe(cell.after), cell.ratio, cell.change.value] if cell else [None] * 3
        rows.append(row)
    return table("cells", header, rows)


def changes_table(changes: Sequence[RecordChange]) -> Table:
    """For programs: one row for each solution, workload and later record, with plain numbers."""
    header = columns(
        ("solution", "solution"),
        ("workload", "workload"),
        ("seq_len", "T", str),
        ("before", "before"),
        ("before_status", "status"),
        ("before_latency_us", "latency us", microseconds),
        ("before_speedup", "speedup", times),
        ("after", "after"),
        ("after_status", "status"),
        ("after_latency_us", "latency us", microseconds),
        ("after_speedup", "speedup", times),
        ("ratio", "now / then", times),
        ("change_percent", "change", str),
        ("change", "change"),
    )
    rows = []
    for change in changes:
        names = Names(change.after)
        for cell in change.cells:
            percent = None if cell.ratio is None else (cell.ratio - 1) * 100
            row: list[object] = [names.label(cell.solution), cell.workload, cell.seq_len]
            for record, one in ((change.before, cell.before), (change.after, cell.after)):
                row += [record.run_id, one.status.value, *_speeds(one)]
            rows.append([*row, cell.ratio, percent, cell.change.value])
    return table("changes", header, rows)


def describe(cell: Cell) -> str:
    """Latency in microseconds, else the speedup, else how the cell ended."""
    if cell.status is not Status.PASSED:
        return cell.status.value
    if cell.latency_ms is not None:
        return f"{cell.latency_ms * 1e3:.1f} us"
    return times(cell.speedup) if cell.speedup is not None else cell.status.value


def _speeds(cell: Cell) -> tuple[float | None, float | None]:
    """Latency in microseconds and speedup; of a cell that did not pass they mean nothing."""
    if cell.status is not Status.PASSED:
        return None, None
    return None if cell.latency_ms is None else cell.latency_ms * 1e3, cell.speedup
