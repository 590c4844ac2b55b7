"""What a report shows, as plain typed data without any markup.

Markdown, and any other format, is made from a `Report`; harness.report.view builds one from a run record.
"""

from dataclasses import dataclass
from typing import Literal

from harness.noise import Interval
from harness.record import SolutionInfo, Status
from harness.report.claims import CheckedClaim
from harness.report.verification import VerificationView
from harness.roofline import Floor
from harness.stats import Comparison, Mean, Rank


@dataclass(frozen=True)
class CellView:
    """One solution on one workload."""

    status: Status
    speedup: float | None
    best: bool
    """Shares the best speedup of the workload, among several solutions."""
    latency_us: float | None
    interval_us: Interval | None
    """Of the median over repetitions; None where there were too few."""
    floor_ratio: float | None
    matched_ratio: float | None
    max_abs_error: float | None
    max_rel_error: float | None
    reason: str | None
    log_tail: str | None


@dataclass(frozen=True)
class RowView:
    """One workload."""

    id: str
    short_id: str
    seq_len: int
    local_expert_offset: int
    cells: tuple[CellView, ...]
    """In the order of the solutions."""
    winners: tuple[str, ...]
    """Labels of the best solutions; empty when none has a speedup."""
    floor: Floor | None


@dataclass(frozen=True)
class SummaryRow:
    """One statistic over all solutions."""

    name: str
    values: tuple[Mean, ...]
    """A mean, an extreme or a median, with its coverage, in the order of the solutions."""
    best: tuple[bool, ...]
    """Extremes are never marked; a ratio to the floor is better when lower."""


@dataclass(frozen=True)
class Correctness:
    """How far one solution was from the reference, over all its cells."""

    label: str
    passed: int
    total: int
    verdict: Literal["PASS", "FAIL", "SKIPPED", "INCOMPLETE"]
    """INCOMPLETE: nothing failed, but cells are missing."""
    matched_ratio: float | None
    """The lowest."""
    max_abs_error: float | None
    max_rel_error: float | None


@dataclass(frozen=True)
class ComparisonRow:
    """The best solution against another."""

    other: str
    """Label."""
    comparison: Comparison
    lowest_at: str
    highest_at: str


@dataclass(frozen=True)
class BucketView:
    """The workloads of one batch-size bucket."""

    label: str
    size: int
    sentence: str


@dataclass(frozen=True)
class RankRow:
    """One line of the ranking."""

    label: str
    rank: Rank


@dataclass(frozen=True)
class Failure:
    """Cells of one solution that ended alike."""

    label: str
    status: Status
    workloads: tuple[str, ...]
    """Short ids."""
    total: int
    """Workloads that were asked for."""
    reason: str | None
    matched_ratio: float | None
    max_abs_error: float | None
    max_rel_error: float | None
    log_tail: str | None
    """That of the first workload which has one."""
    log_workload: str | None


@dataclass(frozen=True)
class ClaimsView:
    """The statements of a transcribed document."""

    sentence: str
    confirmed: int
    contradicted: tuple[CheckedClaim, ...]
    not_checkable: tuple[CheckedClaim, ...]


@dataclass(frozen=True)
class Report:
    """Everything a report shows."""

    title: str
    partial: str | None
    """What is missing from an interrupted run."""
    no_speed: str | None
    """Why there are no speedups."""
    gpu: str
    definition: str
    tolerance: str
    config: str
    dataset: str
    timer: str | None
    benchmark_command: list[str]
    """The first one; empty when none ran."""
    batches: int
    command: list[str]
    """The command that made the record."""
    solutions: tuple[SolutionInfo, ...]
    labels: tuple[str, ...]
    workload_heading: str
    rows: tuple[RowView, ...]
    pass_sentence: str
    correctness_only: bool
    """The CPU backend: no speed exists, whatever the cells say."""
    summary: tuple[SummaryRow, ...]
    best: str | None
    """Label of the solution with the highest average."""
    comparisons: tuple[ComparisonRow, ...]
    buckets: tuple[BucketView, ...]
    ranking_line: str | None
    ranks: tuple[RankRow, ...]
    ranking_sentences: tuple[str, ...]
    baseline_sentences: tuple[str, ...]
    ceilings: str | None
    floor_sentences: tuple[str, ...]
    correctness: tuple[Correctness, ...]
    failures: tuple[Failure, ...]
    notes: tuple[tuple[str, str], ...]
    """Label and free markdown of the solutions that have notes."""
    warnings: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    claims: ClaimsView | None
    run_id: str
    reproduce: list[str]
    checkout: str | None
    """The line that gets the sources back, if one does."""
    sources_sentence: str | None
    """What identifies the sources where the commit may not."""
    real_dataset: bool
    required_matched_ratio: float
    repeats: int
    verification: VerificationView | None
    resumptions: tuple[str, ...]
    """When and how an interrupted run was taken up again."""

    @property
    def columns(self) -> tuple[tuple[str, SolutionInfo], ...]:
        """Label and solution, in column order."""
        return tuple(zip(self.labels, self.solutions, strict=True))

    @property
    def has_speed(self) -> bool:
        """Whether any cell has a speedup."""
        return any(cell.speedup is not None for row in self.rows for cell in row.cells)

    @property
    def has_latency(self) -> bool:
        """Whether any cell has a latency."""
        return any(cell.latency_us is not None for row in self.rows for cell in row.cells)

    @property
    def has_intervals(self) -> bool:
        """Whether any latency was measured often enough for an interval."""
        return any(cell.interval_us for row in self.rows for cell in row.cells)

    @property
    def has_floor(self) -> bool:
        """Whether any workload has a floor."""
        return any(row.floor for row in self.rows)

    @property
    def has_matched_ratio(self) -> bool:
        """Whether any cell has a matched ratio."""
        return any(cell.matched_ratio is not None for row in self.rows for cell in row.cells)
