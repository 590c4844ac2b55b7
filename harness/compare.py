"""Two or more records side by side: what became faster, what slower, and whether they may be compared at all."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import fmean

from harness.credible import credible
from harness.errors import HarnessError
from harness.grid import grid_of
from harness.noise import median_interval
from harness.profile import Profile
from harness.record import Cell, RunRecord, Status
from harness.report.names import Names
from harness.report.numbers import count, microseconds, shortened, times
from harness.stats import CLOSE, by_tokens
from harness.tables import Table, columns, spared, table

THRESHOLD = CLOSE
"""Slower by more than this share is a regression: single runs repeat to about that."""


class Change(str, Enum):
    """What became of one cell."""

    SAME = "same"
    """Within the threshold."""
    NOISE = "within noise"
    """Beyond the threshold, but the intervals of both medians overlap."""
    GAIN = "gain"
    REGRESSION = "regression"
    LOST = "lost"
    """Passed before, does not pass now: a regression whatever its speed."""
    MENDED = "mended"
    """Did not pass before, passes now."""
    PASSED = "passed both times"
    """Without a speed in common, as on the CPU backend."""
    NOT_COMPARED = "not compared"
    """Passed neither time."""

    @property
    def bad(self) -> bool:
        """Whether it makes `compare` fail."""
        return self in (Change.REGRESSION, Change.LOST)


@dataclass(frozen=True)
class CellChange:
    """One solution on one workload, then and now."""

    solution: str
    workload: str
    seq_len: int
    change: Change
    before: Cell
    after: Cell
    ratio: float | None
    """Time now / time then: below 1 is faster. Of latencies, or of speedups where one record has only those."""


@dataclass(frozen=True)
class SolutionChange:
    """One solution over the cells that have a ratio."""

    solution: str
    same_source: bool | None
    """None when a record does not say."""
    ratio: float | None
    """Geometric mean of the cells' ratios."""
    cells: tuple[CellChange, ...]

    def number(self, *kinds: Change) -> int:
        """Cells that changed in one of these ways."""
        return sum(cell.change in kinds for cell in self.cells)


@dataclass(frozen=True)
class RecordChange:
    """One record against the first."""

    before: RunRecord
    after: RunRecord
    solutions: tuple[SolutionChange, ...]
    only_before: tuple[str, ...]
    """Labels of solutions that only the first record has."""
    only_after: tuple[str, ...]
    workloads_only_before: tuple[str, ...]
    """Ids of workloads that only the first record has."""
    workloads_only_after: tuple[str, ...]

    @property
    def cells(self) -> list[CellChange]:
        """All cells, solution by solution."""
        return [cell for solution in self.solutions for cell in solution.cells]

    @property
    def regressed(self) -> bool:
        """Whether any cell is slower than the threshold allows, or lost."""
        return any(cell.change.bad for cell in self.cells)


def check_comparable(records: Sequence[RunRecord]) -> list[str]:
    """What differs between records that must be alike for their numbers to be set side by side; empty when nothing does."""
    first, *others = records
    return [
        f"{name} differs: {first.run_id} has {_said(value(first))}, {other.run_id} {_said(value(other))}"
        for other in others
        for name, value in MUST_AGREE.items()
        if value(first) != value(other)
    ]


def told_apart(records: Sequence[RunRecord], folders: Sequence[str]) -> list[RunRecord]:
    """The records, those of one run id under names of their own: the folder's, or else a number for the place."""
    ids = Counter(record.run_id for record in records)
    names = [
        folder if ids[record.run_id] > 1 else record.run_id
        for record, folder in zip(records, folders, strict=True)
    ]
    number: Counter[str] = Counter()
    found = []
    for record, name in zip(records, names, strict=True):
        number[name] += 1
        unique = f"{name} ({number[name]})" if number[name] > 1 else name
        found.append(record.model_copy(update={"run_id": unique}))
    return found


def remarks(records: Sequence[RunRecord]) -> list[str]:
    """What a reader should know of records that are compared.

    What differs that should not, copies, other hosts and cards, partial records, warnings of the runs.
    """
    first, *others = [credible(record)[0] for record in records]
    found = check_comparable(records)
    new: list[RunRecord] = []
    for record in records:
        like = next((other for other in new if _copies(record, other)), None)
        if like is None:
            new.append(record)
        else:
            found.append(f"{record.run_id} and {like.run_id} are the same record.")
    for other in others:
        hosts = (first.environment.host, other.environment.host)
        if hosts[0] != hosts[1]:
            found.append(
                f"{other.run_id} ran on another host than {first.run_id}; where the GPU waits for the host, that moves latencies."
            )
        cards = [r.environment.gpu and r.environment.gpu.uuid for r in (first, other)]
        if all(cards) and cards[0] != cards[1]:
            found.append(f"{other.run_id} ran on another card than {first.run_id}.")
        drift = _reference_drift(first, other)
        if drift is not None and max(drift, 1 / drift) > 1 + CLOSE:
            found.append(
                f"The reference itself took {times(drift)} as long in {other.run_id} as in {first.run_id}: that much may "
                "be the machine's and not the solutions'."
            )
    for record in new:
        if record.partial:
            found.append(
                f"{record.run_id} was interrupted; cells that it lacks count as not passed."
            )
        doubts = credible(record)[1]
        found += [f"{record.run_id}: {warning}" for warning in (*record.warnings, *doubts)]
    return found


def require_comparable(records: Sequence[RunRecord]) -> None:
    """Raise HarnessError with every difference when the records are not comparable."""
    if differences := check_comparable(records):
        raise HarnessError(
            f"{'; '.join(differences)}; --allow-different compares them all the same"
        )


def compare_records(
    before: RunRecord, after: RunRecord, threshold: float = THRESHOLD
) -> RecordChange:
    """Set `after` against `before`, on the solutions and workloads that both have.

    A cell that a record should have and lacks is MISSING, as in its report.

    Raises:
        HarnessError: they have no solution or no workload in common, or nothing passed in either.
    """
    before, after = credible(before)[0], credible(after)[0]
    old = {solution.name: solution for solution in before.solutions}
    new = {solution.name: solution for solution in after.solutions}
    tokens = {workload.id: workload.seq_len for workload in after.workloads}
    shared = [workload.id for workload in before.workloads if workload.id in tokens]
    then, now = grid_of(before), grid_of(after)
    if not shared or not set(old) & set(new):
        what = "solution" if shared else "workload"
        raise HarnessError(
            f"{before.run_id} and {after.run_id} have no {what} in common; name records that share some"
        )

    def changed(name: str) -> SolutionChange:
        cells = tuple(
            _cell_change(then[name, uuid], now[name, uuid], tokens[uuid], threshold)
            for uuid in shared
        )
        hashes = (old[name].source_hash, new[name].source_hash)
        ratios = [cell.ratio for cell in cells if cell.ratio is not None]
        return SolutionChange(
            solution=name,
            same_source=hashes[0] == hashes[1] if all(hashes) else None,
            ratio=math.exp(fmean(map(math.log, ratios))) if ratios else None,
            cells=cells,
        )

    before_names, after_names = Names(before), Names(after)
    there = {workload.id for workload in before.workloads}
    found = RecordChange(
        before=before,
        after=after,
        solutions=tuple(changed(name) for name in old if name in new),
        only_before=tuple(before_names.label(name) for name in old if name not in new),
        only_after=tuple(after_names.label(name) for name in new if name not in old),
        workloads_only_before=tuple(w.id for w in before.workloads if w.id not in tokens),
        workloads_only_after=tuple(w.id for w in after.workloads if w.id not in there),
    )
    if all(cell.change is Change.NOT_COMPARED for cell in found.cells):
        raise HarnessError(
            f"{before.run_id} and {after.run_id} have no cell in common that passed in either, so nothing can be compared; "
            "name records that share some"
        )
    return found


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


def _speeds(cell: Cell) -> tuple[float | None, float | None]:
    """Latency in microseconds and speedup; of a cell that did not pass they mean nothing."""
    if cell.status is not Status.PASSED:
        return None, None
    return None if cell.latency_ms is None else cell.latency_ms * 1e3, cell.speedup


def describe(cell: Cell) -> str:
    """Latency in microseconds, else the speedup, else how the cell ended."""
    if cell.status is not Status.PASSED:
        return cell.status.value
    if cell.latency_ms is not None:
        return f"{cell.latency_ms * 1e3:.1f} us"
    return times(cell.speedup) if cell.speedup is not None else cell.status.value


def _copies(one: RunRecord, other: RunRecord) -> bool:
    """Whether two records differ in nothing but the name that they go by here."""
    return (
        one.model_copy(update={"run_id": other.run_id}).model_dump_json() == other.model_dump_json()
    )


def _reference_drift(before: RunRecord, after: RunRecord) -> float | None:
    """Geometric mean over workloads of the reference's latency, now / then; None without one in common."""
    then, now = (
        {c.workload: c.reference_latency_ms for c in record.cells if c.reference_latency_ms}
        for record in (before, after)
    )
    ratios = [math.log(now[workload] / then[workload]) for workload in then if workload in now]
    return math.exp(fmean(ratios)) if ratios else None


def _cell_change(before: Cell, after: Cell, seq_len: int, threshold: float) -> CellChange:
    ratio = _ratio(before, after)
    return CellChange(
        solution=after.solution,
        workload=after.workload,
        seq_len=seq_len,
        change=_change(before, after, ratio, threshold),
        before=before,
        after=after,
        ratio=ratio,
    )


def _change(before: Cell, after: Cell, ratio: float | None, threshold: float) -> Change:
    passed = (before.status is Status.PASSED, after.status is Status.PASSED)
    if passed == (True, False):
        return Change.LOST
    if passed == (False, True):
        return Change.MENDED
    if ratio is None:
        return Change.PASSED if all(passed) else Change.NOT_COMPARED
    # Symmetrical: 5% slower and the way back count alike.
    if 1 / (1 + threshold) <= ratio <= 1 + threshold:
        return Change.SAME
    intervals = [median_interval(cell.repeat_latencies_ms) for cell in (before, after)]
    if all(intervals) and intervals[0].overlaps(intervals[1]):  # type: ignore[union-attr,arg-type]
        return Change.NOISE
    return Change.REGRESSION if ratio > 1 else Change.GAIN


def _ratio(before: Cell, after: Cell) -> float | None:
    if before.status is not Status.PASSED or after.status is not Status.PASSED:
        return None
    pairs = ((after.latency_ms, before.latency_ms), (before.speedup, after.speedup))
    for one, other in pairs:
        if one and other and math.isfinite(one) and math.isfinite(other):
            return one / other
    return None


def _gpu(record: RunRecord) -> str | None:
    gpu = record.environment.gpu
    return gpu.name if gpu else None


def _dataset(record: RunRecord) -> tuple[str, str, str | None]:
    info = record.dataset
    return info.kind, info.suite, info.hash and info.hash[:12]


def _timer(record: RunRecord) -> str | None:
    """Version and kind of the timer. What a record says beyond that is wording, or numbers of the profile."""
    return record.timer and record.timer.split(" around ")[0]


def _profile_value(key: str) -> Callable[[RunRecord], object]:
    return lambda record: getattr(record.profile, key)


MUST_AGREE: dict[str, Callable[[RunRecord], object]] = {
    "GPU": _gpu,
    "definition": lambda record: record.definition.name,
    "dataset": _dataset,
    **{
        f"{key} of the profile": _profile_value(key)
        for key in Profile.model_fields
        if key != "summary"
    },
    "timer": _timer,
    "flashinfer-bench version": lambda r: r.environment.versions.get("flashinfer-bench"),
}
"""What must be alike for numbers of two records to be set side by side, and how to get it."""


def _said(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(str(part) for part in value if part)
    return "none" if value is None else str(value)
