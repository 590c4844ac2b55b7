"""Two records side by side: what became faster and what slower."""

import math
from dataclasses import dataclass
from enum import Enum
from statistics import fmean

from harness.credible import credible
from harness.errors import HarnessError
from harness.grid import grid_of
from harness.noise import median_interval
from harness.record import Cell, RunRecord, Status
from harness.report.names import Names
from harness.stats import CLOSE

THRESHOLD = CLOSE
"""Slower by more than this share is a regression; single runs on two hosts, or on a busy one, can differ by more."""


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
