"""Cells that took longer than the same solution took on a larger workload: a sign of noise in a single measurement."""

from dataclasses import dataclass

from harness.grid import grid_of
from harness.record import RunRecord, Status, WorkloadInfo

LONGER = 1.5
"""Ratio of the two latencies from which on it is said."""


@dataclass(frozen=True)
class Outlier:
    """One cell, and the quickest one of the same solution with at least as much to do."""

    solution: str
    workload: str
    latency_us: float
    larger: str
    """A workload with no fewer tokens, local pairs and active experts."""
    larger_latency_us: float

    @property
    def ratio(self) -> float:
        """Above 1: the smaller workload took longer."""
        return self.latency_us / self.larger_latency_us


def outliers(record: RunRecord) -> list[Outlier]:
    """The cells that took LONGER times as long as one with more to do, the most striking first."""
    timed = {
        key: cell.latency_ms * 1e3
        for key, cell in grid_of(record).items()
        if cell.status is Status.PASSED and cell.latency_ms
    }
    workloads = {workload.id: workload for workload in record.workloads}
    found = []
    for (solution, smaller), latency in timed.items():
        larger = [
            Outlier(solution, smaller, latency, other, timed[solution, other])
            for other in workloads
            if (solution, other) in timed and _no_less(workloads[other], workloads[smaller])
        ]
        most = max(larger, key=lambda one: one.ratio, default=None)
        if most and most.ratio >= LONGER:
            found.append(most)
    return sorted(found, key=lambda one: -one.ratio)


def _no_less(larger: WorkloadInfo, smaller: WorkloadInfo) -> bool:
    """Whether a workload has at least as much to do; counts that are not known say nothing."""
    pairs = (
        (larger.seq_len, smaller.seq_len),
        (larger.local_pairs, smaller.local_pairs),
        (larger.active_experts, smaller.active_experts),
    )
    return all(a is not None and b is not None and a >= b for a, b in pairs)
