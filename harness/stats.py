"""Statistics of a run record: means, best per workload, ratios between solutions, ranking.

Pure functions. A cell has a speedup only when it passed; a failed, missing or skipped cell enters
no mean, neither as 0 nor as 1. Statistics of a solution that lacks cells carry their count, and two
solutions are compared on the workloads that both passed.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from statistics import fmean

from harness.noise import Interval, median_interval
from harness.record import RunRecord, Status, WorkloadInfo

SMALL_MAX_TOKENS = 901
"""A small batch has at most this many tokens, as in the documented comparison."""
LARGE_ABOVE_TOKENS = 10_000
"""A large batch has more than this many tokens."""
BUCKET_UPPER_EDGES = (32, 128, 1024, 10_000)
"""Inclusive upper edges of the batch-size buckets; the last bucket is open."""
CLOSE = 0.05
"""Averages that differ by less than this share are called close."""


def rounded(value: float, decimals: int = 2) -> Decimal:
    """`value` as it is displayed: rounded half up in decimal.

    Twelve significant digits are taken first, so that the mean of 3.61 and 3.84 is 3.725 and not
    3.7249999999999996.
    """
    step = Decimal(1).scaleb(-decimals)
    return Decimal(f"{value:.12g}").quantize(step, rounding=ROUND_HALF_UP)


@dataclass(frozen=True)
class Mean:
    """Arithmetic mean over the `count` cells of `total` that have a speedup; None when none has."""

    value: float | None
    count: int
    total: int

    @property
    def complete(self) -> bool:
        """Whether no cell is lacking."""
        return self.count == self.total


@dataclass(frozen=True)
class SolutionStats:
    """Speedups of one solution over the reference."""

    solution: str
    average: Mean
    small: Mean
    """T <= SMALL_MAX_TOKENS."""
    large: Mean
    """T > LARGE_ABOVE_TOKENS."""
    min: float | None
    max: float | None


@dataclass(frozen=True)
class Best:
    """The fastest solutions on one workload; several when their speedups are displayed alike."""

    workload: str
    winners: tuple[str, ...]
    speedup: float

    @property
    def tie(self) -> bool:
        """Whether several solutions share the best."""
        return len(self.winners) > 1


@dataclass(frozen=True)
class Ratio:
    """Speedup of one solution / speedup of another on one workload."""

    value: float
    workload: str


@dataclass(frozen=True)
class Comparison:
    """One solution against another, on the workloads that both passed."""

    solution: str
    other: str
    mean_of_ratios: float
    """Mean over workloads of speedup(solution) / speedup(other)."""
    ratio_of_averages: float
    """Mean speedup(solution) / mean speedup(other)."""
    ratios: tuple[Ratio, ...]
    """In the order of the workloads."""
    total: int
    """Workloads that were asked for."""

    @property
    def lowest(self) -> Ratio:
        """The smallest ratio; the first one of equals."""
        return min(self.ratios, key=lambda ratio: ratio.value)

    @property
    def highest(self) -> Ratio:
        """The largest ratio; the first one of equals."""
        return max(self.ratios, key=lambda ratio: ratio.value)


@dataclass(frozen=True)
class Bucket:
    """Workloads of similar size."""

    workloads: tuple[WorkloadInfo, ...]

    @property
    def label(self) -> str:
        """The range of T that is there, not the bucket's edges: 'T=52-80' or 'T=901'."""
        low, high = self.workloads[0].seq_len, self.workloads[-1].seq_len
        return f"T={low}" if low == high else f"T={low}-{high}"

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the workloads."""
        return tuple(workload.id for workload in self.workloads)


@dataclass(frozen=True)
class Rank:
    """One solution's place."""

    solution: str
    position: int | None
    """From 1; equal where averages are displayed alike. None: lacks workloads that others
    passed."""
    average: Mean
    wins: int
    """Workloads it is best on alone."""
    ties: int
    """Workloads it is best on together with others."""


@dataclass(frozen=True)
class Ranking:
    """Solutions by mean speedup, the unranked last."""

    entries: tuple[Rank, ...]
    workloads: tuple[str, ...]
    """The averages of ranked solutions are over these."""
    interrupted: bool
    """The run was interrupted, and only workloads that every solution finished count."""
    common_only: bool
    """No solution passed everything that any other passed, so only workloads that all passed
    count."""

    @property
    def ranked(self) -> tuple[Rank, ...]:
        """Entries with a position."""
        return tuple(entry for entry in self.entries if entry.position is not None)


def speedups(record: RunRecord, solution: str) -> dict[str, float]:
    """Speedup by workload id, in the record's order, for the cells that passed and were timed."""
    found = {
        cell.workload: cell.speedup
        for cell in record.cells
        if cell.solution == solution
        and cell.status is Status.PASSED
        and cell.speedup is not None
        and math.isfinite(cell.speedup)
        and cell.speedup > 0
    }
    return {
        workload.id: found[workload.id] for workload in by_tokens(record) if workload.id in found
    }


def by_tokens(record: RunRecord) -> list[WorkloadInfo]:
    """Workloads by number of tokens; equal ones stay in the record's order."""
    return sorted(record.workloads, key=lambda workload: workload.seq_len)


def mean_speedup(record: RunRecord, solution: str, workloads: Iterable[str]) -> Mean:
    """Mean speedup over those of `workloads` (ids) that the solution passed."""
    ids = list(workloads)
    values = speedups(record, solution)
    there = [values[workload] for workload in ids if workload in values]
    return Mean(fmean(there) if there else None, len(there), len(ids))


def solution_stats(record: RunRecord, solution: str) -> SolutionStats:
    """Average, small-batch and large-batch mean, minimum and maximum of one solution."""
    values = speedups(record, solution).values()
    return SolutionStats(
        solution=solution,
        average=mean_speedup(record, solution, workload_ids(record)),
        small=mean_speedup(record, solution, workload_ids(record, is_small)),
        large=mean_speedup(record, solution, workload_ids(record, is_large)),
        min=min(values, default=None),
        max=max(values, default=None),
    )


def is_small(workload: WorkloadInfo) -> bool:
    """T <= 901."""
    return workload.seq_len <= SMALL_MAX_TOKENS


def is_large(workload: WorkloadInfo) -> bool:
    """T > 10000."""
    return workload.seq_len > LARGE_ABOVE_TOKENS


def workload_ids(
    record: RunRecord, keep: Callable[[WorkloadInfo], bool] = lambda _: True
) -> tuple[str, ...]:
    """Ids of the workloads that `keep` accepts, by number of tokens."""
    return tuple(workload.id for workload in by_tokens(record) if keep(workload))


def best_on(record: RunRecord, workload: str) -> Best | None:
    """The best solutions on one workload; None when no solution passed it.

    Ties are decided on the speedups as displayed, with two decimals: a smaller difference is not
    one that is shown. Where latencies were measured repeatedly, a solution whose interval overlaps
    that of the fastest ties too: noise may explain the difference.
    """
    values = {
        solution.name: speed
        for solution in record.solutions
        if (speed := speedups(record, solution.name).get(workload)) is not None
    }
    if not values:
        return None
    fastest = max(values, key=lambda name: values[name])
    top = latency_interval(record, fastest, workload)

    def ties(name: str, speed: float) -> bool:
        if rounded(speed) == rounded(values[fastest]):
            return True
        mine = latency_interval(record, name, workload)
        return mine is not None and top is not None and mine.overlaps(top)

    winners = tuple(name for name, speed in values.items() if ties(name, speed))
    return Best(workload, winners, values[fastest])


def latency_interval(record: RunRecord, solution: str, workload: str) -> Interval | None:
    """Interval of the median latency in ms; None where it was not measured often enough."""
    return median_interval(record.cell(solution, workload).repeat_latencies_ms)


def comparable(covered: Mapping[str, set[str]]) -> tuple[str, ...]:
    """Those names that cover everything which any of them covers.

    Means over different workloads say nothing about each other: passing only small batches would
    look fast.
    """
    union = set().union(*covered.values())
    return tuple(name for name, workloads in covered.items() if union and workloads == union)


def leaders(record: RunRecord, workloads: Iterable[str]) -> tuple[str, ...]:
    """The solutions with the highest mean speedup over `workloads`, several when displayed alike.

    Only solutions that passed all of these workloads which any other passed; empty when there is
    none.
    """
    ids = set(workloads)
    covered = {s.name: ids & set(speedups(record, s.name)) for s in record.solutions}
    names = comparable(covered)
    if record.partial and len(names) < sum(map(bool, covered.values())):
        return ()  # an interruption, not a failure, may be why a solution lacks a workload
    values = {
        name: fmean(v for w, v in speedups(record, name).items() if w in ids) for name in names
    }
    return tuple(
        name
        for name in names
        if rounded(values[name]) == max(rounded(value) for value in values.values())
    )


def compare(
    record: RunRecord, solution: str, other: str, workloads: Iterable[str] | None = None
) -> Comparison | None:
    """`solution` against `other` on `workloads` (all by default); None when they have none in
    common."""
    ids = workload_ids(record) if workloads is None else tuple(workloads)
    mine, theirs = speedups(record, solution), speedups(record, other)
    common = [workload for workload in ids if workload in mine and workload in theirs]
    if not common:
        return None
    ratios = tuple(Ratio(mine[workload] / theirs[workload], workload) for workload in common)
    return Comparison(
        solution=solution,
        other=other,
        mean_of_ratios=fmean(ratio.value for ratio in ratios),
        ratio_of_averages=fmean(mine[w] for w in common) / fmean(theirs[w] for w in common),
        ratios=ratios,
        total=len(ids),
    )


def buckets(record: RunRecord) -> tuple[Bucket, ...]:
    """The workloads by batch size, in the fixed BUCKET_UPPER_EDGES; empty buckets are left out."""
    grouped: dict[int, list[WorkloadInfo]] = {}
    for workload in by_tokens(record):
        index = sum(workload.seq_len > edge for edge in BUCKET_UPPER_EDGES)
        grouped.setdefault(index, []).append(workload)
    return tuple(Bucket(tuple(group)) for group in grouped.values())


def ranking(record: RunRecord) -> Ranking:
    """Rank the solutions by mean speedup.

    A solution that lacks a workload which another passed gets no position (see `comparable`). When
    that leaves none, the solutions that passed anything are ranked on the workloads that all of
    them passed. In an interrupted run only workloads that every solution finished count.
    """
    names = [solution.name for solution in record.solutions]
    finished = _finished(record)
    passed = {name: set(speedups(record, name)) & finished for name in names}
    anyone = set().union(*passed.values())
    candidates = list(comparable(passed))
    base, common_only = anyone, False
    if anyone and not candidates:
        some = [name for name in names if passed[name]]
        base, common_only = set.intersection(*(passed[name] for name in some)), True
        candidates = some if base else []
    ids = workload_ids(record, lambda workload: workload.id in base)

    winners = [best for workload in workload_ids(record) if (best := best_on(record, workload))]

    def entry(name: str, position: int | None, average: Mean) -> Rank:
        mine = [best for best in winners if name in best.winners]
        ties = sum(best.tie for best in mine)
        return Rank(name, position, average, len(mine) - ties, ties)

    averages = {name: mean_speedup(record, name, ids) for name in candidates}
    shown = {name: rounded(mean.value) for name, mean in averages.items() if mean.value is not None}
    order = sorted(shown, key=lambda name: -(averages[name].value or 0.0))
    ranked = [
        entry(name, 1 + sum(value > shown[name] for value in shown.values()), averages[name])
        for name in order
    ]
    others = [
        entry(name, None, mean_speedup(record, name, workload_ids(record)))
        for name in names
        if name not in shown
    ]
    interrupted = len(finished) < len(record.workloads)
    return Ranking(tuple(ranked + others), ids, interrupted, common_only)


def _finished(record: RunRecord) -> set[str]:
    """All workloads, or of an interrupted run those that every solution finished.

    Solutions of which nothing came back are left aside.
    """
    every = {workload.id for workload in record.workloads}
    if not record.partial:
        return every
    by_solution: dict[str, set[str]] = {}
    for cell in record.cells:
        if cell.status is not Status.MISSING:
            by_solution.setdefault(cell.solution, set()).add(cell.workload)
    return every.intersection(*by_solution.values()) if by_solution else set()
